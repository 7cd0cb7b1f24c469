# Words for the NVMe/TCP scripts. From the environment: NVME_PORT, DISCOVERY_PORT,
# NQN, NSID, UUID.
modprobe nvme-tcp
mkdir -p /etc/nvme
hostnqn=${HOSTNQN:-nqn.2014-08.org.nvmexpress:uuid:6e1c0f3a-51c5-4a2c-8f0d-0123456789ab}
hostid=6e1c0f3a-51c5-4a2c-8f0d-0123456789ab
echo "$hostnqn" >/etc/nvme/hostnqn
echo "$hostid" >/etc/nvme/hostid

# nvme_connect ARGS...: with patience (-k), since a busy machine can stop the guest
# for seconds
nvme_connect() { nvme connect -t tcp -a 127.0.0.1 -s "$NVME_PORT" -n "$NQN" --hostnqn "$hostnqn" -k 30 "$@" && udevadm settle; }
nvme_disconnect() { udevadm settle; nvme disconnect -n "$NQN" && udevadm settle; }
# nvme_disk UUID [CTRL]: the device of the namespace, the one of controller CTRL
# where each has its own
nvme_disk() {
    local n d
    for n in $(seq 100); do
        for d in /sys/block/"${2:-nvme}"*n*; do
            if [ -e "$d/uuid" ] && [ "$(cat "$d/uuid")" = "$1" ] && [ -b "/dev/${d##*/}" ]; then
                echo "/dev/${d##*/}"
                return
            fi
        done
        read -rt 0.1 <> <(:) || :
    done
    fail "no namespace with UUID $1: $(ls /sys/block)"
}
# controllers: the names of the controllers of the NVM subsystem
controllers() {
    local c
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat "$c/subsysnqn")" != "$NQN" ] || echo "${c##*/}"
    done
}
# until_true SECONDS COMMAND...
until_true() {
    local n limit=$(($1 * 10))
    shift
    for n in $(seq "$limit"); do
        if "$@"; then return; fi
        read -rt 0.1 <> <(:) || :
    done
    dmesg | tail -20
    fail "did not come true: $*"
}
# live CTRL, size_is DEV BYTES, absent DEV: for until_true
live() { [ "$(cat "/sys/class/nvme/$1/state" 2>/dev/null)" = live ]; }
size_is() { [ "$(blockdev --getsize64 "$1")" = "$2" ]; }
absent() { [ ! -e "/sys/block/${1##*/}" ]; }
# quiet [PATTERN]: the kernel saw nothing go wrong but what the pattern allows
quiet() {
    dmesg | grep -E 'nvme|block|I/O error|blk_' |
        grep -E 'error|failed|timeout|timed out|no usable path|abort|reset|invalid|unexpected|corrupt' |
        grep -vE "${1:-^nothing}" >/tmp/noise || return 0
    cat /tmp/noise
    fail 'dmesg is not clean'
}
