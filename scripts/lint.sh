#!/bin/bash
# Everything that is checked without running the tests. Each step runs even
# when an earlier one found something; the exit status is 0 when none did.
set -uo pipefail
cd "$(dirname "$0")/.."
scripts/need.sh build generate || exit

failed=0
step() { # step NAME COMMAND...
    local name=$1
    shift
    printf '== lint: %s\n' "$name"
    "$@" || { failed=1; printf '== lint: %s: FAILED\n' "$name" >&2; }
}

formatted() {
    local found
    found=$(git ls-files -co --exclude-standard -- '*.go' | while IFS= read -r f; do [ ! -e "$f" ] || gofmt -l "$f"; done)
    [ -z "$found" ] || { printf 'run gofmt -w on:\n%s\n' "$found" >&2; return 1; }
}

# Pinned in scripts/lint/go.mod, built from the module proxy, rebuilt when the
# pin changes.
golangci() {
    local linter=bin/golangci-lint
    if [ ! -x $linter ] || [ scripts/lint/go.mod -nt $linter ]; then
        mkdir -p bin
        go build -C scripts/lint -o "$PWD/$linter" github.com/golangci/golangci-lint/v2/cmd/golangci-lint || return
    fi
    $linter run --build-tags e2e
}

step gofmt formatted
step 'go vet' go vet ./...
step 'go vet, end-to-end tests' go vet -tags e2e ./testenv/...
step 'build for a second architecture' env GOARCH=arm64 CGO_ENABLED=0 go build ./...
step golangci-lint golangci
step 'generated files' scripts/check-generated.sh
step go.mod go mod tidy -diff
exit $failed
