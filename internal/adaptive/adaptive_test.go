package adaptive

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newPoller(cfg Config) *Poller {
	p := &Poller{}
	p.Init(cfg)
	return p
}

// wait tells p of one wait for an event that comes after gap.
func wait(p *Poller, gap time.Duration) {
	budget := p.Begin()
	switch {
	case budget > gap:
		p.Hit(gap)
		return
	case budget > 0:
		p.Miss(budget)
	}
	p.Parked(gap)
}

func TestBudgetVanishesForDistantEventsAndReturnsForCloseOnes(t *testing.T) {
	p := newPoller(Config{})
	for range 10 {
		wait(p, 10*time.Millisecond)
	}
	if got := p.Begin(); got != 0 {
		t.Fatalf("after long gaps the budget is %v", got)
	}
	p.Parked(DefaultMax)
	if got := p.Begin(); got != DefaultMax {
		t.Fatalf("after a short gap the budget is %v", got)
	}
	p.Stop(0)
}

// An idle source must cost nothing: what it polls in all, however long it
// stays idle, is bounded by twice the longest budget.
func TestIdleSourceSpinsLittle(t *testing.T) {
	p := newPoller(Config{})
	for range 1000 {
		wait(p, time.Second)
	}
	if got := p.Stats().Spun; got > 2*DefaultMax {
		t.Fatalf("an idle source polled for %v, want at most %v", got, 2*DefaultMax)
	}
}

// Where both ends poll on one processor, an event comes when this end sleeps at
// last, and not before. Polling must all but end there, and be back soon after
// the other end has a processor of its own.
func TestPollingRestsWhereItHoldsUpTheEvent(t *testing.T) {
	p := newPoller(Config{})
	const waits, soon = 10_000, 10 * time.Microsecond
	for range waits {
		if budget := p.Begin(); budget > 0 {
			p.Miss(budget)
			p.Parked(budget + soon)
		} else {
			p.Parked(soon)
		}
	}
	if got := p.Stats(); got.Misses > waits/100 {
		t.Fatalf("%d of %d waits polled in vain", got.Misses, waits)
	}
	for range 2 * restMax {
		wait(p, soon)
	}
	before := p.Stats().Hits
	for range 100 {
		wait(p, soon)
	}
	if got := p.Stats().Hits - before; got != 100 {
		t.Fatalf("%d hits of 100 after the other end got a processor", got)
	}
}

// One late event among many does not end polling.
func TestOneMissDoesNotEndPolling(t *testing.T) {
	p := newPoller(Config{})
	for i := range 1000 {
		gap := 3 * time.Microsecond
		if i%20 == 19 {
			gap = DefaultMax + 20*time.Microsecond
		}
		wait(p, gap)
	}
	if s := p.Stats(); s.Hits < 940 {
		t.Fatalf("%d hits of 950", s.Hits)
	}
}

// A source with steady gaps below the limit ends up with every wait being a
// hit, and a budget that is near to what it needs.
func TestSteadySourceIsAlwaysHit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		gap := time.Duration(rapid.Int64Range(0, int64(DefaultMax)/2-int64(jitter)).Draw(t, "gap"))
		p := newPoller(Config{})
		for range 200 {
			wait(p, gap)
		}
		before := p.Stats()
		for range 100 {
			wait(p, gap)
		}
		s := p.Stats()
		if s.Hits-before.Hits != 100 {
			t.Fatalf("gap %v: %d hits of 100, budget %v", gap, s.Hits-before.Hits, s.Budget)
		}
		if s.Budget > 3*(gap+jitter) {
			t.Fatalf("gap %v: budget %v", gap, s.Budget)
		}
	})
}

func TestLimitLeavesTheOthersAsleep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.IntRange(0, 4).Draw(t, "places")
		limit := NewLimit(places)
		pollers := make([]*Poller, 8)
		for i := range pollers {
			pollers[i] = newPoller(Config{Limit: limit})
		}
		polling := map[*Poller]bool{}
		for _, i := range rapid.SliceOf(rapid.IntRange(0, len(pollers)-1)).Draw(t, "turns") {
			p := pollers[i]
			if polling[p] {
				p.Hit(time.Microsecond)
				delete(polling, p)
				continue
			}
			got := p.Begin() > 0
			if want := len(polling) < places; got != want {
				t.Fatalf("%d of %d places are taken, polling: %v", len(polling), places, got)
			}
			if got {
				polling[p] = true
			}
		}
		if limit.Pollers() != len(polling) {
			t.Fatalf("%d pollers, want %d", limit.Pollers(), len(polling))
		}
		var sum Stats
		for _, p := range pollers {
			sum.Add(p.Stats())
		}
		if sum.Spinning != len(polling) {
			t.Fatalf("Stats say that %d poll, want %d", sum.Spinning, len(polling))
		}
	})
}

func TestModesAreObeyedWhateverIsSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := NewLimit(1)
		busy := newPoller(Config{Mode: Busy, Limit: limit})
		interrupt := newPoller(Config{Mode: Interrupt, Limit: limit})
		if !limit.enter() {
			t.Fatal("a new limit is full")
		}
		for _, gap := range rapid.SliceOf(rapid.Int64Range(0, int64(time.Second))).Draw(t, "gaps") {
			if got := busy.Begin(); got != Forever {
				t.Fatalf("busy polls for %v", got)
			}
			busy.Hit(time.Duration(gap))
			if got := interrupt.Begin(); got != 0 {
				t.Fatalf("interrupt polls for %v", got)
			}
			interrupt.Parked(time.Duration(gap))
		}
	})
}

func TestModeNamesRoundTrip(t *testing.T) {
	for m := Adaptive; m <= Interrupt; m++ {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("ParseMode(%q) = %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("sometimes"); err == nil {
		t.Error("an unknown mode is accepted")
	}
}

func TestEndedKeepsTheCounts(t *testing.T) {
	p := newPoller(Config{})
	wait(p, time.Microsecond)
	wait(p, time.Second)
	s := p.Stats()
	e := s.Ended()
	if e.Hits != 1 || e.Misses != 1 || e.Parks != 1 || e.Spun != s.Spun || e.Budget != 0 || e.Spinning != 0 {
		t.Fatalf("of %+v stays %+v", s, e)
	}
}

func TestWaitingDoesNotAllocate(t *testing.T) {
	p := newPoller(Config{})
	if n := testing.AllocsPerRun(100, func() { wait(p, time.Microsecond); wait(p, time.Second); p.Stats() }); n != 0 {
		t.Fatalf("%v allocations per wait", n)
	}
}
