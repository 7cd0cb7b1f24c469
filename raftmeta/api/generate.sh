#!/bin/sh
# Generates the Go code of every .proto file under raftmeta.
set -eu
cd "$(dirname "$0")/../.."
want="libprotoc 3.21.12"
have="$(protoc --version 2>/dev/null || true)"
if [ "$have" != "$want" ]; then
	echo "generate: need $want, have '${have:-no protoc}'; on Debian 12: apt-get install protobuf-compiler" >&2
	exit 1
fi
protoc \
	--plugin="$(go tool -n protoc-gen-go)" \
	--plugin="$(go tool -n protoc-gen-connect-go)" \
	--go_out=. --go_opt=module=blockd.dev \
	--connect-go_out=. --connect-go_opt=module=blockd.dev \
	-I raftmeta/api raftmeta/api/blockd/v1/blockd.proto raftmeta/api/blockd/v1/cluster.proto raftmeta/api/blockd/v1/ops.proto raftmeta/api/blockd/v1/peer.proto raftmeta/api/blockd/v1/pulse.proto
protoc \
	--plugin="$(go tool -n protoc-gen-go)" \
	--go_out=. --go_opt=module=blockd.dev \
	-I raftmeta/catalog raftmeta/catalog/catalogpb/catalog.proto
