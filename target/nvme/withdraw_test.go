package nvme

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev/devtest"
)

// A command that its device holds back is aborted like one that waits for its data: it
// ends at once, and has no effect.
func TestAbortOfWhatIsHeldBack(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *Config, _ *Deps) {
		holding.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device = holding
	})
	h := b.host
	for name, e := range map[string][64]byte{"a write": rw(OpWrite, 0, 1, 0), "one of several steps": rw(OpVerify, 0, bedBlocks, 0)} {
		data := fill(bedBlock, 1)
		if e[0] == OpVerify {
			data = nil
		}
		w := b.start(h.io, e, data, 0)
		if w.finished() || holding.Held() != 1 {
			t.Fatalf("%s: %d are held", name, holding.Held())
		}
		a := b.start(h.admin, sqe(OpAbort, 0, uint32(h.io.ID())|uint32(w.CID())<<16), nil, 0)
		if !a.finished() || a.wait().result != 0 || w.wait().status != CommandAborted || holding.Held() != 0 {
			t.Errorf("%s was not aborted", name)
		}
	}
	// What is aborted while others are being ended is ended once.
	var both [2]*call
	for i := range both {
		both[i] = b.start(h.io, rw(OpWrite, uint64(i), 1, 0), fill(bedBlock, 1), 0)
	}
	done := both[0].Done
	both[0].Done = func(c *Command) {
		h.io.abortAll(nil, AbortedSQDeletion, nil)
		done(c)
	}
	h.io.abortAll(nil, AbortedSQDeletion, nil)
	for _, c := range both {
		if s := c.wait().status; s != AbortedSQDeletion {
			t.Errorf("aborted twice: %v", s)
		}
	}
	w := b.start(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	h.io.Disconnect()
	if w.wait().status == Success || holding.Held() != 0 || !bytes.Equal(b.blocksAt(0, 1), fill(bedBlock, 0)) {
		t.Errorf("a connection ended, and %d are held", holding.Held())
	}
}

// Half of a fused pair whose partner is being ended does not run, neither alone nor as the
// pair, even before the two have been parted.
func TestFusedHalfWhilePartnerEnds(t *testing.T) {
	holding := &devtest.Holding{}
	b := newBed(t, func(c *Config, _ *Deps) {
		holding.Device = c.Namespaces[0].Device
		c.Namespaces[0].Device = holding
	})
	h := b.host
	halves := [2]func() *call{
		func() *call {
			return b.prepare(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
		},
		func() *call {
			return b.prepare(h.io, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
		},
	}
	check := func(name string, x, y *call, want Status) {
		t.Helper()
		if n := holding.Held(); n != 0 {
			t.Fatalf("%s: %d requests reached the device", name, n)
		}
		if s1, s2 := x.wait().status, y.wait().status; s1 != want || s2 != AbortedFailedFused {
			t.Errorf("%s: %v, %v", name, s1, s2)
		}
	}
	for aborted, name := range []string{"the first is aborted", "the second is aborted"} {
		w := b.start(h.io, rw(OpWrite, 8, 1, 0), fill(bedBlock, 1), 0)
		pair := [2]*call{halves[0](), halves[1]()}
		x, y := pair[aborted], pair[1-aborted]
		le.PutUint16(x.SQE[2:], w.CID())
		h.io.Execute(x.Command)
		// Its request is withdrawn, and its end told, after x was marked as aborted and
		// before x ends.
		done := w.Done
		w.Done = func(c *Command) {
			if x.finished() {
				t.Errorf("%s: it has ended already", name)
			}
			h.io.Execute(y.Command)
			done(c)
		}
		a := b.start(h.admin, sqe(OpAbort, 0, uint32(h.io.ID())|uint32(w.CID())<<16), nil, 0)
		if a.wait().result != 0 || w.wait().status != CommandAborted {
			t.Errorf("%s: the write was not aborted", name)
		}
		check(name, x, y, CommandAborted)
	}
	// The same when one ends because its data is short.
	for short, name := range []string{"the first is short", "the second is short"} {
		pair := [2]*call{halves[0](), halves[1]()}
		x, y := pair[short], pair[1-short]
		x.OutLen--
		_, s := h.io.start(x.Command)
		h.io.Execute(y.Command)
		h.io.dissolve(x.Command)
		x.complete(s)
		check(name, x, y, DataTransferError)
	}
}
