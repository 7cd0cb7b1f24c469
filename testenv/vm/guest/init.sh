#!/bin/busybox sh
# The guest's first process: sets the machine up, runs /vm/script, tells the
# host how it ended, and switches the machine off.
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p /run/lock/iscsi /run/udev /run/multipath
ln -s /proc/self/fd /dev/fd

# The streams to the host, found by the names that QEMU gave them, which appear
# a while after the driver. The driver is built into some kernels.
modprobe -qa virtio_pci virtio_console
while [ "$(cat /sys/class/virtio-ports/*/name 2>/dev/null | wc -l)" -lt 2 ]; do
    sleep 0.1
done
for port in /sys/class/virtio-ports/*; do
    ln -s "/dev/${port##*/}" "/run/port-$(cat "$port/name")"
done

# ends tells the host the script's status and stops the machine.
ends() {
    echo "exit $1" >/run/port-control
    sync
    echo "guest: script ended with status $1" >/dev/kmsg
    reboot -f
    exec sleep 1000
}

modprobe -a virtio_net iscsi_tcp sd_mod sg nvme_tcp dm_multipath || ends 125
# These are built in, or not there, depending on the kernel.
for m in virtio_rng af_packet ext4 crc32c_intel; do
    modprobe -q $m
done

/usr/lib/systemd/systemd-udevd --daemon 2>/dev/kmsg

# Card n has the network 10.0.(2+n).0/24 with the host at .2. The loopback
# interface stays without its address: 127.0.0.0/8 is the host too, so that an
# address that the target reports in discovery works as it is.
for f in rp_filter; do
    echo 0 >/proc/sys/net/ipv4/conf/all/$f
    echo 0 >/proc/sys/net/ipv4/conf/default/$f
done
n=0
for card in /sys/class/net/e*; do
    card=${card##*/}
    echo 1 >/proc/sys/net/ipv4/conf/"$card"/route_localnet
    echo 0 >/proc/sys/net/ipv4/conf/"$card"/rp_filter
    # Addresses are settled here; the host's router has nothing to add.
    echo 0 >/proc/sys/net/ipv6/conf/"$card"/accept_ra
    echo 0 >/proc/sys/net/ipv6/conf/"$card"/accept_dad
    ip addr add "10.0.$((2 + n)).15/24" dev "$card"
    [ $n != 0 ] || ip -6 addr add fec0::15/64 dev "$card"
    ip link set "$card" up
    [ $n != 0 ] || ip route add 127.0.0.0/8 via 10.0.2.2 dev "$card" src 10.0.2.15
    n=$((n + 1))
done
# The user-mode network offers no window scaling and looks at a closed window
# only every 5 s: never close it.
echo 8388608 >/proc/sys/net/core/rmem_max
echo '4096 8388608 8388608' >/proc/sys/net/ipv4/tcp_rmem

mkdir -p /etc/iscsi
[ -e /etc/iscsi/initiatorname.iscsi ] || echo "InitiatorName=${INITIATOR:-iqn.2026-01.dev.blockd:guest}" >/etc/iscsi/initiatorname.iscsi
# The guest has no systemd to start the daemon with, and large buffers (above).
sed -i -e 's|^iscsid.startup *=.*|iscsid.startup = /usr/sbin/iscsid|' /etc/iscsi/iscsid.conf
echo 'node.conn[0].tcp.window_size = 8388608' >>/etc/iscsi/iscsid.conf
# A guest that gets a tenth of a processor, and waits for a target that does too and
# was just killed, is not hung.
echo 120 >/proc/sys/kernel/hung_task_timeout_secs

echo "ready $(cut -d' ' -f1 /proc/uptime)" >/run/port-control
# shellcheck disable=SC1091
. /vm/env
cd /root || ends 125
/vm/script >/run/port-output 2>&1 </dev/null
ends $?
