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
