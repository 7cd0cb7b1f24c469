package wire

import (
	"errors"
	"slices"
	"sync"
	"testing"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

// The table does what a map does.
func TestTableIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab table[uint64]
		model := map[uint64]*uint64{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			k := rapid.Uint64Range(1, 200).Draw(t, "key") * rapid.SampledFrom([]uint64{1, 64, 4096}).Draw(t, "stride")
			if model[k] == nil && rapid.IntRange(0, 2).Draw(t, "op") > 0 {
				v := k
				tab.put(k, &v)
				model[k] = &v
			} else {
				tab.remove(k)
				delete(model, k)
			}
			for k, v := range model {
				if tab.get(k) != v {
					t.Fatalf("key %d is gone", k)
				}
			}
			if tab.count != len(model) || tab.get(7777777) != nil {
				t.Fatalf("%d values, want %d", tab.count, len(model))
			}
		}
		n := 0
		tab.each(func(*uint64) { n++ })
		if n != len(model) {
			t.Fatalf("visited %d of %d", n, len(model))
		}
	})
}

// A sequence takes each number once; only those far behind are refused unseen.
func TestSequenceTakesOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s sequence
		taken := map[uint64]bool{}
		at := rapid.Uint64Max(1<<40).Draw(t, "start")
		top := uint64(0)
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			n := at + uint64(rapid.IntRange(0, 40).Draw(t, "near"))
			if rapid.IntRange(0, 20).Draw(t, "jump") == 0 {
				at += uint64(rapid.IntRange(0, 2*sequenceSpan).Draw(t, "by"))
			}
			fresh := s.fresh(n)
			switch {
			case fresh && taken[n]:
				t.Fatalf("%d is fresh again", n)
			case !fresh && !taken[n] && n+sequenceSpan-64 > top:
				t.Fatalf("%d was never taken and is not far behind %d", n, top)
			case s.take(n) != fresh:
				t.Fatalf("take of %d disagrees with fresh", n)
			}
			if fresh {
				taken[n] = true
				top = max(top, n)
			}
		}
	})
}

// A settled sequence forgets nothing as long as numbers fit.
func TestSequenceSettles(t *testing.T) {
	var s sequence
	for n := uint64(0); n < 3*sequenceSpan; n++ {
		if !s.fits(n) || !s.take(n) {
			t.Fatalf("%d", n)
		}
		s.settle()
	}
	s.take(3*sequenceSpan + 1) // leaves a hole
	for n := uint64(3*sequenceSpan + 2); s.fits(n); n++ {
		s.take(n)
		s.settle()
	}
	if !s.fresh(3 * sequenceSpan) {
		t.Error("the hole is forgotten")
	}
}

// spans do what a set of bytes does.
func TestSpansAreASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s spans
		var model [300]bool
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			from := rapid.IntRange(0, 280).Draw(t, "from")
			to := from + rapid.IntRange(0, 19).Draw(t, "length")
			before := slices.Clone(s)
			fresh, ok := s.add(from, to, 8)
			if !ok {
				if len(before) < 8 || !slices.Equal(s, before) {
					t.Fatalf("refused with %d spans: %v", len(before), s)
				}
				continue
			}
			want := 0
			for i := from; i < to; i++ {
				if !model[i] {
					want++
				}
				model[i] = true
			}
			if fresh != want {
				t.Fatalf("%d..%d: %d new, want %d in %v", from, to, fresh, want, s)
			}
			sum := 0
			for i, p := range s {
				sum += p.to - p.from
				if i > 0 && p.from <= s[i-1].to {
					t.Fatalf("spans touch: %v", s)
				}
			}
			for _, b := range model {
				if b {
					sum--
				}
			}
			if sum != 0 {
				t.Fatalf("%v is not what was added", s)
			}
		}
	})
}

// Acknowledgements name packets that came, the newest without exception.
func TestAcksNameWhatCame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := acks{due: clock.Never}
		came := map[uint64]bool{}
		for i := range rapid.IntRange(1, 300).Draw(t, "packets") {
			n := uint64(i) + uint64(rapid.IntRange(0, 10).Draw(t, "ahead"))
			if came[n] {
				continue
			}
			came[n] = true
			a.note(clock.Mono(i), n, 100, true, false, 25)
			last := uint64(1 << 60)
			for _, r := range a.ranges[:a.count] {
				if r.First > r.Last || r.Last+1 >= last {
					t.Fatalf("ranges %v", a.ranges[:a.count])
				}
				for n := r.First; n <= r.Last; n++ {
					if !came[n] {
						t.Fatalf("%d never came: %v", n, a.ranges[:a.count])
					}
				}
				last = r.First
			}
			newest := uint64(0)
			for n := range came {
				newest = max(newest, n)
			}
			if a.ranges[0].Last != newest || !slices.ContainsFunc(a.ranges[:a.count], func(r packet.Range) bool { return r.First <= n && n <= r.Last }) && a.count < len(a.ranges) {
				t.Fatalf("%d and %d must be in %v", n, newest, a.ranges[:a.count])
			}
		}
	})
}

// Release may be called by any goroutine, while the Conn goes on.
func TestReleaseOnAnyGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t)
	d := newDuo(t, 8900, false)
	d.end[1].cfg.Alloc = heapAlloc // the pool of newDuo is for one goroutine
	messages := make(chan Message, 64)
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			for m := range messages {
				m.Release()
			}
		})
	}
	got := 0
	d.got = func(_ int, e *Event) { got++; messages <- e.Message }
	for i := 0; got < 5000; i++ {
		if _, err := d.end[0].Send(d.now, Outgoing{Kind: Notice, Data: [][]byte{content(5000, 0, 1)}}); err != nil && !errors.Is(err, ErrQueueFull) {
			t.Fatal(err)
		}
		d.turn()
	}
	close(messages)
	done.Wait()
	if s := d.end[1].Stats(); s.HeldMessages != 0 || s.HeldBytes != 0 {
		t.Errorf("%d messages of %d bytes are still held", s.HeldMessages, s.HeldBytes)
	}
}
