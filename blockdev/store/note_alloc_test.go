//go:build !race

package store

import "testing"

// TestNotedWriteDoesNotAllocate: like any other write.
func TestNotedWriteDoesNotAllocate(t *testing.T) {
	b := newNoteBench(t, true)
	b.load(t, 8, 3000)
	op, note, done := b.op(), &Note{}, make(chan struct{}, 1)
	op.Done = func(*Op) { done <- struct{}{} }
	batch, block := []*Op{op}, int64(0)
	if n := testing.AllocsPerRun(2000, func() {
		block = (block + 3) % (noteBenchBytes / BlockBytes)
		b.next(op, note, block)
		b.s.Submit(batch)
		<-done
	}); n != 0 {
		t.Errorf("%v allocations per write", n)
	}
}
