# Native multipath over two ports, each by a network card of its own. A path's
# cable is pulled and plugged in again under verified load, the target is killed,
# and nothing is lost.
#
# The host finds a pulled cable by its keep-alive (-k), of which half is what a busy
# machine may keep guest or target standing still: with 2 s, both paths were lost
# at times that the script did not choose.
trap '' PIPE # see nvme_crash.sh
path() { patient nvme connect -t tcp -a "$1" -s "$2" -n "$NQN" --hostnqn "$hostnqn" -k 10 -c 1 -l 300; }
# optimized COUNT: so many paths are up. A path is there once its controller was
# scanned, which nobody waits for after a connect.
optimized() { [ "$(nvme list-subsys "$dev" 2>/dev/null | grep -c 'live optimized')" = "$1" ]; }
# flows CTRL: I/O goes by that controller from now on
flows() {
    until_true counted "$1"
    until_true used "$1" "$count"
    loaded
}
# counted CTRL: count is how many I/Os have gone by that controller
counted() { count=$(awk '{print $1 + $5}' "/sys/class/nvme/$1"/nvme*c*n*/stat 2>/dev/null) && [ -n "$count" ]; }
used() { counted "$1" && [ "$count" -gt $(($2 + 20)) ]; }
lost() { ! live "$1"; }
# loaded: the load still runs, none of its I/O has failed
loaded() { kill -0 "$load" 2>/dev/null || { wait "$load" || :; cut -c1-300 /tmp/fio.load; fail 'the load has ended'; }; }

step 'two paths, one namespace'
path 10.0.2.2 "$NVME_PORT"
path 10.0.3.2 "$NVME_PORT2"
dev=$(nvme_disk "$UUID")
until_true optimized 2
nvme list-subsys "$dev"
same 'namespaces of the machine' "$(echo /dev/nvme*n*)" "$dev"
same 'controllers of the subsystem' "$(controllers | wc -l)" 2
read -r one two < <(controllers | xargs)
for subsys in /sys/class/nvme-subsystem/nvme-subsys*; do echo round-robin >"$subsys/iopolicy"; done

step 'both paths are used'
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
flows "$one"
flows "$two"

step 'a cable is pulled under load'
ip link set eth1 down
until_true lost "$two"
flows "$one"

step 'it is plugged in again'
ip link set eth1 up
until_true live "$two"
flows "$two"

step 'both paths go, as the target is killed'
target crash
until_true back "$one"
until_true back "$two"
flows "$one"
flows "$two"

step 'a path is taken away by hand'
nvme disconnect -d "$two"
flows "$one"

step 'and made again'
path 10.0.3.2 "$NVME_PORT2"
until_true optimized 2
two=$(controllers | grep -v "^$one\$")
flows "$two"
touch /tmp/stop
wait "$load" || { cut -c1-300 /tmp/fio.load; fail 'the load'; }
verified "$dev" 4m
nvme_disconnect
