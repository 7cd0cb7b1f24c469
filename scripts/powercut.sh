#!/bin/bash
# CUTS power cuts of the extent store on a simulated disk, and as many of one that
# has parts of replicated volumes. A failure prints the seed that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/need.sh build
CUTS=${CUTS:-1000000} SEED=${SEED:-0}
[ "$SEED" != 0 ] || SEED=$(date +%s)
echo "powercut: $CUTS cuts, seed $SEED"
BLOCKD_POWERCUT_CUTS=$CUTS BLOCKD_POWERCUT_SEED=$SEED \
    go test -run PowerCut -count=1 -timeout 24h -v ./blockdev/store/... ./blockdev/localvol/...
