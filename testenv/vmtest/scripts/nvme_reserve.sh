# Reservations between two hosts, which are this machine under two NQNs and host
# ids, and against iSCSI. The kernel runs with nvme_core.multipath=N, so that each
# controller has a disk of its own.
a_nqn=$hostnqn a_id=$hostid
b_id=${hostid%ab}cd
b_nqn=${hostnqn%ab}cd
# as HOSTNQN HOSTID ADDRESS: by another address each, since nvme-cli looks at the
# address only when it says that a controller is there already
as() { patient nvme connect -t tcp -a "$3" -s "$NVME_PORT" -n "$NQN" --hostnqn "$1" --hostid "$2" -k 30 -c 1 -l 300; }
as "$a_nqn" "$a_id" 127.0.0.1
a_ctrl=$(controllers)
as "$b_nqn" "$b_id" "$TARGET_HOST"
b_ctrl=$(controllers | grep -v "^$a_ctrl\$")
a=$(nvme_disk "$UUID" "$a_ctrl") b=$(nvme_disk "$UUID" "$b_ctrl")
same 'the host of the second' "$(cat "/sys/class/nvme/$b_ctrl/hostnqn")" "$b_nqn"

writes() { dd if=/dev/zero of="$1" bs=4096 count=1 oflag=direct status=none; }
reads() { dd if="$1" of=/dev/null bs=4096 count=1 iflag=direct status=none; }
# conflicts COMMAND...: refused, and because of a reservation
conflicts() {
    refused "$@"
    grep -qiE 'conflict|invalid exchange' /tmp/refused || { cat /tmp/refused; fail "refused, but not by a reservation: $*"; }
}
register() { nvme resv-register "$1" -n "$NSID" -r 0 -k "$2" "${@:3}" >/dev/null; }
acquire() { nvme resv-acquire "$1" -n "$NSID" -a 0 -c "$2" -t "$3" >/dev/null; }
preempt() { nvme resv-acquire "$1" -n "$NSID" -a "$5" -c "$2" -p "$3" -t "$4" >/dev/null; }
release() { nvme resv-release "$1" -n "$NSID" -a 0 -c "$2" -t "$3" >/dev/null; }
clear() { nvme resv-release "$1" -n "$NSID" -a 1 -c "$2" >/dev/null; }
report() { nvme resv-report "$1" -n "$NSID" -e | tee /tmp/report; }

step 'register and acquire'
conflicts acquire "$a" 0xa 1
register "$a" 0xa
register "$b" 0xb
acquire "$a" 0xa 1
report "$b"
grep -Eq '^rtype *: 1' /tmp/report || fail 'the report has another type'
same 'registrants in the report' "$(sed -n 's/^regctl *: *//p' /tmp/report)" 2

step 'write exclusive'
writes "$a"
conflicts writes "$b"
reads "$b"
conflicts acquire "$b" 0xb 2
conflicts release "$b" 0xa 1
release "$a" 0xa 1
writes "$b"

step 'exclusive access, registrants only'
acquire "$a" 0xa 4
writes "$b"
nvme resv-register "$b" -n "$NSID" -r 1 -c 0xb >/dev/null
conflicts writes "$b"
conflicts reads "$b"

step 'preempt'
register "$b" 0xb
preempt "$b" 0xb 0xa 1 1
conflicts writes "$a"
writes "$b"
same 'registrants after it' "$(report "$a" | sed -n 's/^regctl *: *//p')" 1
register "$a" 0xa
preempt "$a" 0xa 0xb 2 2 # and abort
conflicts reads "$b"
writes "$a"
nvme resv-notif-log "/dev/$b_ctrl" | tee /tmp/notice
grep -Eq 'Type[[:space:]]*: 1 ' /tmp/notice || fail 'the preempted host got no notice of type 1, Registration Preempted'

step 'iSCSI is fenced by it'
discover >/dev/null
login
sd=$(disk "$LUN")
conflicts writes "$sd"
sg_persist --no-inquiry --in --read-reservation "$sd" >/tmp/pr 2>&1 || sg_persist --no-inquiry --in --read-reservation "$sd" >/tmp/pr
cat /tmp/pr
grep -q 'Key *= *0xa' /tmp/pr || grep -q 'Key=0xa' /tmp/pr || fail 'iSCSI does not see who holds it'

step 'kept over a restart'
register "$a" 0xa -c 0xa -i -p 3
ports=$(source_ports)
target restart
until_true back "$a_ctrl"
until_true back "$b_ctrl"
until_true logged_in_again "$ports"
report "$a"
grep -Eq '^rtype *: 2' /tmp/report || fail 'the reservation is gone after the restart'
grep -Eq '^ptpls *: 1' /tmp/report || fail 'the report has not PTPLS'
writes "$a"
conflicts writes "$b"
conflicts writes "$sd"
clear "$a" 0xa
writes "$b"
writes "$sd"

step 'a reservation of iSCSI fences NVMe, which preempts it'
sg_persist --no-inquiry --out --register --param-sark=0xc "$sd" >/dev/null 2>&1 ||
    sg_persist --no-inquiry --out --register --param-sark=0xc "$sd" >/dev/null
sg_persist --no-inquiry --out --reserve --param-rk=0xc --prout-type=1 "$sd" >/dev/null
writes "$sd"
conflicts writes "$a"
reads "$a"
register "$a" 0xa
preempt "$a" 0xa 0xc 1 1
writes "$a"
conflicts writes "$sd"
clear "$a" 0xa
logout
nvme_disconnect
