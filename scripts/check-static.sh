#!/bin/bash
# check-static.sh FILE...: fails unless every file is a static ELF program.
# It reads the program headers with Go's own tools, so nothing need be installed.
set -euo pipefail
cd "$(dirname "$0")/.."
go run ./scripts/checkstatic "$@"
