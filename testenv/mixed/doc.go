// Package mixed tests that the last landed version of blockd and this one work
// together in one cluster, as they do while it is upgraded one node at a time.
//
// The landed version is in testdata as source, cut to what blockd and blockctl are built
// of, so that any checkout has it, also one without history. It is built with the Go tool
// chain into .build/landed and kept there. When a version has landed,
// `scripts/landed.sh COMMIT` puts it in the place of the one before.
package mixed
