// Package fault wraps a blockdev.Device and makes it fail on purpose: with
// errors, delays, torn and lost writes, flipped bits, requests that hang, and
// a device that disappears. Tests say what shall happen in one line of text
// per rule:
//
//	write range=4096-8192 p=0.1 seed=7 torn
//	read nth=3 error=medium
//	any delay=30ms
//	flush times=1 lost
//	compare-and-write hang
//	write nth=100 gone
//
// A rule is an operation (or any), conditions, and one kind of fault, in any
// order. A request meets the rules in the order they were added, and the
// first that strikes decides; one that none strikes goes to the device below
// unchanged, without allocation. Chance comes from the rule's seed and the
// count of the requests that it was asked about, so a single-threaded run
// repeats exactly. A rule for any operation leaves alone those that its fault
// has no meaning for, as a torn read.
//
// # The faults
//
//	error=KIND  the request fails and has no effect; KIND is invalid, range,
//	            read-only, no-space, medium, miscompare, io, gone, busy, fenced
//	delay=D     the request is submitted after D, by the clock given to New
//	torn        a write stores some of its 512-byte sectors, as chance has it,
//	            and fails with ErrIO
//	lost        a write, unmap, write-zeroes or flush succeeds without effect
//	flip        one bit of what is read or written is wrong, and nobody says so
//	hang        the request waits for Resume or Fail
//	gone        this request and all after it fail with ErrGone, watchers are
//	            told, until Restore
//
// No goroutine is started but those of the clock.
package fault
