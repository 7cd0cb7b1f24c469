//go:build !arenadebug && !race

package arena

// Debug tells whether this build poisons released buffers and tracks loans.
const Debug = false

// slabDebug is empty: nothing is tracked.
type slabDebug struct{}

func (*slabDebug) cut(*class) {}

// check would panic on a released handle.
func (b *Buf) check(string) {}

// lent would record the borrower.
func (b *Buf) lent() {}

// returning would poison the memory.
func (b *Buf) returning() {}

// badRelease panics: the buffer is free already.
func (b *Buf) badRelease() {
	panic("arena: second Release of a buffer; build with -tags arenadebug to see who released it first")
}

// pushLocked puts b first in line: its memory is still in the cache.
func (sl *slab) pushLocked(b *Buf) {
	b.next, sl.free = sl.free, b
}

// Leaked lists the buffers that are out; nil unless Debug.
func (a *Arena) Leaked() []Leak { return nil }

func (a *Arena) leakTextLocked() string {
	return "; build with -tags arenadebug to see who took them"
}
