#!/bin/bash
# Every fuzz target of the tree, one after the other, FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/need.sh build
found=0
while IFS=: read -r file target; do
    found=$((found + 1))
    echo "== $(dirname "$file") $target"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-20s}" "./$(dirname "$file")"
done < <(git ls-files -co --exclude-standard -- '*_test.go' | xargs grep -oE '^func Fuzz[A-Za-z0-9_]+' /dev/null | sed 's/func //' | sort -u)
[ $found -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
echo "$found fuzz targets, none failed"
