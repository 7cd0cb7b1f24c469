# The life of a disk: found, attached, formatted, filled, discarded, grown
# while mounted, detached.
step discovery
discover | tee /tmp/found
grep -q "^$reported,1 $IQN\$" /tmp/found || fail "discovery does not report $reported and $IQN"

step login
login
dev=$(disk "$LUN")
same "size of $dev" "$(blockdev --getsize64 "$dev")" "$SIZE"
same "logical block size" "$(blockdev --getss "$dev")" "$BLOCK_SIZE"
same "physical block size" "$(blockdev --getpbsz "$dev")" 4096
iscsiadm -m session -P 2 | sed -n '/Negotiated/,$p'

step 'the whole disk, sizes from one block to 1 MiB'
verified "$dev" 2m --bs="$BLOCK_SIZE"
verified "$dev" 32m --bssplit=4k/60:64k/30:512k/5:1m/5
fio --name=seq --filename="$dev" --size=64m --rw=write --bs=1m --direct=1 --ioengine=libaio --iodepth=4 \
    --verify=crc32c --do_verify=1 --output-format=terse >/tmp/fio.out || { cat /tmp/fio.out; fail 'sequential writes'; }

step 'blkdiscard makes zeroes'
blkdiscard "$dev"
cmp -n $((64 << 20)) "$dev" /dev/zero || fail 'the disk is not zero after blkdiscard'
blkdiscard --zeroout --offset 0 --length $((1 << 20)) "$dev"

step ext4
mkfs.ext4 -q "$dev"
mount "$dev" /mnt
verified /mnt/a 32m --fsync=64
verified /mnt/b 8m --direct=0 --fsync=16
fstrim -v /mnt
sha256sum /mnt/a >/tmp/sums

step 'grow it while it is mounted'
host resize "$GROWN" >/dev/null
iscsiadm -m session -R >/dev/null
until_true size_is "$dev" "$GROWN"
resize2fs "$dev" 2>&1 | tail -1
[ "$(stat -f -c '%b' /mnt)" -gt $((SIZE / 4096)) ] || fail 'ext4 did not grow'
sha256sum -c /tmp/sums
umount /mnt
e2fsck -fn "$dev" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'e2fsck found errors'; }

step xfs
if [ "$GROWN" -ge $((300 << 20)) ]; then
    blkdiscard --force "$dev"
    mkfs.xfs -q -f "$dev"
    mount "$dev" /mnt
    verified /mnt/a 32m
    verified /mnt/b 8m --direct=0 --fsync=16
    fstrim -v /mnt
    umount /mnt
    xfs_repair -n "$dev" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'xfs_repair found errors'; }
else
    fail 'xfs needs 300 MiB'
fi

step logout
logout
until_true absent "$dev"
iscsiadm -m node -T "$IQN" --op delete

step 'login again finds the data'
discover >/dev/null
login
dev=$(disk "$LUN")
mount "$dev" /mnt
ls -l /mnt
umount /mnt
logout
