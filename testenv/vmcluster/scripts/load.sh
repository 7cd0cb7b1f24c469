# The load, and what is done to the nodes under it. From the environment: NODES, and
# NETWORK, in which node nI is at .I. The script that follows has the words
#
#   paths_follow NODE   there is a path to each node, that to NODE is the optimized one, the others are not
#   lost NODE           the path to NODE is gone
#   path_to NODE        the block device, or what has its counters, of that path
#
# The volume: what is written once and read at the end, the load, the beat. The load
# is bounded, so that a guest of one emulated processor has time for what its kernel
# does about paths.
kept='--offset=0 --size=8m'
busy='--offset=60m --size=8m --rate_iops=100,100' # in two extents
beat='--offset=88m --size=1m --rate_iops=20,20'

ip route add "$NETWORK.0/24" via 10.0.2.2
address() { echo "$NETWORK.${1#n}"; }
verify='--direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse'

# begin DEV: writes what is kept, and starts the load on DEV: rounds of writing and
# verifying, and the beat, 20 reads and 20 writes per second that tell of pauses.
begin() {
    dev=$1
    # shellcheck disable=SC2086
    fio --name=kept --filename="$dev" $kept $verify --rw=write --bs=128k --iodepth=4 --randseed=7 --do_verify=0 >/tmp/fio.kept 2>&1 ||
        { cut -c1-300 /tmp/fio.kept; fail 'the first writes'; }
    {
        round=0
        while [ ! -e /tmp/stop ]; do
            round=$((round + 1))
            # shellcheck disable=SC2086
            fio --name=load --filename="$dev" $busy $verify --do_verify=1 --rw=randwrite --iodepth=8 \
                --bssplit=4k/70:16k/20:128k/10 --randseed=$round >/tmp/fio.load 2>&1 || exit 1
            echo "$round" >/tmp/rounds
        done
    } &
    load=$!
    # shellcheck disable=SC2086
    fio --name=beat --filename="$dev" $beat --direct=1 --ioengine=psync --rw=randrw --bs=4k \
        --time_based --runtime=1h --write_lat_log=/tmp/beat --log_unix_epoch=1 --output-format=terse >/tmp/fio.beat 2>&1 &
    beating=$!
}
# phase NAME [planned]: a step; the table at the end has its longest pause, which is bounded
# where what happens was planned
phase() { step "$1" && echo "${EPOCHREALTIME/[.,]/} ${2:-unplanned} $1" >>/tmp/phases; }
# What hosts may wait for a planned stop, in seconds. The guest is emulated on a busy machine, so
# that the goal is not what fails: what Linux waits for by itself, for a session or a controller that
# may come back, is 5 s and more.
planned_goal=0.2
planned_max=2
# loaded: the load still runs, none of its I/O has failed
loaded() {
    kill -0 "$load" 2>/dev/null || { cut -c1-300 /tmp/fio.load; fail 'the load has ended'; }
    kill -0 "$beating" 2>/dev/null || { cut -c1-300 /tmp/fio.beat; fail 'the beat has ended'; }
}
# counted NODE: count is how many I/Os have gone by the path to that node
counted() { count=$(awk '{print $1 + $5}' "$(path_to "$1")/stat" 2>/dev/null) && [ -n "$count" ]; }
used() { counted "$1" && [ "$count" -gt $(($2 + 20)) ]; }
# flows NODE: I/O goes by that node from now on
flows() {
    until_true counted "$1"
    until_true used "$1" "$count"
    loaded
}
tell() { echo "$* (at $(cut -d' ' -f1 /proc/uptime) s)"; }
# owned: the paths are as they should be; a node that was away may name an owner of before
owned() { owner=$(host owner) && paths_follow "$owner"; }
# settled: the paths are as they should be, and the load uses the owner's
settled() {
    until_true owned
    tell "the paths are as they should be, the owner is $owner"
    flows "$owner"
}
# returns NODE: it is started, gets what it has missed, and is reached again
returns() {
    host "start $1" >/dev/null
    tell "$1 is ready"
    host healthy >/dev/null
    tell 'three copies are in sync'
    settled
}
# end: the load ends well, what was kept is there
end() {
    step 'all data is there'
    touch /tmp/stop
    wait "$load" || { cut -c1-300 /tmp/fio.load; fail 'the load'; }
    echo "rounds of writing and verifying: $(cat /tmp/rounds)"
    loaded_beat
    # shellcheck disable=SC2086
    fio --name=kept --filename="$dev" $kept $verify --rw=write --bs=128k --iodepth=4 --randseed=7 --verify_only >/tmp/fio.kept 2>&1 ||
        { cut -c1-300 /tmp/fio.kept; fail 'what was written first'; }
    dmesg | grep -E "I/O error.* ${dev##*/}(,| )" && fail 'the kernel saw errors on the disk'
    pauses
}
loaded_beat() {
    kill -0 "$beating" 2>/dev/null || { cut -c1-300 /tmp/fio.beat; fail 'the beat has ended'; }
    kill -TERM "$beating" && { wait "$beating" || :; }
    # Its status tells of the signal; an error of an I/O is in words.
    grep -iE 'error=|err=[^ ]*[1-9]' /tmp/fio.beat && fail 'the beat'
    return 0
}
# pauses: the longest I/O of the beat per phase, by when it began
pauses() {
    awk -F'[, ]+' -v goal=$planned_goal -v max=$planned_max '
        FILENAME == "/tmp/phases" {n++; at[n] = $1 / 1e6; planned[n] = $2 == "planned"; sub(/^[^ ]* [^ ]* /, ""); name[n] = $0; next}
        {took = $2 / 1e9; all++
         for (i = n; i > 1 && at[i] > $1 / 1e3 - took; i--);
         if (took > worst[i]) worst[i] = took}
        END {for (i = 1; i <= n; i++) {
                 printf "longest pause: %5.2f s, %s%s\n", worst[i], name[i], planned[i] ? " (goal " goal " s, at most " max " s)" : ""
                 if (planned[i] && worst[i] > max) long = 1}
             exit all < 100 ? 2 : long}
    ' /tmp/phases /tmp/beat_lat.1.log && return
    [ $? = 1 ] || fail 'the beat has done next to nothing'
    fail "a planned stop held I/O up for more than $planned_max s"
}

