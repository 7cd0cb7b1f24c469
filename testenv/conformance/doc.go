// Package conformance runs libiscsi's iscsi-test-cu, qemu-img and qemu-io
// against bin/blockd and judges what they print.
//
// The tests that need the programs have the build tag e2e; make test and make
// conformance run them. What may be skipped is listed, with its reason, in
// docs/CONFORMANCE.md; the tests read that page, so page and practice agree.
package conformance
