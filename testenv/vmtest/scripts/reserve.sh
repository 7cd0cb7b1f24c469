# Persistent reservations between two initiators: this machine under two names,
# so two I_T nexuses to the same logical unit.
iscsiadm -m iface -I second --op new
iscsiadm -m iface -I second --op update -n iface.transport_name -v tcp
iscsiadm -m iface -I second --op update -n iface.initiatorname -v "$SECOND"
iscsiadm -m discovery -t sendtargets -p "$portal" -I default -I second >/dev/null
iscsiadm -m node -T "$IQN" -p "$reported" -I default --login
udevadm settle
a=$(disk "$LUN")
iscsiadm -m node -T "$IQN" -p "$reported" -I second --login
# The second session's disk has the first one's link, and comes when it was scanned.
other() {
    local d
    for d in /sys/block/sd*; do
        b=/dev/${d##*/}
        if [ "$b" != "$a" ] && size_is "$b" "$SIZE"; then return; fi
    done
    return 1
}
until_true other
udevadm settle
same 'their serial numbers' "$(sg_inq -u "$a")" "$(sg_inq -u "$b")"

# Other initiators' changes are announced once, by a unit attention (status 6).
pr() {
    local status=0
    sg_persist --no-inquiry "$@" >/tmp/pr 2>&1 || status=$?
    if [ $status = 6 ]; then
        status=0
        sg_persist --no-inquiry "$@" >/tmp/pr 2>&1 || status=$?
    fi
    cat /tmp/pr
    return $status
}
writes() { dd if=/dev/zero of="$1" bs=4096 count=1 oflag=direct status=none; }
reads() { dd if="$1" of=/dev/null bs=4096 count=1 iflag=direct status=none; }

step 'register and reserve'
pr --out --register --param-sark=0xa "$a"
pr --out --register --param-sark=0xb "$b"
pr --in --read-keys "$b" | tee /tmp/keys
grep -q 0xa /tmp/keys && grep -q 0xb /tmp/keys || fail 'a key is missing'
pr --out --reserve --param-rk=0xa --prout-type=1 "$a"
pr --in --read-reservation "$b"

step 'write exclusive holds'
writes "$a"
refused writes "$b"
reads "$b"
refused pr --out --reserve --param-rk=0xb --prout-type=3 "$b"
pr --out --release --param-rk=0xa --prout-type=1 "$a"
writes "$b"

step 'exclusive access, registrants only'
pr --out --reserve --param-rk=0xa --prout-type=6 "$a"
writes "$b"
pr --out --register --param-rk=0xb --param-sark=0 "$b"
refused writes "$b"
refused reads "$b"

step 'preempt'
pr --out --register --param-sark=0xb "$b"
pr --out --preempt --param-rk=0xb --param-sark=0xa --prout-type=1 "$b"
refused writes "$a"
writes "$b"
pr --in --read-full-status "$b" | tee /tmp/full
grep -q "$SECOND" /tmp/full || fail 'full status does not name the holder'
pr --in --report-capabilities "$b"

step 'kept over a restart of the target'
pr --out --register --param-rk=0xb --param-sark=0xc --param-aptpl "$b"
ports=$(source_ports)
target restart
until_true logged_in_again "$ports"
pr --in --read-keys "$b" | tee /tmp/keys
grep -q 0xc /tmp/keys || fail 'the registration is gone after the restart'
refused writes "$a"
writes "$b"
pr --out --clear --param-rk=0xc "$b"
writes "$a"
iscsiadm -m node --logoutall=all
