# sg3_utils' view of the disk: what it advertises can be read, and does what
# it says.
discover >/dev/null
login
dev=$(disk "$LUN")
run() {
    local status=0
    rm -f /tmp/back # sg_dd would keep what is behind the end of what it writes
    echo "\$ $*"
    "$@" >/tmp/out 2>&1 || status=$?
    [ $status = 0 ] || { cat /tmp/out; fail "$*: status $status"; }
}

# zero N: the first N bytes are zero on the disk, whatever the guest has cached
zero() { blockdev --flushbufs "$dev" && cmp -n "$1" "$dev" /dev/zero; }

step 'what it says it is'
run sg_inq "$dev"
grep -q 'Unit serial number' /tmp/out || fail 'no serial number'
run sg_vpd --page=0 "$dev"
# The page's own bytes: a header of four, then one number per page.
pages=$(sg_vpd --raw --page=0 "$dev" | tail -c +5 | od -An -v -tx1)
[ "$(wc -w <<<"$pages")" -ge 8 ] || fail "few pages: $pages"
for page in $pages; do run sg_vpd --page="0x$page" "$dev"; done
run sg_vpd --page=di "$dev"
grep -qi 'NAA' /tmp/out || fail 'no NAA name'
run sg_luns "$dev"
run sg_readcap --long "$dev"
grep -q 'Logical block provisioning: lbpme=1' /tmp/out || { cat /tmp/out; fail 'not thin'; }
run sg_opcodes "$dev"
[ "$(wc -l </tmp/out)" -gt 30 ] || { cat /tmp/out; fail 'few commands'; }
run sg_opcodes --tmf "$dev"
run sg_modes -a "$dev"
run sg_modes --six -a "$dev"
run sg_logs --page=0 "$dev"
run sg_logs -a "$dev"
run sg_requests "$dev"
run sg_turs "$dev"
run sg_rtpg -vd "$dev"

step 'reading and writing'
dd if=/dev/urandom of=/tmp/a bs="$BLOCK_SIZE" count=16 status=none
dd if=/dev/urandom of=/tmp/b bs="$BLOCK_SIZE" count=16 status=none
for cdb in 10 12 16; do
    run sg_dd if=/tmp/a of="$dev" bs="$BLOCK_SIZE" count=16 cdbsz=$cdb oflag=fua,sgio
    run sg_dd if="$dev" of=/tmp/back bs="$BLOCK_SIZE" count=16 cdbsz=$cdb iflag=fua,sgio
    cmp /tmp/a /tmp/back || fail "what READ($cdb) gives is not what WRITE($cdb) wrote"
done
run sg_verify --lba=0 --count=16 "$dev"
run sg_verify --lba=0 --count=16 --bytchk=1 --in=/tmp/a --ndo=$((16 * BLOCK_SIZE)) "$dev"
refused sg_verify --lba=0 --count=16 --bytchk=1 --in=/tmp/b --ndo=$((16 * BLOCK_SIZE)) "$dev"
run sg_sync "$dev"
run sg_sync --16 "$dev"
run sg_write_verify --16 --lba=32 --num=16 --in=/tmp/b --ilen=$((16 * BLOCK_SIZE)) "$dev"
run sg_verify --lba=32 --count=16 --bytchk=1 --in=/tmp/b --ndo=$((16 * BLOCK_SIZE)) "$dev"

step 'compare and write'
cat /tmp/a /tmp/b >/tmp/ab
run sg_compare_and_write --lba=0 --num=16 --in=/tmp/ab --xferlen=$((32 * BLOCK_SIZE)) "$dev"
run sg_verify --lba=0 --count=16 --bytchk=1 --in=/tmp/b --ndo=$((16 * BLOCK_SIZE)) "$dev"
refused sg_compare_and_write --lba=0 --num=16 --in=/tmp/ab --xferlen=$((32 * BLOCK_SIZE)) "$dev"
grep -qi miscompare /tmp/refused || { cat /tmp/refused; fail 'refused, but not as a miscompare'; }

step 'write same, unmap'
blocks=$((65536 / BLOCK_SIZE))
dd if=/tmp/a of=/tmp/one bs="$BLOCK_SIZE" count=1 status=none
run sg_write_same --16 --lba=0 --num=$blocks --in=/tmp/one --xferlen="$BLOCK_SIZE" "$dev"
run sg_dd if="$dev" of=/tmp/back bs="$BLOCK_SIZE" skip=$((blocks - 1)) count=1
cmp /tmp/one /tmp/back || fail 'WRITE SAME did not reach the last block'
run sg_write_same --10 --lba=0 --num=8 --in=/tmp/one --xferlen="$BLOCK_SIZE" "$dev"
run sg_write_same --16 --ndob --lba=0 --num=$blocks "$dev"
zero 65536 || fail 'WRITE SAME without data did not zero'
run sg_dd if=/dev/urandom of="$dev" bs="$BLOCK_SIZE" count=$((4 * blocks)) oflag=sgio
run sg_get_lba_status --lba=0 "$dev"
grep -qi 'mapped' /tmp/out || { cat /tmp/out; fail 'what was written is not mapped'; }
run sg_unmap --force --lba=0 --num=$((4 * blocks)) "$dev"
run sg_get_lba_status --lba=0 "$dev"
grep -qi 'deallocated\|unmapped' /tmp/out || { cat /tmp/out; fail 'what was unmapped is still mapped'; }
zero $((4 * 65536)) || fail 'UNMAP did not zero'

step 'extended copy'
run sg_dd if=/tmp/ab of="$dev" bs="$BLOCK_SIZE" count=32 oflag=sgio
run sg_xcopy if="$dev" of="$dev" bs="$BLOCK_SIZE" count=32 skip=0 seek=1024
run sg_dd if="$dev" of=/tmp/back bs="$BLOCK_SIZE" skip=1024 count=32 iflag=sgio
cmp /tmp/ab /tmp/back || fail 'EXTENDED COPY copied something else'

step 'reset, start and stop'
run sg_reset --device "$dev"
run sg_turs --num=4 "$dev" || run sg_turs "$dev"
run sg_start --start "$dev"
logout
