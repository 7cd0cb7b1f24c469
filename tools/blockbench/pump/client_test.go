package pump

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// counting is a dialect of replies of 3 bytes of header: the slot, whether it
// is the last for it, and how many bytes follow.
type counting struct{ aimed []int }

func (d *counting) Aim(_ []byte, slot int) { d.aimed = append(d.aimed, slot) }
func (d *counting) HeadLen() int           { return 3 }
func (d *counting) Answer(head []byte) (slot, follow int, err error) {
	if head[1] == 0 {
		return -1, int(head[2]), nil
	}
	return int(head[0]), int(head[2]), nil
}

// Replies are told apart however reads cut them, and each makes a request of
// its slot.
func TestRepliesAreReadHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const depth = 4
		d := &counting{}
		c := &client{dialect: d, size: 8, hist: newHistogram(), requests: make([]byte, depth*8), sent: make([]time.Time, depth), head: make([]byte, 3)}
		c.order.slots, c.owed.slots = make([]int, depth), make([]int, depth)
		now := time.Now()
		c.begin(now, now.Add(-time.Second))
		c.wrote(depth * 8)
		var stream []byte
		var want []int
		for range rapid.IntRange(1, 20).Draw(t, "replies") {
			slot := rapid.IntRange(0, depth-1).Draw(t, "slot")
			last := rapid.IntRange(0, 1).Draw(t, "last")
			n := rapid.IntRange(0, 9).Draw(t, "bytes")
			stream = append(append(stream, byte(slot), byte(last), byte(n)), make([]byte, n)...)
			if last == 1 {
				want = append(want, slot)
			}
		}
		d.aimed = nil
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "read")
			if err := c.took(stream[:n], now); err != nil {
				t.Fatal(err)
			}
			c.wrote(c.owed.n*8 - c.at) // all that is owed
			stream = stream[n:]
		}
		if len(d.aimed) != len(want) || int(c.hist.TotalCount()) != len(want) {
			t.Fatalf("requests %v, want %v; %d are counted", d.aimed, want, c.hist.TotalCount())
		}
		for i := range want {
			if d.aimed[i] != want[i] {
				t.Fatalf("requests %v, want %v", d.aimed, want)
			}
		}
	})
}

// What is owed goes out in order, each request whole, however writes cut it.
func TestRequestsGoOutInOrderHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const depth, size = 5, 4
		c := &client{size: size, requests: make([]byte, depth*size)}
		c.owed.slots = make([]int, depth)
		for i := range c.requests {
			c.requests[i] = byte(i)
		}
		for slot := range depth {
			c.owed.push(slot)
		}
		var out []byte
		for c.owed.n > 0 {
			var offered []byte
			for _, p := range c.vectors(rapid.IntRange(1, depth).Draw(t, "parts")) {
				offered = append(offered, p...)
			}
			n := rapid.IntRange(0, len(offered)).Draw(t, "write")
			out = append(out, offered[:n]...)
			c.wrote(n)
		}
		if string(out) != string(c.requests) {
			t.Fatalf("wrote %v", out)
		}
	})
}

// Replies go out in order, each whole, however writes cut them, and come from
// all over the memory.
func TestRepliesGoOutInOrderHoweverTheyAreCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const unit, places = 4, 8
		mem := make([]byte, unit*places)
		for i := range mem {
			mem[i] = byte(i)
		}
		s := sender{from: newSource(mem, unit)}
		var out []byte
		total := 0
		seen := map[byte]bool{}
		for range 40 {
			n := rapid.IntRange(0, 5).Draw(t, "units")
			s.add(n)
			total += n
			var offered []byte
			for _, p := range s.vectors(rapid.IntRange(1, 8).Draw(t, "parts")) {
				offered = append(offered, p...)
			}
			k := rapid.IntRange(0, len(offered)).Draw(t, "write")
			out = append(out, offered[:k]...)
			s.wrote(k)
		}
		for !s.empty() {
			v := s.vectors(1)[0]
			out = append(out, v...)
			s.wrote(len(v))
		}
		if len(out) != total*unit {
			t.Fatalf("%d bytes are out, want %d", len(out), total*unit)
		}
		for i := 0; i < len(out); i += unit {
			seen[out[i]] = true
			if out[i]%unit != 0 || out[i+3] != out[i]+3 {
				t.Fatalf("reply %d is % x", i/unit, out[i:i+unit])
			}
		}
		if total > 100 && len(seen) < places/2 {
			t.Fatalf("%d replies come from %d places", total, len(seen))
		}
	})
}
