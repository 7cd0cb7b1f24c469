# Discovery, connect in several shapes, verified I/O, discard, a file system, and
# what nvme-cli asks for. SHAPES: options of nvme connect, one shape per word,
# with commas for spaces. FILESYSTEM: ext4 or xfs.
step 'discovery on both ports'
patient nvme discover -t tcp -a 127.0.0.1 -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" | tee /tmp/log
grep -q "subnqn: *$NQN" /tmp/log || fail 'the subsystem is not in the discovery log'
patient nvme discover -t tcp -a 127.0.0.1 -s "$NVME_PORT" --hostnqn "$hostnqn" >/tmp/log2
grep -q "trsvcid: *$NVME_PORT" /tmp/log2 || fail 'the port is not in the discovery log'

for args in $SHAPES; do
    step "connect ${args//,/ }"
    # shellcheck disable=SC2086
    nvme_connect ${args//,/ }
    dev=$(nvme_disk "$UUID")
    verified "$dev" 1m
    verified "$dev" 4m --bs=512k --iodepth=4
    nvme_disconnect
done

step 'connect-all: digests, queues for reading, writing and polling'
patient nvme connect-all -t tcp -a 127.0.0.1 -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" -k 30 -i 2 -W 2 -P 1 -g -G
udevadm settle
dev=$(nvme_disk "$UUID")
ctrl=/dev/$(controllers)
dmesg | grep 'mapped .* queues' | tail -1 | tee /tmp/queues
grep -q 'mapped [1-9]*/[1-9]*/1 ' /tmp/queues || fail 'not the queues that were asked for'
same size "$(blockdev --getsize64 "$dev")" "$SIZE"
same 'block size' "$(blockdev --getss "$dev")" "$BLOCK_SIZE"
same 'write cache' "$(cat "/sys/block/${dev##*/}/queue/write_cache")" 'write through'
verified "$dev" 8m --bssplit=4k/60:64k/30:512k/5:1m/5
fio --name=polled --filename="$dev" --size=1m --rw=randread --bs=4k --direct=1 --ioengine=pvsync2 --hipri \
    --output-format=terse >/tmp/fio.out || { cat /tmp/fio.out; fail 'polled reads'; }

step 'what nvme-cli shows'
nvme id-ctrl "$ctrl" | tee /tmp/id | grep -E '^(vid|sn|mn|cntlid|mdts|ver|oncs|fuses|kas|subnqn)' || fail id-ctrl
grep -q "^subnqn *: *$NQN" /tmp/id || fail 'id-ctrl has another NQN'
nvme id-ns "$dev" | grep -E '^(nsze|nmic|nguid|eui64|lbaf)' || fail id-ns
nvme ns-descs "$dev" | tee /tmp/descs
grep -q "uuid *: *$UUID" /tmp/descs || fail 'ns-descs has no UUID'
nvme list-subsys | tee /tmp/subsys
grep -q "$NQN" /tmp/subsys || fail list-subsys
nvme list-ns "$ctrl" | tee /tmp/ns
grep -qi "$(printf '0x%x' "$NSID")\$" /tmp/ns || fail 'list-ns has not the namespace'
nvme ana-log "$ctrl" | tee /tmp/ana
grep -q optimized /tmp/ana || fail 'ana-log says nothing of optimized'
nvme smart-log "$ctrl" | tee /tmp/smart | grep -E 'critical_warning|host_write_commands|media_errors'
grep -Eq '^host_write_commands[[:space:]]*:[[:space:]]*[1-9]' /tmp/smart || fail 'no writes were counted'
nvme effects-log "$ctrl" -c 0 | tee /tmp/effects
for c in Write Compare 'Dataset Management' Copy 'Reservation Acquire'; do
    grep -q "\[$c *\]" /tmp/effects || fail "effects-log has no $c"
done
nvme supported-log-pages "$ctrl" >/tmp/pages || fail supported-log-pages

step 'features'
for f in 1 2 4 7 0xb 0xf; do nvme get-feature "$ctrl" -f "$f"; done
nvme set-feature "$ctrl" -f 4 -v 0x15e # a temperature threshold, in kelvin
nvme get-feature "$ctrl" -f 4 >/tmp/feature
grep -qi '0x0*15e$' /tmp/feature || { cat /tmp/feature; fail 'the feature has not the value that was set'; }
nvme set-feature "$ctrl" -f 4 -v 0xffff
refused nvme set-feature "$ctrl" -f 0xdd -v 1
nvme error-log "$ctrl" -e 1 | tee /tmp/errors
grep -q 'error_count[[:space:]]*:[[:space:]]*[1-9]' /tmp/errors || fail 'the error is not in the error log'

step 'compare, verify, write-zeroes, copy, flush'
bs=$BLOCK_SIZE
rw() { local op=$1 start=$2 file=$3; nvme "$op" "$dev" -s "$start" -c 7 -z $((8 * bs)) -d "$file"; }
dd if=/dev/urandom of=/tmp/a bs="$bs" count=8 2>/dev/null
dd if=/dev/urandom of=/tmp/b bs="$bs" count=8 2>/dev/null
rw write 100 /tmp/a
rw compare 100 /tmp/a
refused rw compare 100 /tmp/b
grep -qi 'compare' /tmp/refused || { cat /tmp/refused; fail 'refused, but not as a miscompare'; }
nvme verify "$dev" -s 100 -c 7
refused nvme verify "$dev" -s $((SIZE / bs)) -c 0
nvme write-zeroes "$dev" -s 104 -c 3
rw read 100 /tmp/c
{ head -c $((4 * bs)) /tmp/a; head -c $((4 * bs)) /dev/zero; } | cmp - /tmp/c || fail 'write-zeroes'
nvme copy "$dev" --sdlba=200 --blocks=3,3 --slbs=100,104
rw read 200 /tmp/d
cmp /tmp/c /tmp/d || fail copy
nvme flush "$dev" -n "$NSID"
nvme dsm "$dev" -n "$NSID" -d -s 200 -b 8
rw read 200 /tmp/d
head -c $((8 * bs)) /dev/zero | cmp - /tmp/d || fail 'what dsm freed does not read as zeroes'
oncs=$(sed -n 's/^oncs *: *//p' /tmp/id)
if [ $((oncs & 2)) != 0 ]; then
    step 'write uncorrectable'
    rw write 100 /tmp/a
    nvme write-uncor "$dev" -s 102 -c 1
    refused rw read 100 /tmp/c
    refused nvme verify "$dev" -s 100 -c 7
    refused dd if="$dev" of=/dev/null bs="$bs" skip=102 count=1 iflag=direct
    nvme read "$dev" -s 104 -c 3 -z $((4 * bs)) -d /tmp/c
    rw write 100 /tmp/a
    rw compare 100 /tmp/a
fi

step 'blkdiscard'
dd if=/dev/urandom of="$dev" bs=1M count=4 oflag=direct 2>/dev/null
blkdiscard -o 0 -l $((3 << 20)) "$dev"
blkdiscard --zeroout -o $((3 << 20)) -l $((1 << 20)) "$dev"
cmp -n $((4 << 20)) "$dev" /dev/zero || fail 'discarded blocks do not read as zeroes'

step "$FILESYSTEM"
"mkfs.$FILESYSTEM" -q "$dev"
mount "$dev" /mnt
verified /mnt/a 8m --fsync=64
verified /mnt/b 2m --direct=0 --fsync=16
fstrim -v /mnt
umount /mnt
case $FILESYSTEM in
ext4) e2fsck -fn "$dev" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'e2fsck found errors'; } ;;
xfs) xfs_repair -n "$dev" >/tmp/fsck 2>&1 || { cat /tmp/fsck; fail 'xfs_repair found errors'; } ;;
esac
nvme_disconnect
quiet 'I/O Cmd\(|critical medium error|controller capabilities changed'
