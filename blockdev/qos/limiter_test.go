package qos_test

import (
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/blockdev/qos"
	"blockd.dev/internal/clock"
)

// host keeps depth requests outstanding through a Limiter, as an initiator does, at
// something that answers each after a time.
type host struct {
	l       *qos.Limiter
	bytes   int64
	answers time.Duration
	gone    *atomic.Bool

	passed []time.Duration // when they went on, since the start
	start  time.Time
	stop   bool
	turn   chan struct{} // one who changes the fields at a time
}

type request struct{ h *host }

// pass lets virtual time pass, and all that happens in it happen.
func pass(d time.Duration) {
	time.Sleep(d) // sleep: virtual time
	synctest.Wait()
}

func newHost(l *qos.Limiter, bytes int64) *host {
	return &host{l: l, bytes: bytes, start: time.Now(), turn: make(chan struct{}, 1), answers: 100 * time.Microsecond}
}

func (h *host) run(depth int, d time.Duration) {
	for range depth {
		(&request{h}).submit()
	}
	pass(d) // in which the requests go on
	h.turn <- struct{}{}
	h.stop = true
	<-h.turn
}

func (r *request) submit() {
	p, ok := r.h.l.Admit(qos.Request{What: r, Bytes: r.h.bytes, Gone: r.h.gone, Go: goOn})
	if ok {
		r.goOn(p)
	}
}

func goOn(what any, p qos.Pass) { what.(*request).goOn(p) }

func (r *request) goOn(p qos.Pass) {
	h := r.h
	h.turn <- struct{}{}
	h.passed = append(h.passed, time.Since(h.start))
	over := h.stop
	<-h.turn
	if p.Counts {
		h.l.Done(h.bytes)
	}
	if !over {
		time.AfterFunc(h.answers, r.submit)
	}
}

// between counts requests that went on in a part of the time.
func (h *host) between(from, to time.Duration) int {
	n := 0
	for _, at := range h.passed {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

func within(t *testing.T, what string, got int, want float64) {
	t.Helper()
	if math.Abs(float64(got)-want) > want/20 {
		t.Errorf("%s: %d, want %.0f within 5 %%", what, got, want)
	}
}

// The rate is what the limits say, whichever binds, for small and for large requests.
func TestRateIsHeld(t *testing.T) {
	for name, c := range map[string]struct {
		limits qos.Limits
		bytes  int64
		want   float64 // requests per second
	}{
		"few operations":     {qos.Limits{Ops: 10}, 4096, 10},
		"operations":         {qos.Limits{Ops: 1000}, 4096, 1000},
		"many operations":    {qos.Limits{Ops: 50_000}, 512, 50_000},
		"bytes":              {qos.Limits{Bytes: 8 << 20}, 64 << 10, 128},
		"both, operations":   {qos.Limits{Ops: 100, Bytes: 1 << 30}, 4096, 100},
		"both, bytes":        {qos.Limits{Ops: 100_000, Bytes: 10 << 20}, 1 << 20, 10},
		"more than a bucket": {qos.Limits{Bytes: 1 << 20}, 8 << 20, 1.0 / 8},
		"large operations":   {qos.Limits{Ops: 100}, 4 * qos.OpBytes, 25},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := qos.New(clock.Fast{})
				l.Set(c.limits)
				h := newHost(l, c.bytes)
				seconds := max(4, 40/c.want)
				h.run(128, time.Duration((1+seconds)*float64(time.Second)))
				// The first second has the slack of 0.1 s in it.
				within(t, "requests", h.between(time.Second, time.Hour), c.want*seconds)
				if s := l.Stats(); s.Held == 0 || s.Waited == 0 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// What was not used for as long as the burst goes at once, and no more than that.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 100, Burst: 5 * time.Second})
		pass(time.Minute) // that is not used
		h := newHost(l, 4096)
		h.run(64, 20*time.Second)
		within(t, "first half second", h.between(0, 500*time.Millisecond), 5*100+50)
		within(t, "after that", h.between(time.Second, 20*time.Second), 1900)
	})
}

// late is a clock of a machine on which nothing runs at times.
type late struct{ by atomic.Int64 }

func (c *late) Now() clock.Mono { return clock.Fast{}.Now() + clock.Mono(c.by.Load()) }

// A machine that is too busy to run the timer in time takes nothing from those who
// waited; those who did not get no more than a bucket.
func TestLateTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &late{}
		l := qos.New(c)
		l.Set(qos.Limits{Ops: 100})
		h := newHost(l, 4096)
		for i := range 10 {
			time.AfterFunc(time.Duration(2*i+1)*time.Second, func() { c.by.Add(int64(500 * time.Millisecond)) })
		}
		h.run(128, 20*time.Second)
		within(t, "in 25 seconds, 5 of them at once", len(h.passed), 2500)

		l = qos.New(c)
		l.Set(qos.Limits{Ops: 100})
		c.by.Add(int64(time.Minute))
		h = newHost(l, 4096)
		h.run(128, time.Second)
		within(t, "in a second after a minute", len(h.passed), 110)
	})
}

