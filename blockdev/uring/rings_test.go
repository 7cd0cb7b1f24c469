package uring

import "testing"

// memory is a pair of rings in plain memory whose indexes start at first.
func memory(entries, first uint32) (*submission, *completion, *[4]uint32) {
	words := &[4]uint32{first, first, first, first}
	s := &submission{head: &words[0], tail: &words[1], flags: new(uint32), mask: entries - 1, sqes: make([]SQE, entries), next: first}
	c := &completion{head: &words[2], tail: &words[3], mask: 2*entries - 1, cqes: make([]CQE, 2*entries)}
	return s, c, words
}

// TestRingsWrap: indexes run over 2^32 with every fill level, entries come out
// in order, a full ring gives none, and entries are handed out zeroed.
func TestRingsWrap(t *testing.T) {
	const entries = 4
	for first := ^uint32(20); first != 3; first++ {
		s, c, words := memory(entries, first)
		sent, got := uint64(0), uint64(0)
		for round := range 60 {
			for range round % (entries + 1) {
				e := s.get()
				if e == nil {
					t.Fatalf("start %#x round %d: no entry though the ring is empty", first, round)
				}
				if *e != (SQE{}) {
					t.Fatalf("start %#x: entry is not zeroed", first)
				}
				sent++
				e.UserData, e.Len = sent, 7
			}
			if round%(entries+1) == entries && s.get() != nil {
				t.Fatalf("start %#x: a full ring gave an entry", first)
			}
			s.publish()
			if n := s.unconsumed(); n != uint32(round%(entries+1)) {
				t.Fatalf("start %#x: %d unconsumed", first, n)
			}
			for words[0] != words[1] { // the kernel's side
				c.cqes[words[3]&c.mask] = CQE{UserData: s.sqes[words[0]&s.mask].UserData}
				words[0]++
				words[3]++
			}
			var out [3]CQE
			for c.ready() > 0 {
				for _, e := range out[:c.reap(out[:])] {
					if got++; e.UserData != got {
						t.Fatalf("start %#x: got %d, want %d", first, e.UserData, got)
					}
				}
			}
			if c.reap(out[:]) != 0 {
				t.Fatal("an empty ring gave a completion")
			}
		}
		if got != sent || sent == 0 {
			t.Fatalf("sent %d, got %d", sent, got)
		}
	}
}
