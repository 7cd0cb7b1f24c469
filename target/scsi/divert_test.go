package scsi

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/devtest"
)

// An initiator that is sent away is refused what reads or writes: what comes, what the device holds back,
// and what it is busy with. It is not told that the path is down, and others see nothing of it.
func TestDivertedInitiators(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *TargetConfig) {
		holding.Device = c.Units[0].Device
		c.Units[0].Device = holding
	})
	const gone = "02/2/040c"
	other := b.attach("iqn.host-b")
	b.want("00", tTUR)
	held, others := b.simple(b.nexus, tWrite), b.simple(other, tRead)
	match := func(initiator string, unit UnitID) bool { return initiator == "iqn.host-a" && unit == bedUnit }
	if n := b.target.Divert(func(string, UnitID) bool { return false }); n != 0 || held.finished() || holding.Held() != 2 {
		t.Fatalf("nobody is sent away: %d, and %d are held", n, holding.Held())
	}
	busy := b.simple(b.nexus, tRead)
	if !holding.Withdraw(&busy.Task.state.req) {
		t.Fatal("nothing is held")
	}
	if n, again := b.target.Divert(match), b.target.Divert(match); n != 1 || again != 0 {
		t.Errorf("%d are sent away, and %d when they are", n, again)
	}
	if r := held.wait(); r.String() != gone || holding.Held() != 1 {
		t.Errorf("what was held: %v, and %d are held", r, holding.Held())
	}
	blockdev.Complete(&busy.Task.state.req, blockdev.ErrBusy)
	if r := busy.wait(); r.String() != gone {
		t.Errorf("of a device that is busy: %v", r)
	}
	for _, cdb := range []string{tRead, "35 00 00 00 00 00 00 00 00 00"} {
		b.want(gone, cdb)
	}
	b.want("00", tTUR)
	if p := b.want("00", tGroups).data; AccessState(p[4]&0xf) != AccessOptimized {
		t.Errorf("REPORT TARGET PORT GROUPS says %x", p)
	}
	if others.finished() {
		t.Error("another initiator was sent away")
	}

	b.target.Readmit()
	ours := b.simple(b.nexus, tRead)
	if holding.Held() != 2 {
		t.Fatalf("afterwards: %d are held, want 2", holding.Held())
	}
	holding.Release()
	if x, y := ours.wait(), others.wait(); x.String() != "00" || y.String() != "00" {
		t.Errorf("afterwards: %v, and the other's: %v", x, y)
	}
}