// A change holds at once for what waits.
func TestChangeOfLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 10})
		h := newHost(l, 4096)
		time.AfterFunc(10*time.Second, func() { l.Set(qos.Limits{Ops: 1000}) })
		time.AfterFunc(20*time.Second, func() { l.Set(qos.Limits{Bytes: 4096 * 50}) })
		time.AfterFunc(30*time.Second, func() { l.Set(qos.Limits{}) })
		h.run(32, 30500*time.Millisecond)
		within(t, "10 a second", h.between(time.Second, 10*time.Second), 90)
		within(t, "1000 a second", h.between(10*time.Second, 20*time.Second), 10_000)
		within(t, "50 a second", h.between(20*time.Second, 30*time.Second), 500)
		if n := h.between(30*time.Second, 31*time.Second); n < 100_000 {
			t.Errorf("without limits only %d in half a second", n)
		}
		if l.Bounded() || l.Stats().Now != 0 {
			t.Errorf("without limits %+v", l.Stats())
		}
	})
}

// All leave in the order in which they came, also those that come while others leave.
func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 1000})
		var order []int
		numbers := make([]int, 500)
		for i := range numbers {
			numbers[i] = i
			if _, ok := l.Admit(qos.Request{What: &numbers[i], Bytes: 1, Go: func(what any, _ qos.Pass) { order = append(order, *what.(*int)) }}); ok {
				order = append(order, i)
			}
			if i%7 == 0 {
				pass(time.Millisecond) // for some to leave
			}
		}
		pass(time.Minute) // for all to leave
		if len(order) != len(numbers) || !slices.IsSorted(order) {
			t.Errorf("%d left, in this order: %v", len(order), order)
		}
	})
}

// Who is withdrawn is not told to go on, and leaves its share to others.
func TestWithdraw(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 10})
		l.Admit(qos.Request{What: new(int)}) // the slack
		var went [5]time.Duration
		var what [5]int
		start := time.Now()
		for i := range what {
			if _, ok := l.Admit(qos.Request{What: &what[i], Go: func(any, qos.Pass) { went[i] = time.Since(start) }}); ok {
				t.Fatalf("%d did not wait", i)
			}
		}
		if !l.Withdraw(&what[0]) || !l.Withdraw(&what[3]) || l.Withdraw(&what[3]) {
			t.Error("it is there once")
		}
		pass(time.Second) // for all to leave
		if l.Withdraw(&what[1]) {
			t.Error("withdrawn after it went on")
		}
		for i, want := range []time.Duration{0, 100, 200, 0, 300} {
			if d := went[i] - want*time.Millisecond; d < 0 || d > 5*time.Millisecond {
				t.Errorf("%d went on after %v, want %d ms", i, went[i], want)
			}
		}
	})
}

// A host that is gone does not hold up the others: what it had leaves soon, told so, and
// has cost nothing.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 10})
		l.Admit(qos.Request{What: new(int)}) // the slack
		var gone atomic.Bool
		start := time.Now()
		left := 0
		for range 100 {
			l.Admit(qos.Request{What: new(int), Gone: &gone, Go: func(_ any, p qos.Pass) {
				if left++; !p.Gone {
					t.Error("it was to go on")
				}
			}})
		}
		var other time.Duration
		l.Admit(qos.Request{What: new(int), Go: func(_ any, p qos.Pass) {
			if other = time.Since(start); p.Gone || p.Since == 0 {
				t.Errorf("%+v", p)
			}
		}})
		gone.Store(true)
		pass(60 * time.Millisecond) // until it is seen
		if left != 100 {
			t.Errorf("%d have left after 60 ms", left)
		}
		pass(time.Second) // for the other one
		if other < 90*time.Millisecond || other > 110*time.Millisecond {
			t.Errorf("the other one went on after %v", other)
		}
	})
}

