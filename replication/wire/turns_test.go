package wire

import (
	"slices"
	"testing"
)

// arrivals sends messages of these sizes from one end at once, and returns how many datagrams had
// been sent when each was there.
func arrivals(t *testing.T, sizes []int) []int {
	t.Helper()
	d := newDuo(t, 8900, true)
	at := make([]int, len(sizes))
	left := len(sizes)
	before := d.sent[0]
	d.got = func(_ int, e *Event) {
		at[e.Message.Data[0]] = d.sent[0] - before
		left--
		e.Message.Release()
	}
	for i, n := range sizes {
		data := make([]byte, n)
		data[0] = byte(i)
		if _, err := d.end[0].Send(d.now, Outgoing{Kind: Notice, Data: [][]byte{data}}); err != nil {
			t.Fatal(err)
		}
	}
	for left > 0 {
		d.turn()
	}
	return at
}

// Long messages that are sent together arrive one after the other, and not all in the end:
// who gets them works on the first while the last are on their way. With an equal share for
// each, the first of these was complete after 456 of 476 datagrams.
func TestLongMessagesArriveOneAfterTheOther(t *testing.T) {
	at := arrivals(t, slices.Repeat([]int{512 << 10}, 8))
	slices.Sort(at)
	all := at[len(at)-1]
	if at[0] > all*3/10 || at[1] > all*5/10 || at[3] > all*8/10 {
		t.Errorf("of %d datagrams, messages were complete after %v", all, at)
	}
}

// What is shorter gets past: neither the first of the long ones nor all of them together hold
// it up for long.
func TestLongMessagesLetOthersPass(t *testing.T) {
	long := []int{512 << 10, 512 << 10, 512 << 10, 512 << 10}
	for _, c := range []struct{ bytes, most int }{
		{4 << 10, 12},   // one datagram, which takes turns with those of the long messages
		{64 << 10, 100}, // 8 datagrams, after the first of which it has an eighth of all
	} {
		at := arrivals(t, append(slices.Clone(long), c.bytes))
		if got := at[len(long)]; got > c.most {
			t.Errorf("%d bytes behind four messages of 512 KiB arrived with datagram %d, want %d at most; all: %v", c.bytes, got, c.most, at)
		}
	}
}
