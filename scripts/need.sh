#!/bin/bash
# need.sh SET...: makes sure that what the sets of tools need is installed.
# Run as root it installs the Debian packages that are missing; otherwise it
# prints the one line that does, and fails.
set -euo pipefail

# A line is: set, command to look for, package that has it. A path is looked
# for as a file, with the shell's wildcards.
table='
race        gcc                             gcc
race        /usr/include/stdlib.h           libc6-dev
generate    protoc                          protobuf-compiler
generate    git                             git
generate    clang-14                        clang-14
generate    llvm-strip-14                   llvm-14
conformance iscsi-test-cu                   libiscsi-bin
conformance qemu-img                        qemu-utils
conformance /usr/lib/*/qemu/block-iscsi.so  qemu-block-extra
vm          qemu-system-x86_64              qemu-system-x86
vm          busybox                         busybox
vm          iscsid                          open-iscsi
vm          nvme                            nvme-cli
vm          multipathd                      multipath-tools
vm          fio                             fio
vm          mkfs.ext4                       e2fsprogs
vm          mkfs.xfs                        xfsprogs
vm          sg_persist                      sg3-utils
vm          blkdiscard                      util-linux
vm          udevadm                         udev
vm          depmod                          kmod
vm          ldd                             libc-bin
vm          dpkg-deb                        dpkg
cluster     ip                              iproute2
cluster     xz                              xz-utils
bench       fio                             fio
bench       tgtd                            tgt
bench       iscsi-perf                      libiscsi-bin
bench       qemu-img                        qemu-utils
bench       /usr/lib/*/qemu/block-iscsi.so  qemu-block-extra
'

PATH=$PATH:/usr/sbin:/sbin
missing=()
for set in "$@"; do
    if [ "$set" = build ]; then
        command -v go >/dev/null || { echo "need.sh: Go is not in the PATH; see https://go.dev/dl" >&2; exit 1; }
        continue
    fi
    known=
    while read -r in want package; do
        [ "$in" = "$set" ] || continue
        known=1
        case $want in
        /*) compgen -G "$want" >/dev/null || missing+=("$package") ;;
        *) command -v "$want" >/dev/null || missing+=("$package") ;;
        esac
    done <<<"$table"
    [ -n "$known" ] || { echo "need.sh: no set of tools is called $set" >&2; exit 2; }
done
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "need.sh: missing for '$*'; install it with this line, then try again:" >&2
    echo "    sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 1
fi
echo "need.sh: installing ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Packages that bring a daemon must not start it: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
install=(apt-get install -y -q --no-install-recommends "${missing[@]}")
# The lists may be absent or old; refresh them only when they are.
"${install[@]}" >/dev/null 2>&1 || { apt-get update -q >/dev/null && "${install[@]}" >/dev/null; }
