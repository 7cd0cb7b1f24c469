#!/bin/bash
# landed.sh COMMIT: keeps two things of a commit that was landed, so that what comes
# after is tested against it on any checkout, also one without history.
#
# The source of what blockd and blockctl are built of, in testenv/mixed/testdata, in the
# place of the one before: testenv/mixed builds it and mixes the two versions.
#
# What its catalog answers to random commands, and its snapshots, in
# raftmeta/catalog/testdata, beside those of the commits before: TestReleases.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 1 ] || { echo "usage: scripts/landed.sh COMMIT" >&2; exit 2; }
commit=$(git rev-parse --short=7 --verify "$1^{commit}")
into=$PWD/testenv/mixed/testdata
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git archive "$commit" | tar -xf - -C "$tree"
cd "$tree"
for arch in amd64 arm64; do
    GOOS=linux GOARCH=$arch go list -deps -f '{{if and .Module .Module.Main}}{{$dir := .Dir}}{{range .GoFiles}}{{$dir}}/{{.}}
{{end}}{{range .SFiles}}{{$dir}}/{{.}}
{{end}}{{range .EmbedFiles}}{{$dir}}/{{.}}
{{end}}{{end}}' ./tools/blockd ./tools/blockctl
done | sed -n "s,^$tree/,,p" | LC_ALL=C sort -u >files
printf 'go.mod\ngo.sum\n' >>files
if [ -e raftmeta/catalog/golden_test.go ]; then
    go test ./raftmeta/catalog -run TestReleases -release "$commit"
    kept=$into/../../../raftmeta/catalog/testdata
    new=raftmeta/catalog/testdata/release-$commit.gz
    same=
    for old in "$kept"/release-*.gz; do cmp -s "$old" "$new" && same=$old; done
    [ -n "$same" ] || cp "$new" "$kept"
fi
# Nobody reads it there: without its comments it is a third smaller.
grep '\.go$' files | xargs sed -i '\,^[[:space:]]*//\( \|$\),d'
# The same commit gives the same bytes on every machine with this tar and xz.
tar --format=ustar --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - -T files | xz -9e >blockd.tar.xz
mkdir -p "$into"
rm -f "$into"/blockd-*.tar.xz
mv blockd.tar.xz "$into/blockd-$commit.tar.xz"
ls -l "$into/blockd-$commit.tar.xz"
