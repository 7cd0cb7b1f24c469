package wire

import (
	"errors"
	"slices"
	"testing"
	"time"

	"blockd.dev/replication/wire/packet"
)

// forge changes one bit of a datagram at a time and gives it to n as coming
// from a new address.
func (n *node) forge(datagram []byte, adopt func() (PathID, bool)) {
	for i := range datagram {
		b := slices.Clone(datagram)
		b[i] ^= 1 << (i % 8)
		n.conn.ReceiveNew(n.local(), b, adopt)
	}
}

// datagram is one with a message, as n would send it.
func (n *node) datagram(t *testing.T, out Outgoing) []byte {
	t.Helper()
	if _, err := n.send(out, 300); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 9000)
	return buf[:n.conn.Produce(n.local(), 0, buf[:0])]
}

// Only a datagram that the peer has sealed, and that was not seen before, makes
// an address a path; what it says is taken, also when there is no place.
func TestOnlyThePeerMakesPaths(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	adopted := 0
	adopt := func() (PathID, bool) {
		adopted++
		if err := s.conn.AddPath(s.local(), 1, 1500); err != nil {
			t.Fatal(err)
		}
		return 1, true
	}
	first := c.datagram(t, Outgoing{Kind: Notice})
	s.forge(first, adopt)
	if adopted != 0 || s.conn.paths[1].known {
		t.Fatalf("forged datagrams made %d paths", adopted)
	}
	seen := slices.Clone(first)
	s.conn.ReceiveNew(s.local(), first, adopt)
	s.events()
	if adopted != 1 || len(s.got) != 1 {
		t.Fatalf("the peer's datagram made %d paths and %d messages", adopted, len(s.got))
	}
	s.conn.ReceiveNew(s.local(), seen, adopt)
	if adopted != 1 {
		t.Error("a replay made a path")
	}
	// The new path is asked whether it is the peer's before it is used.
	buf := make([]byte, 1500)
	if n := s.conn.Produce(s.local(), 1, buf[:0]); n == 0 || s.conn.paths[1].valid {
		t.Errorf("%d bytes go to the new address, valid: %v", n, s.conn.paths[1].valid)
	}
	s.conn.ReceiveNew(s.local(), c.datagram(t, Outgoing{Kind: Notice}), func() (PathID, bool) { return 0, false })
	s.events()
	if len(s.got) != 2 {
		t.Errorf("%d messages arrived; one by an address for which there was no place", len(s.got))
	}
}

// A connection ends before its keys have been tried too often, and both sides
// hear of it.
func TestForgedPacketsEndTheConnectionInTime(t *testing.T) {
	w := pair(t, 1, nil)
	c, s := w.node[0], w.node[1]
	forged := c.datagram(t, Outgoing{Kind: Notice})
	s.conn.opening.forged = fakeForgedMax - 1
	try := func() {
		b := slices.Clone(forged)
		b[len(b)-1] ^= 1
		s.conn.Receive(s.local(), 0, b)
	}
	try()
	// The peer changes its key, and the count goes on.
	c.conn.sealing.turn(c.conn.ledger.Next())
	s.conn.Receive(s.local(), 0, c.datagram(t, Outgoing{Kind: Notice}))
	s.events()
	if s.down != nil || len(s.got) != 1 || s.conn.opening.forged != fakeForgedMax {
		t.Fatalf("after as many forged packets as may be: %v, %d messages, %d forged", s.down, len(s.got), s.conn.opening.forged)
	}
	try()
	s.flush()
	w.waitFor(t, 200*time.Millisecond, "EventDown", func() bool { return s.down != nil && c.down != nil })
	if !errors.Is(s.down, ErrForged) || !errors.Is(c.down, ErrClosed) {
		t.Errorf("%v, and the peer heard %v", s.down, c.down)
	}
}

// Hints are told if the configuration says so, of the first message in a
// packet, and can't be changed on the way.
func TestHints(t *testing.T) {
	for _, hints := range []bool{false, true} {
		w := pair(t, 1, func(_ int, cfg *Config) { cfg.Hints = hints })
		c, s := w.node[0], w.node[1]
		for i, hint := range []uint64{0, 1, 1 << 63, 0x0102030405060708} {
			b := c.datagram(t, Outgoing{Kind: Notice, Hint: hint})
			h, err := packet.DecodeHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			if told := hints && hint != 0; h.Hinted != told || told && h.Hint != hint {
				t.Errorf("hints %v, %#x: the header is %+v", hints, hint, h)
			}
			s.forge(b, nil) // adopt must not be called
			s.conn.Receive(s.local(), 0, b)
			s.events()
			if len(s.got) != i+1 {
				t.Fatalf("hints %v, %#x: %d messages arrived, want %d", hints, hint, len(s.got), i+1)
			}
		}
		// Long messages, and everything else that goes on.
		for range 20 {
			c.must(t, Outgoing{Kind: Request, Hint: 7}, 50_000)
		}
		w.pass(t, 50*time.Millisecond)
		if len(s.got) < 24 {
			t.Errorf("hints %v: %d messages arrived, want 24", hints, len(s.got))
		}
	}
}
