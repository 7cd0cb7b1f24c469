#!/bin/bash
# Everything that CI runs, in phases. Every phase runs even when an earlier one
# failed, so that one run tells all; only a build that fails stops the rest.
# The summary lists each phase with its time; the exit status is 0 when all
# passed. Nothing is left out silently: what can't run fails. Each phase's output
# is kept in .build/log; what failed of it is printed again after it, and at the very end, in
# 150 lines or so, since who keeps a log may keep a part of it only.
set -uo pipefail
cd "$(dirname "$0")/.."
log=.build/log
rm -rf "$log"
mkdir -p "$log"
KILLS=${KILLS:-10}
CUTS=${CUTS:-20000}
SEED=${SEED:-$(date +%s)}
WIRE_SEEDS=${WIRE_SEEDS:-10000}
SIM_SEEDS=${SIM_SEEDS:-2000}

names=() results=() seconds=() failed=0
phase() { # phase NAME COMMAND...
    local name=$1 start=$SECONDS status
    shift
    printf '\n=== %s: %s\n' "$name" "$*"
    "$@" 2>&1 | tee "$log/$name.log"
    status=${PIPESTATUS[0]}
    names+=("$name") seconds+=($((SECONDS - start)))
    if [ $status = 0 ]; then
        results+=(pass)
    else
        results+=("FAIL ($status)")
        failed=1
        digest "$name" 60
    fi
    return $status
}
summary() {
    printf '\n=== summary\n'
    local i
    for i in "${!names[@]}"; do
        printf '%-14s %-10s %4d s\n' "${names[i]}" "${results[i]}" "${seconds[i]}"
    done
    printf '%-14s %-10s %4d s\n' total "$([ $failed = 0 ] && echo pass || echo FAIL)" $SECONDS
}
digest() { # digest NAME LINES
    printf '\n=== what failed in %s (all of it: %s)\n' "$1" "$log/$1.log"
    go run ./scripts/failures -lines "$2" "$log/$1.log" || tail -n 20 "$log/$1.log"
}
failures() {
    local i broken=()
    for i in "${!names[@]}"; do
        [ "${results[i]}" = pass ] || broken+=("${names[i]}")
    done
    for i in "${broken[@]}"; do
        digest "$i" $((150 / ${#broken[@]} > 10 ? 150 / ${#broken[@]} : 10))
    done
}
finish() {
    summary
    [ $failed = 0 ] || failures
    exit $failed
}

phase tools scripts/need.sh build race generate conformance vm cluster || finish
phase build make --no-print-directory build || finish
phase lint scripts/lint.sh
# Many tests wait for most of their time, so one package more is tested at a time than there
# are cores. What takes longest begins first, so that it isn't waited for at the end, but for
# replication/device: it and daemon need 4 GiB each, and come one after the other as it is.
packages=(-p "$(($(nproc) + 1))" ./tools/blockd/daemon ./raftmeta/group ./blockdev/store ./raftmeta/director ./raftmeta/lease ./...)
# The release build: no assertions, and the tests that count allocations.
# The power is cut fewer times than the phase powercut does it.
phase unit env BLOCKD_POWERCUT_CUTS=2000 go test "${packages[@]}"
# Assertions on, under the race detector.
phase race go test -race -timeout 20m "${packages[@]}"
phase powercut env CUTS="$CUTS" SEED="$SEED" scripts/powercut.sh
phase wire make --no-print-directory wire WIRE_SEEDS="$WIRE_SEEDS"
phase simulate make --no-print-directory simulate SIM_SEEDS="$SIM_SEEDS"
phase mutations make --no-print-directory simulate-mutations
phase links make --no-print-directory links
phase conformance go test -tags e2e -count=1 -timeout 20m -v ./testenv/conformance/...
phase crash go test -tags e2e -count=1 -timeout 10m -v ./tools/blockbench
phase cluster make --no-print-directory cluster-test
phase reliability make --no-print-directory reliability
phase kernels make --no-print-directory kernels
# Two guests at a time: each keeps one core busy, and has 1 GiB.
phase vm env BLOCKD_E2E_KILLS="$KILLS" go test -p 1 -parallel 2 -tags e2e -count=1 -timeout 45m -v ./testenv/vm ./testenv/vmtest
phase vm-cluster go test -tags e2e -count=1 -timeout 30m -v -skip 'Faults|Clock' ./testenv/vmcluster
finish
