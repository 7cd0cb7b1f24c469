// Package blockdev says what a LUN is: the Device interface, the requests it
// takes and the errors it gives. Everything that serves a host (target/)
// speaks to storage through this package alone and can't tell a RAM disk from
// a replicated volume.
//
// Implementations and wrappers are packages below it: ram, store (the local
// extent store), localvol (a volume on it), fault (errors, delays, torn and
// lost writes for tests). devtest holds the conformance suite that each must
// pass.
package blockdev