// Where requests are forwarded, a few are under way at a time, whatever the limits; and
// none waits longer than WindowWait.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 1_000_000})
		l.Enforce(qos.Windowed)
		var flying, most, left atomic.Int64
		fly := func(_ any, p qos.Pass) {
			if !p.Counts {
				t.Error("it does not count")
			}
			left.Add(1)
			if n := flying.Add(1); n > most.Load() {
				most.Store(n)
			}
		}
		for range 100 {
			if p, ok := l.Admit(qos.Request{What: new(int), Bytes: 4096, Go: fly}); ok {
				fly(nil, p)
			}
		}
		if most.Load() != qos.WindowOps {
			t.Errorf("%d under way", most.Load())
		}
		// One of another node is none to hold here.
		if p, ok := l.Admit(qos.Request{What: new(int), Bytes: 4096, Forwarded: true, Go: fly}); !ok || p.Counts {
			t.Error("a forwarded one was held where nothing is metered")
		}
		for range 50 {
			flying.Add(-1)
			l.Done(4096)
		}
		if left.Load() != 66 || most.Load() != qos.WindowOps {
			t.Errorf("%d have left, %d at a time", left.Load(), most.Load())
		}
		pass(qos.WindowWait + 60*time.Millisecond) // after which none waits
		if left.Load() != 100 {
			t.Errorf("%d have left after %v", left.Load(), qos.WindowWait)
		}
		for range 50 {
			l.Done(4096)
		}
		// A large one goes alone.
		_, one := l.Admit(qos.Request{What: new(int), Bytes: 4 << 20, Go: fly})
		_, two := l.Admit(qos.Request{What: new(int), Bytes: 1, Go: fly})
		if !one || two {
			t.Errorf("a large one %v, with another %v", one, two)
		}
	})
}

// Another owner: what is held here goes on to it at once, as far as it is not this node's
// to hold; and what comes to be owned here is held.
func TestModes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 10})
		own, forwarded := 0, 0
		for range 10 {
			l.Admit(qos.Request{What: new(int), Go: func(any, qos.Pass) { own++ }})
			l.Admit(qos.Request{What: new(int), Forwarded: true, Go: func(any, qos.Pass) { forwarded++ }})
		}
		l.Enforce(qos.Windowed)
		if own != 9 || forwarded != 10 {
			t.Errorf("%d and %d of others have left", own, forwarded)
		}
		for range 9 {
			l.Done(0)
		}
		l.Enforce(qos.Metered)
		if _, ok := l.Admit(qos.Request{What: new(int), Forwarded: true, Go: func(any, qos.Pass) {}}); ok {
			t.Error("it is metered, and one of another node was not held")
		}
		l.Set(qos.Limits{})
		if l.Stats().Now != 0 {
			t.Errorf("%+v", l.Stats())
		}
	})
}

// A request that completes within Go may be followed by the next one from there.
func TestGoMaySubmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := qos.New(clock.Fast{})
		l.Set(qos.Limits{Ops: 1000})
		n := 0
		var next func(any, qos.Pass)
		next = func(what any, _ qos.Pass) {
			for n++; n < 5000; n++ {
				if _, ok := l.Admit(qos.Request{What: what, Go: next}); !ok {
					return
				}
			}
		}
		start := time.Now()
		next(new(int), qos.Pass{})
		pass(10 * time.Second) // for all of them
		if n != 5000 {
			t.Errorf("%d in %v", n, time.Since(start))
		}
	})
}

func TestHoldingDoesNotAllocate(t *testing.T) {
	l := qos.New(clock.Fast{})
	l.Set(qos.Limits{Ops: 1_000_000_000})
	what, over := new(int), make(chan struct{}, 1)
	went := func(any, qos.Pass) { over <- struct{}{} }
	cycle := func() {
		if _, ok := l.Admit(qos.Request{What: what, Bytes: 4096, Go: went}); !ok {
			<-over
		}
	}
	if n := testing.AllocsPerRun(1000, cycle); n != 0 || l.Stats().Held != 0 {
		t.Errorf("%v allocations for one that goes on; %+v", n, l.Stats())
	}
	l.Set(qos.Limits{})
	l.Set(qos.Limits{Ops: 10_000}) // a new bucket, with the slack
	for l.Stats().Held < 10 {
		cycle()
	}
	before := l.Stats().Held
	if n := testing.AllocsPerRun(200, cycle); n != 0 || l.Stats().Held == before {
		t.Errorf("%v allocations for one that is held; %+v", n, l.Stats())
	}
}

func BenchmarkUnlimited(b *testing.B) {
	l := qos.New(clock.Boot{})
	n := 0
	for b.Loop() {
		if l.Bounded() {
			n++
		}
	}
	if n > 0 {
		b.Fatal("bounded")
	}
}

func BenchmarkAdmit(b *testing.B) {
	l := qos.New(clock.Boot{})
	l.Set(qos.Limits{Ops: 1_000_000_000, Bytes: 1 << 40})
	what, went := new(int), func(any, qos.Pass) {}
	b.ReportAllocs()
	for b.Loop() {
		l.Admit(qos.Request{What: what, Bytes: 512, Go: went})
	}
}
