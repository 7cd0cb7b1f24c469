// Package invariants holds assertions that run in tests and cost nothing in a
// release: Enabled is a constant, so the compiler deletes what stands behind
// it. Build with `-tags invariants` or `-race` to turn them on.
//
// An assertion is for our own faults only. What a peer sends is answered with
// the protocol's error, and what a disk does with an error of blockdev.
package invariants

import "fmt"

// Assert panics with the formatted message when ok is false and invariants are
// enabled. Arguments are evaluated, and may be allocated, even when they are
// not: on the I/O path write
//
//	if invariants.Enabled && !ok {
//		invariants.Fail("extent %d freed twice", id)
//	}
func Assert(ok bool, format string, args ...any) {
	if Enabled && !ok {
		Fail(format, args...)
	}
}

// Fail panics with the formatted message when invariants are enabled, and
// does nothing otherwise.
func Fail(format string, args ...any) {
	if Enabled {
		panic("invariant violated: " + fmt.Sprintf(format, args...))
	}
}

// Sub is a-b; it panics when that is negative and invariants are enabled. For
// counters that must not pass below zero.
func Sub[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64](a, b T) T {
	if Enabled && a < b {
		Fail("%d - %d is below zero", a, b)
	}
	return a - b
}
