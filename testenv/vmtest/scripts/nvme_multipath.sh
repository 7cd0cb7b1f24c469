# Native multipath over two ports, each by a network card of its own. A path's
# cable is pulled and plugged in again under verified load, the target is killed,
# and nothing is lost.
trap '' PIPE # see nvme_crash.sh
path() { nvme connect -t tcp -a "$1" -s "$2" -n "$NQN" --hostnqn "$hostnqn" -k 2 -c 1 -l 300; }
path 10.0.2.2 "$NVME_PORT"
path 10.0.3.2 "$NVME_PORT2"
udevadm settle
dev=$(nvme_disk "$UUID")
subsys=$(echo /sys/class/nvme-subsystem/nvme-subsys*)
same 'namespaces of the machine' "$(echo /dev/nvme*n*)" "$dev"
same 'paths of the namespace' "$(controllers | wc -l)" 2
read -r one two < <(controllers | xargs)
echo round-robin >"$subsys/iopolicy"
nvme list-subsys "$dev" | tee /tmp/subsys
same 'optimized paths' "$(grep -c 'live optimized' /tmp/subsys)" 2

# ios CTRL: how many I/Os have gone by that controller
ios() { awk '{print $1 + $5}' "/sys/class/nvme/$1"/nvme*c*n*/stat; }
used() { [ "$(ios "$1")" -gt $(($2 + 20)) ]; }
lost() { ! live "$1"; }

step 'both paths are used'
before1=$(ios "$one") before2=$(ios "$two")
verified "$dev" 2m
used "$one" "$before1" || fail "nothing went by $one"
used "$two" "$before2" || fail "nothing went by $two"

step 'a cable is pulled under load'
{
    round=0
    while [ ! -e /tmp/stop ]; do
        round=$((round + 1))
        fio --output-format=terse --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --do_verify=1 \
            --randseed="$round" --name=raw --filename="$dev" --size=8m --rw=randwrite \
            --bssplit=4k/70:16k/20:128k/10 --iodepth=8 >/tmp/fio.load 2>&1 || exit 1
    done
} &
load=$!
loaded() { kill -0 "$load" 2>/dev/null || { wait "$load" || :; cut -c1-300 /tmp/fio.load; fail 'the load has ended'; }; }
before2=$(ios "$two")
until_true 20 used "$two" "$before2"
ip link set eth1 down
until_true 30 lost "$two"
before1=$(ios "$one")
until_true 30 used "$one" "$before1"
loaded

step 'it is plugged in again'
ip link set eth1 up
until_true 30 live "$two"
before2=$(ios "$two")
until_true 30 used "$two" "$before2"
loaded

step 'both paths go, as the target is killed'
host crash >/dev/null
until_true 60 live "$one"
until_true 60 live "$two"
before1=$(ios "$one") before2=$(ios "$two")
until_true 30 used "$one" "$before1"
until_true 30 used "$two" "$before2"
loaded

step 'a path is taken away by hand'
nvme disconnect -d "$two"
before1=$(ios "$one")
until_true 30 used "$one" "$before1"
loaded
path 10.0.3.2 "$NVME_PORT2"
touch /tmp/stop
wait "$load" || { cut -c1-300 /tmp/fio.load; fail 'the load'; }
verified "$dev" 4m
nvme_disconnect
