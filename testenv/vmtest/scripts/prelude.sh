#!/bin/bash
# What every script of the package starts with: strict mode, and words for the
# things that they all do. From the environment: TARGET_HOST, PORT, IQN, LUN.
set -Eeuo pipefail
trap 'echo "FAILED: status $? of: $BASH_COMMAND" >&2' ERR
trap '[ $? = 0 ] || last_words' EXIT
portal=$TARGET_HOST:$PORT
# Discovery reports the address that the target knows, its own 127.0.0.1; the
# guest routes that to the host.
reported=127.0.0.1:$PORT

step() { echo "== $* (at $(cut -d. -f1 /proc/uptime) s)"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
# last_words is what a script that fails leaves: the host's view of its connections,
# and what the kernel said last.
last_words() {
    echo "-- failed at $(cut -d. -f1 /proc/uptime) s"
    view || :
    dmesg | tail -60
}
view() { iscsiadm -m session 2>&1; }
# until_true COMMAND...: waits for it. What the kernel does by itself (scanning for
# disks, reconnecting) takes its time on a busy machine, so the patience is great.
patience=120
until_true() {
    local limit=$((SECONDS + patience))
    until "$@"; do
        [ "$SECONDS" -lt "$limit" ] || fail "did not come true within $patience s: $*"
        read -rt 0.1 <> <(:) || :
    done
}
# target WORD: the test restarts or kills the target. A host that has not noticed
# yet says that all is well, and fails what it sends by itself (nvme's ioctl, SG_IO):
# wait for what the kernel has said since.
target() { echo "script: the target goes" >/dev/kmsg && host "$1" >/dev/null; }
said() { dmesg | awk -v want="$1" '/script: the target goes/ {n = 0} $0 ~ want {n = 1} END {exit !n}'; }
# refused COMMAND...: the command must fail.
refused() { if "$@" >/tmp/refused 2>&1; then cat /tmp/refused; fail "should have been refused: $*"; fi; }
# same WHAT GOT WANT
same() { [ "$2" = "$3" ] || fail "$1 is '$2', want '$3'"; }

discover() { iscsiadm -m discovery -t sendtargets -p "$portal"; }
setting() { iscsiadm -m node -T "$IQN" -p "$reported" --op update -n "$1" -v "$2"; }
login() { iscsiadm -m node -T "$IQN" -p "$reported" --login && udevadm settle; }
# logout returns when the disks are gone: a link that is still there would pass
# for the next login's
logout() { udevadm settle; iscsiadm -m node -T "$IQN" -p "$reported" --logout; until_true no_disks; }
no_disks() { udevadm settle && ! compgen -G "/dev/disk/by-path/ip-$reported-iscsi-$IQN-*" >/dev/null; }
# source_ports: the ports that the sessions' connections come from
source_ports() { cat /sys/class/iscsi_connection/connection*/local_port 2>/dev/null; }
# logged_in_again PORTS: each session is logged in by a connection that is not from
# one of these ports
logged_in_again() {
    local now sessions
    now=$(source_ports) && sessions=$(cat /sys/class/iscsi_session/session*/state) || return
    ! grep -qxF "$1" <<<"$now" && ! grep -qvx LOGGED_IN <<<"$sessions"
}
# disk LUN: the device of the logical unit
disk() {
    local link="/dev/disk/by-path/ip-$reported-iscsi-$IQN-lun-$1"
    until_true [ -b "$link" ]
    readlink -f "$link"
}
# size_is DEV BYTES, absent DEV: for until_true
size_is() { [ "$(blockdev --getsize64 "$1")" = "$2" ]; }
absent() { [ ! -e "/sys/block/${1##*/}" ] && [ ! -e "$1" ]; }
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