# trials: what is done to the nodes, with the words of the protocol's script
trials() {
    phase 'nothing happens'
    settled
    phase "the owner, $owner, is killed"
    victim=$owner
    target "kill $victim"
    until_true lost "$victim"
    tell 'the path is gone'
    owner=$(host owner)
    tell "the owner is $owner"
    [ "$owner" != "$victim" ] || fail "$victim was killed, and owns the volume"
    flows "$owner"
    phase "$victim is started again"
    returns "$victim"

    # A rolling restart, the owner first.
    for node in $owner $(tr ' ' '\n' <<<"$NODES" | grep -vx "$owner"); do
        phase "$node is stopped$([ "$node" != "$(host owner)" ] || echo ', the owner')" planned
        echo 'script: the target goes' >/dev/kmsg
        host "stop $node"
        until_true lost "$node"
        tell 'the path is gone'
        loaded
        phase "$node is started again"
        returns "$node"
    done

    # Without a majority nobody serves the volume: hosts wait, for longer than they would send anything again.
    phase 'two nodes are away for 20 s, the owner one of them'
    owner=$(host owner)
    others=$(tr ' ' '\n' <<<"$NODES" | grep -vx "$owner")
    away="$owner ${others%%[[:space:]]*}"
    for node in $away; do target "kill $node"; done
    sleep 20
    loaded
    for node in $away; do host "start $node" >/dev/null; done
    host healthy >/dev/null
    tell 'three copies are in sync'
    settled
    end
}

# fault NAME SECONDS BEGIN END: BEGIN is asked of the test, and after the time END. The load goes on
# meanwhile, or, with SECONDS 0, only then. ONLY, if it is set, is a part of the names of those that happen.
fault() {
    case "$1" in *"$ONLY"*) ;; *) return ;; esac
    phase "$1"
    target "$3"
    if [ "$2" != 0 ]; then
        sleep "$2"
        loaded
    fi
    host "$4" >/dev/null
    tell 'it is over'
    settled
    host healthy >/dev/null
    tell 'three copies are in sync'
}
# another NODE...: the first node that is none of these
another() {
    local n
    for n in $NODES; do case " $* " in *" $n "*) ;; *) echo "$n"; return ;; esac; done
}
# faults: what happens to nodes, disks and the network between nodes
faults() {
    local leader replica
    phase 'nothing happens'
    settled
    fault 'the owner is killed' 3 "kill $owner" "start $owner"
    leader=$(host leader)
    replica=$(another "$owner" "$leader")
    fault 'another node is killed' 3 "kill $replica" "start $replica"
    leader=$(host leader)
    fault 'the Raft leader is killed' 3 "kill $leader" "start $leader"
    fault 'the owner is paused for 30 s' 30 "pause $owner" "resume $owner"
    fault 'the owner is cut off from the nodes for 10 s' 10 "partition $owner" heal
    fault 'all nodes are cut off from each other for 10 s' 10 apart heal
    fault '5% of the frames between nodes are lost' 10 'loss 5' heal
    replica=$(another "$owner")
    fault "another node's disk fails writes" 3 "disk-fails $replica" "disk-heals $replica"
    fault "the owner's disk fails writes" 3 "disk-fails $owner" "disk-heals $owner"
    fault 'the power of all nodes fails' 0 "kill $NODES" "start $NODES"
    end
}
