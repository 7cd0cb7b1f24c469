#!/bin/bash
# Regenerates everything in a copy of the tree and fails when that changes a
# file: then someone edited a generated file, or forgot `make generate`.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -co --exclude-standard | while IFS= read -r f; do [ -e "$f" ] && printf '%s\n' "$f"; done >"$copy.list"
mkdir "$copy/before" "$copy/after"
tar -cf - -T "$copy.list" | tee >(tar -xf - -C "$copy/before") | tar -xf - -C "$copy/after"
rm "$copy.list"
(cd "$copy/after" && go generate ./...)
if ! diff -r "$copy/before" "$copy/after"; then
    echo "generated files are out of date: run make generate and commit the result" >&2
    exit 1
fi
