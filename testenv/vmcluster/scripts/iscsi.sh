# iSCSI with dm-multipath.
portal_of() { echo "$(address "$1"):$PORT"; }
# at: the disk by the portal of each node, which it stays when its session logs in again
declare -A at
find_disks() {
    local n link
    for n in $NODES; do
        link=/dev/disk/by-path/ip-$(portal_of "$n")-iscsi-$IQN-lun-$LUN
        until_true [ -b "$link" ]
        at[$n]=$(basename "$(readlink -f "$link")")
    done
}
path_to() { echo "/sys/block/${at[$1]}"; }
# paths: what multipathd says of each: the disk, its state, its priority
paths() { multipathd show paths raw format '%d %t %p' 2>/dev/null | awk '{print $1, $2, $3}'; }
lost() { paths | grep "^${at[$1]} failed" >/dev/null; }
paths_follow() {
    local n all priority
    all=$(paths)
    for n in $NODES; do
        priority=10
        [ "$n" != "$1" ] || priority=50
        grep -qx "${at[$n]} active $priority" <<<"$all" || return
    done
}
view() { iscsiadm -m session 2>&1; multipath -ll; multipathd show paths; }

step 'any node lists the portals of all'
for n in $NODES; do
    iscsiadm -m discovery -t sendtargets -p "$(portal_of "$n")" >/tmp/found
    for m in $NODES; do
        grep -qx "$(portal_of "$m"),${m#n} $IQN" /tmp/found || { cat /tmp/found; fail "$n does not list the portal of $m"; }
    done
done
cat /tmp/found
for n in $NODES; do # the same nodes, and out of the guest's reach
    iscsiadm -m node -T "$IQN" -p "[fd77::${n#n}]:$PORT" --op delete
done

step 'multipath'
cat >/etc/multipath.conf <<'END'
defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 2
    max_polling_interval 2
    path_grouping_policy group_by_prio
    prio alua
    path_checker tur
    failback immediate
    no_path_retry queue
    fast_io_fail_tmo 5
}
END
multipathd
# A command on a connection that is gone goes to another path after 5 s.
iscsiadm -m node -T "$IQN" --op update -n node.session.timeo.replacement_timeout -v 5
iscsiadm -m node -T "$IQN" --op update -n 'node.conn[0].timeo.noop_out_interval' -v 5
iscsiadm -m node -T "$IQN" --op update -n 'node.conn[0].timeo.noop_out_timeout' -v "$SILENCE"
iscsiadm -m node -T "$IQN" --login
find_disks
until_true [ -b /dev/mapper/mpatha ]
until_true paths_follow "$(host owner)"
multipath -ll

step 'ALUA: a target port group per node, by each path that of its node'
owner=$(host owner)
for n in $NODES; do
    sg_rtpg -d "/dev/${at[$n]}" >/tmp/groups
    same "target port groups by the path to $n" "$(sed -n 's/ *target port group id : \(0x[0-9a-f]*\).*/\1/p' /tmp/groups)" "0x${n#n}"
    same "relative target ports by the path to $n" "$(sed -n '/Relative/{n;s/ *//;p}' /tmp/groups)" "0x0${n#n}"
    state='active/non optimized'
    [ "$n" != "$owner" ] || state='active/optimized'
    grep "access state : .*($state)" /tmp/groups || { cat /tmp/groups; fail "$n is not $state, and the owner is $owner"; }
done

begin /dev/mapper/mpatha
"$TRIALS"
multipath -ll
udevadm settle
until_true multipath -f mpatha
iscsiadm -m node -T "$IQN" --logout
