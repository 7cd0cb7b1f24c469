package scsi

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/devtest"
)

// A task that its device holds back is aborted at once, and has no effect.
func TestAbortOfWhatIsHeldBack(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *TargetConfig) {
		holding.Device = c.Units[0].Device
		c.Units[0].Device = holding
	})
	for _, fn := range []TMF{TMFAbortTask, TMFAbortTaskSet, TMFLUNReset} {
		c := b.simple(b.nexus, tWrite)
		if c.finished() || holding.Held() != 1 {
			t.Fatalf("%d are held", holding.Held())
		}
		done := tmf(b.nexus, fn, c.Task)
		if pending(done) || <-done != TMFComplete || !c.wait().silent || holding.Held() != 0 {
			t.Errorf("function %d: %d are held", fn, holding.Held())
		}
	}
	c := b.simple(b.nexus, tWrite)
	b.nexus.Detach()
	if !c.finished() || holding.Held() != 0 {
		t.Errorf("the session ended, and %d are held", holding.Held())
	}
	got := make([]byte, bedBlock)
	if err := blockdev.ReadAt(b.ram, got, 0); err != nil || got[0] != 0 {
		t.Errorf("it was written: %v, %x", err, got[0])
	}
}
