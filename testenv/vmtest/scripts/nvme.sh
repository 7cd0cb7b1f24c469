# Words for the NVMe/TCP scripts. From the environment: NVME_PORT, DISCOVERY_PORT,
# NQN, NSID, UUID.
modprobe nvme-tcp
mkdir -p /etc/nvme
hostnqn=${HOSTNQN:-nqn.2014-08.org.nvmexpress:uuid:6e1c0f3a-51c5-4a2c-8f0d-0123456789ab}
hostid=6e1c0f3a-51c5-4a2c-8f0d-0123456789ab
echo "$hostnqn" >/etc/nvme/hostnqn
echo "$hostid" >/etc/nvme/hostid

# view is for last_words
view() {
    local c
    for c in /sys/class/nvme/nvme*; do echo "${c##*/}: $(cat "$c"/{state,address} "$c"/nvme*c*n*/ana_state 2>/dev/null | tr '\n' ' ')"; done
}
# patient COMMAND...: an nvme-cli command that makes a connection, again when nobody
# answered. Linux's nvme_tcp sends two SYNs and gives up after 3 s (TCP_SYNCNT 1), which
# a guest on a busy machine can spend standing still; later it reconnects by itself.
patient() {
    local limit=$((SECONDS + patience))
    until "$@" 2>/tmp/connect; do
        cat /tmp/connect >&2
        grep -q 'Connection timed out' /tmp/connect && [ "$SECONDS" -lt "$limit" ] || return 1
    done
}
# nvme_connect ARGS...: with patience (-k), since a busy machine can stop the guest
# for seconds
nvme_connect() { patient nvme connect -t tcp -a 127.0.0.1 -s "$NVME_PORT" -n "$NQN" --hostnqn "$hostnqn" -k 30 "$@" && udevadm settle; }
nvme_disconnect() { udevadm settle; nvme disconnect -n "$NQN" && udevadm settle; }
# nvme_disk UUID [CTRL]: the device of the namespace, the one of controller CTRL
# where each has its own
nvme_disk() { until_true namespace "$@" && echo "$found"; }
# namespace UUID [CTRL]: is it there? found is its device then
namespace() {
    local d
    for d in /sys/block/"${2:-nvme}"*n*; do
        found=/dev/${d##*/}
        if [ "$(cat "$d/uuid" 2>/dev/null)" = "$1" ] && [ -b "$found" ]; then return; fi
    done
    return 1
}
# controllers: the names of the controllers of the NVM subsystem
controllers() {
    local c
    for c in /sys/class/nvme/nvme*; do
        [ "$(cat "$c/subsysnqn" 2>/dev/null)" != "$NQN" ] || echo "${c##*/}"
    done
}
# live CTRL: for until_true
live() { [ "$(cat "/sys/class/nvme/$1/state" 2>/dev/null)" = live ]; }
# back CTRL: it has come back since the target went
back() { said "nvme $1: Successfully reconnected" && live "$1"; }
# quiet [PATTERN]: the kernel saw nothing go wrong but what the pattern allows, and
# what patient got over
quiet() {
    dmesg | grep -E 'nvme|block|I/O error|blk_' |
        grep -E 'error|failed|timeout|timed out|no usable path|abort|reset|invalid|unexpected|corrupt' |
        grep -vE "${1:-^nothing}|failed to connect socket: -110\$" >/tmp/noise || return 0
    cat /tmp/noise
    fail 'dmesg is not clean'
}
