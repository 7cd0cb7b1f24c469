# Discovery, connect in several shapes, verified I/O, discard, file systems,
# growing the namespace in use, and what nvme-cli asks for.
step 'discovery on both ports'
nvme discover -t tcp -a 127.0.0.1 -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" | tee /tmp/log
grep -q "subnqn: *$NQN" /tmp/log || fail 'the subsystem is not in the discovery log'
nvme discover -t tcp -a 127.0.0.1 -s "$NVME_PORT" --hostnqn "$hostnqn" >/tmp/log2
grep -q "trsvcid: *$NVME_PORT" /tmp/log2 || fail 'the port is not in the discovery log'

step 'plain, several queues'
nvme_connect -i 4
dev=$(nvme_disk "$UUID")
same size "$(blockdev --getsize64 "$dev")" "$SIZE"
same 'block size' "$(blockdev --getss "$dev")" "$BLOCK_SIZE"
verified "$dev" 8m
verified "$dev" 16m --bs=256k
nvme_disconnect

for args in '-g' '-G' '-g -G' '-d' '-i 2 -Q 16 -g -G'; do
    step "connect $args"
    # shellcheck disable=SC2086
    nvme_connect $args
    dev=$(nvme_disk "$UUID")
    verified "$dev" 2m
    verified "$dev" 8m --bs=512k --iodepth=4
    nvme_disconnect
done

step 'what nvme-cli asks for'
nvme_connect -i 2
dev=$(nvme_disk "$UUID")
ctrl=/dev/$(basename "$(readlink -f /sys/class/nvme/nvme*)" | head -1)
nvme id-ctrl "$ctrl" | grep -E '^(vid|sn|mn|cntlid|mdts|ver|oncs|fuses|kas|subnqn)' || fail id-ctrl
nvme id-ns "$dev" | grep -E '^(nsze|nmic|nguid|eui64|lbaf)' || fail id-ns
nvme ns-descs "$dev"
nvme list-subsys
nvme list-ns "$ctrl"
nvme ana-log "$ctrl" | head -20
nvme smart-log "$ctrl" | head -5
nvme error-log "$ctrl" -e 4 | head -5
nvme effects-log "$ctrl" | head -30
nvme get-feature "$ctrl" -f 7 -H
nvme get-feature "$ctrl" -f 0xf -H || :
bs=$BLOCK_SIZE
dd if=/dev/urandom of=/tmp/a bs="$bs" count=8 2>/dev/null
nvme write "$dev" -s 100 -c 7 -z $((8 * bs)) -d /tmp/a
nvme compare "$dev" -s 100 -c 7 -z $((8 * bs)) -d /tmp/a
dd if=/dev/urandom of=/tmp/b bs="$bs" count=8 2>/dev/null
refused nvme compare "$dev" -s 100 -c 7 -z $((8 * bs)) -d /tmp/b
nvme verify "$dev" -s 100 -c 7
nvme write-zeroes "$dev" -s 104 -c 3
nvme read "$dev" -s 100 -c 7 -z $((8 * bs)) -d /tmp/c
dd if=/dev/zero bs="$bs" count=4 2>/dev/null >/tmp/zero
{ dd if=/tmp/a bs="$bs" count=4 2>/dev/null; cat /tmp/zero; } | cmp - /tmp/c || fail 'write-zeroes'
nvme copy "$dev" --sdlba=200 --blocks=7 --slbs=100
nvme read "$dev" -s 200 -c 7 -z $((8 * bs)) -d /tmp/d
cmp /tmp/c /tmp/d || fail copy
nvme flush "$dev" -n "$NSID"
nvme resv-report "$dev" -n "$NSID" -e | head -8

step 'discard'
dd if=/dev/urandom of="$dev" bs=1M count=4 oflag=direct 2>/dev/null
blkdiscard -o 0 -l $((4 << 20)) "$dev"
cmp -n $((4 << 20)) "$dev" /dev/zero || fail 'discarded blocks do not read as zeroes'

step 'file systems, growing in use'
mkfs.ext4 -q "$dev"
mkdir -p /mnt
mount "$dev" /mnt
verified /mnt/file 16m
host resize "$GROWN" >/dev/null
grown() { [ "$(blockdev --getsize64 "$dev")" = "$GROWN" ]; }
until_true 20 grown
resize2fs "$dev" >/dev/null 2>&1
verified /mnt/file2 16m
umount /mnt
e2fsck -fn "$dev" >/dev/null 2>&1 || fail e2fsck
nvme_disconnect
