# NVMe/TCP with the kernel's own multipath.
trap '' PIPE # see vmtest's nvme_crash.sh
# at: the name of the controller at each node, which it keeps when it reconnects
declare -A at
find_controllers() {
    local c n
    for n in $NODES; do
        for c in $(controllers); do
            case $(cat "/sys/class/nvme/$c/address") in *"traddr=$(address "$n"),"*) at[$n]=$c ;; esac
        done
    done
}
path_to() { echo "/sys/class/nvme/${at[$1]}"/nvme*c*n*; }
ana() { cat "$(path_to "$1")/ana_state" 2>/dev/null; }
lost() { ! live "${at[$1]}" || said "nvme ${at[$1]}: Successfully reconnected"; }
paths_follow() {
    local n
    for n in $NODES; do
        live "${at[$n]}" || return
        if [ "$n" = "$1" ]; then [ "$(ana "$n")" = optimized ]; else [ "$(ana "$n")" = non-optimized ]; fi || return
    done
}
# The IPv6 ports are of the same nodes, and out of the guest's reach.
connect_all() {
    nvme connect-all -t tcp -a "$(address n1)" -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" -k "$SILENCE" -c 1 -l 600 >/tmp/connect 2>&1 || :
    [ "$(controllers | wc -l)" = 3 ] || { cat /tmp/connect; return 1; }
}

step 'any node lists the ports of all'
for n in $NODES; do
    patient nvme discover -t tcp -a "$(address "$n")" -s "$DISCOVERY_PORT" --hostnqn "$hostnqn" >/tmp/log
    for m in $NODES; do
        grep -qx "traddr: *$(address "$m")" /tmp/log || { cat /tmp/log; fail "$n does not list the port of $m"; }
    done
done
grep -E '^(traddr|trsvcid|portid)' /tmp/log | xargs -n 6

step 'connect-all'
until_true connect_all
find_controllers
same 'nodes with a controller' "${#at[@]}" 3
disk=$(nvme_disk "$UUID")
same 'namespaces of the machine' "$(echo /dev/nvme*n*)" "$disk"
until_true paths_follow "$(host owner)"
nvme list-subsys "$disk"
cat /sys/class/nvme/nvme*/cntlid | xargs echo 'controller ids:'
same 'different controller ids' "$(for c in $(controllers); do cat "/sys/class/nvme/$c/cntlid"; done | sort -u | wc -l)" 3

begin "$disk"
"$TRIALS"
nvme list-subsys "$disk"
nvme_disconnect
