#!/bin/bash
# Everything that is checked without running the tests. Prints what to do
# about what it finds; the exit status is 0 when there is nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/need.sh build generate

step() { printf '== lint: %s\n' "$1"; }

step gofmt
unformatted=$(git ls-files -co --exclude-standard -- '*.go' | xargs -r ls -d 2>/dev/null | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
    printf 'not formatted; run gofmt -w on:\n%s\n' "$unformatted" >&2
    exit 1
fi

step 'go vet'
go vet ./...
go vet -tags e2e ./testenv/...

step 'build for a second architecture'
GOARCH=arm64 CGO_ENABLED=0 go build ./...

step 'golangci-lint'
# Pinned in scripts/lint/go.mod, built from the module proxy, rebuilt when the pin changes.
linter=bin/golangci-lint
if [ ! -x $linter ] || [ scripts/lint/go.mod -nt $linter ]; then
    mkdir -p bin
    go build -C scripts/lint -o "$PWD/$linter" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
fi
$linter run --build-tags e2e

step 'generated files'
scripts/check-generated.sh

step 'go.mod'
go mod tidy -diff
