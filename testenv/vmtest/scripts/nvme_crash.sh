# fio writes with verification while the target is killed and started again,
# KILLS times: on the bare namespace UUID, and on a file of an ext4 on the disk
# FS_UUID that is synced all the time.
#
# Linux's nvme_tcp sends from within the writer's system call and does not say
# MSG_NOSIGNAL: a writer that meets a connection just closed gets SIGPIPE, though
# its write is sent again and succeeds. fio would die of it.
trap '' PIPE
nvme_connect -i 2 -l 300 -c 1
raw=$(nvme_disk "$UUID")
fs=$(nvme_disk "$FS_UUID")
mkfs.ext4 -q "$fs"
mount "$fs" /mnt

# writes: how many writes the disks have completed
writes() { awk '{n += $5} END {print n}' "/sys/block/${raw##*/}/stat" "/sys/block/${fs##*/}/stat"; }

kills=0
round=0
while [ "$kills" -lt "$KILLS" ]; do
    round=$((round + 1))
    step "round $round, $kills kills so far"
    fio --output-format=terse --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --do_verify=1 \
        --randseed="$round" \
        --name=raw --filename="$raw" --size=40m --rw=randwrite --bssplit=4k/70:16k/20:128k/10 --iodepth=16 \
        --name=file --filename=/mnt/file --size=6m --rw=randwrite --bs=4k --iodepth=4 --fdatasync=4 --fallocate=none \
        >/tmp/fio.out 2>&1 &
    fio=$!
    while [ "$kills" -lt "$KILLS" ] && kill -0 "$fio" 2>/dev/null; do
        # Only a target that is being written to is worth killing.
        before=$(writes)
        while kill -0 "$fio" 2>/dev/null && [ "$(writes)" -lt $((before + 100)) ]; do
            read -rt 0.05 <> <(:) || :
        done
        kill -0 "$fio" 2>/dev/null || break
        host crash >/dev/null
        if kill -0 "$fio" 2>/dev/null; then kills=$((kills + 1)); fi
    done
    wait "$fio" || { cut -c1-300 /tmp/fio.out; fail "round $round: fio"; }
done

step 'the filesystem after it all'
sha256sum /mnt/file >/tmp/sums
umount /mnt
e2fsck -fn "$fs" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'e2fsck found errors'; }
mount "$fs" /mnt
sha256sum -c /tmp/sums
umount /mnt
nvme_disconnect
echo "kills survived: $kills"
