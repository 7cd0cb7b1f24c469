#!/bin/bash
# What every script of the package starts with: strict mode, and words for the
# things that they all do. From the environment: TARGET_HOST, PORT, IQN, LUN.
set -euo pipefail
portal=$TARGET_HOST:$PORT
# Discovery reports the address that the target knows, its own 127.0.0.1; the
# guest routes that to the host.
reported=127.0.0.1:$PORT

step() { echo "== $* (at $(cut -d. -f1 /proc/uptime) s)"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
# refused COMMAND...: the command must fail.
refused() { if "$@" >/tmp/refused 2>&1; then cat /tmp/refused; fail "should have been refused: $*"; fi; }
# same WHAT GOT WANT
same() { [ "$2" = "$3" ] || fail "$1 is '$2', want '$3'"; }

discover() { iscsiadm -m discovery -t sendtargets -p "$portal"; }
setting() { iscsiadm -m node -T "$IQN" -p "$reported" --op update -n "$1" -v "$2"; }
login() { iscsiadm -m node -T "$IQN" -p "$reported" --login && udevadm settle; }
logout() { udevadm settle; iscsiadm -m node -T "$IQN" -p "$reported" --logout && udevadm settle; }
# disk LUN: the device of the logical unit
disk() {
    local n
    for n in $(seq 100); do
        if [ -b "/dev/disk/by-path/ip-$reported-iscsi-$IQN-lun-$1" ]; then
            readlink -f "/dev/disk/by-path/ip-$reported-iscsi-$IQN-lun-$1"
            return
        fi
        udevadm settle
        read -rt 0.1 <> <(:) || :
    done
    fail "no disk for LUN $1: $(ls /dev/disk/by-path 2>&1)"
}
# negotiated NAME: what the session's connection agreed on
negotiated() { iscsiadm -m session -P 2 | sed -n "s/^\s*$1: //p"; }
# verified FILE SIZE ARGS...: fio writes, reads back and compares checksums
verified() {
    local file=$1 size=$2
    shift 2
    fio --name=verified --filename="$file" --size="$size" --direct=1 --ioengine=libaio --iodepth=16 \
        --rw=randwrite --bs=4k --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed="$RANDOM" \
        --output-format=terse --terse-version=3 "$@" >/tmp/fio.out 2>&1 || { cat /tmp/fio.out; fail "fio on $file"; }
}
iscsid
