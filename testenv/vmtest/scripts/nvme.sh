# Words for the NVMe/TCP scripts. From the environment: NVME_PORT, DISCOVERY_PORT,
# NQN, NSID, UUID.
modprobe nvme-tcp
mkdir -p /etc/nvme
hostnqn=${HOSTNQN:-nqn.2014-08.org.nvmexpress:uuid:6e1c0f3a-51c5-4a2c-8f0d-0123456789ab}
echo "$hostnqn" >/etc/nvme/hostnqn
echo 6e1c0f3a-51c5-4a2c-8f0d-0123456789ab >/etc/nvme/hostid

# nvme_connect ARGS...
nvme_connect() { nvme connect -t tcp -a 127.0.0.1 -s "$NVME_PORT" -n "$NQN" --hostnqn "$hostnqn" "$@" && udevadm settle; }
nvme_disconnect() { udevadm settle; nvme disconnect -n "$NQN" && udevadm settle; }
# nvme_disk UUID: the device of the namespace
nvme_disk() {
    local n d
    for n in $(seq 100); do
        for d in /sys/block/nvme*n*; do
            if [ -e "$d/uuid" ] && [ "$(cat "$d/uuid")" = "$1" ] && [ -b "/dev/${d##*/}" ]; then
                echo "/dev/${d##*/}"
                return
            fi
        done
        read -rt 0.1 <> <(:) || :
    done
    fail "no namespace with UUID $1: $(ls /sys/block)"
}
# until_true SECONDS COMMAND...
until_true() {
    local n limit=$(($1 * 10))
    shift
    for n in $(seq "$limit"); do
        if "$@"; then return; fi
        read -rt 0.1 <> <(:) || :
    done
    fail "did not come true: $*"
}
