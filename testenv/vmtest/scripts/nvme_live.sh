# What the host is told while it is connected. In the beginning blockd does
# not know it; the test's calls are blockctl's: `host ctl WORDS...`. FIRST and SECOND
# are UUIDs.
udevadm monitor --kernel --property --subsystem-match=nvme >/tmp/uevents &
monitor=$!
# told EVENT: a uevent with that property has come
told() { grep -q "^$1\$" /tmp/uevents; }
until_true grep -q '^KERNEL - ' /tmp/uevents # it listens

step 'persistent discovery, and nothing to see'
patient nvme discover -t tcp -a 127.0.0.1 -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" --persistent -k 30 | tee /tmp/log
refused grep -q "$NQN" /tmp/log
for c in /sys/class/nvme/nvme*; do discovery=${c##*/}; done
same 'the NQN of the discovery controller' "$(cat "/sys/class/nvme/$discovery/subsysnqn")" nqn.2014-08.org.nvmexpress.discovery
refused nvme_connect

step 'it becomes known, which is announced'
host ctl host add guest --nqn "$hostnqn" >/dev/null
until_true told NVME_AEN=0x70f002
nvme discover -d "$discovery" -t tcp -a 127.0.0.1 -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" | tee /tmp/log
grep -q "subnqn: *$NQN" /tmp/log || fail 'the discovery log has not changed'
nvme_connect
ctrl=$(controllers)

step 'the first namespace'
host ctl map first guest >/dev/null
first=$(nvme_disk "$FIRST")
verified "$first" 1m

step 'a second namespace comes and goes while the first is in use'
mkfs.ext4 -q "$first"
mount "$first" /mnt
host ctl map second guest >/dev/null
second=$(nvme_disk "$SECOND")
verified "$second" 1m
verified /mnt/a 2m
udevadm settle
host ctl unmap second guest >/dev/null
until_true absent "$second"
verified /mnt/b 2m
host ctl map second guest >/dev/null
same 'its name after it came back' "$(nvme_disk "$SECOND")" "$second"

step 'growing in use'
host ctl volume resize first --size "$GROWN" >/dev/null
until_true size_is "$first" "$GROWN"
resize2fs "$first" >/dev/null 2>&1
[ "$(stat -f -c '%b' /mnt)" -gt $((SIZE / 4096)) ] || fail 'ext4 did not grow'
verified /mnt/c 2m
sha256sum /mnt/a /mnt/b /mnt/c >/tmp/sums
umount /mnt
e2fsck -fn "$first" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'e2fsck found errors'; }
mount "$first" /mnt
sha256sum -c /tmp/sums
umount /mnt

step 'no connection was lost on the way'
live "$ctrl" || fail "$ctrl is not live"
live "$discovery" || fail "$discovery is not live"
quiet 'failed to connect queue: 0 ret=388$' # the one that was refused
kill "$monitor"
nvme_disconnect
nvme disconnect -d "$discovery"
