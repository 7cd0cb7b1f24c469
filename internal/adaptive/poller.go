package adaptive

import (
	"math"
	"sync/atomic"
	"time"
)

// Forever is the budget in mode Busy.
const Forever = time.Duration(math.MaxInt64)

const (
	// DefaultMax is the longest budget by default: about what a wake-up costs.
	DefaultMax = 60 * time.Microsecond
	// DefaultWakeCost is what a wake-up is taken to cost by default.
	DefaultWakeCost = 100 * time.Microsecond

	// jitter is added to twice the last gap, for sources whose gaps are less
	// than a look at the clock.
	jitter = 5 * time.Microsecond
	// budgetMin is the budget below which polling is given up.
	budgetMin = time.Microsecond

	// missesMax is how many polls of the longest budget may miss in a row what
	// then comes soon; restMin and restMax are for how many waits polling rests
	// after that, twice as long each time.
	missesMax        = 2
	restMin, restMax = 16, 1024
)

// Config says how a source is waited for. The zero value means the defaults.
type Config struct {
	Mode Mode
	// Max is the longest budget that is learned; default DefaultMax.
	Max time.Duration
	// WakeCost is how much later than the event a sleeper notices it; default
	// DefaultWakeCost. A sleep shorter than Max and WakeCost together would
	// have ended while polling.
	WakeCost time.Duration
	// Limit is what the source takes its place in; nil means that of the
	// process, with a place for every second processor.
	Limit *Limit
}

// Poller learns how one source is best waited for. Begin, Hit, Miss and Parked
// belong to the goroutine that waits; Stats may be called from any.
type Poller struct {
	mode     Mode
	max      time.Duration
	wakeCost time.Duration
	limit    *Limit
	budget   time.Duration // learned
	missed   bool          // this wait has polled in vain
	vain     int           // polls of the longest budget that did, in a row
	rest     int           // waits until polling is tried again
	restNext int           // how long the next rest is

	spinning            atomic.Bool
	hits, misses, parks atomic.Uint64
	spun, shown         atomic.Int64 // shown is budget, for Stats
}

// Init makes p ready. A source begins as one that is worth polling for.
func (p *Poller) Init(cfg Config) {
	if cfg.Max <= 0 {
		cfg.Max = DefaultMax
	}
	if cfg.WakeCost <= 0 {
		cfg.WakeCost = DefaultWakeCost
	}
	if cfg.Limit == nil {
		cfg.Limit = process
	}
	p.mode, p.max, p.wakeCost, p.limit = cfg.Mode, cfg.Max, cfg.WakeCost, cfg.Limit
	p.restNext = restMin
	switch p.mode {
	case Busy:
		p.setBudget(Forever)
	case Interrupt:
		p.setBudget(0)
	default:
		p.setBudget(p.max)
	}
}

// Begin begins a wait. It returns for how long to poll, 0 being not at all;
// a longer one must be followed by one Hit, Miss or Stop.
func (p *Poller) Begin() time.Duration {
	p.missed = false
	switch {
	case p.budget == 0:
		return 0
	case p.mode == Busy:
		p.limit.force()
	case !p.limit.enter():
		return 0
	}
	p.spinning.Store(true)
	return p.budget
}

// Polls reports whether the next Begin polls if there is a place.
func (p *Poller) Polls() bool { return p.budget > 0 }

// Hit ends a wait by an event that polling saw, gap after the wait began.
func (p *Poller) Hit(gap time.Duration) {
	p.hits.Add(1)
	p.Stop(gap)
	if p.mode != Adaptive {
		return
	}
	p.vain, p.restNext = 0, restMin
	// Rising at once and falling slowly, so that jitter does not end polling.
	p.setBudget(max(p.budget-p.budget/16, min(2*gap+jitter, p.max)))
}

// Miss ends the polling of a wait that goes on asleep; spun is how long it
// took.
func (p *Poller) Miss(spun time.Duration) {
	p.misses.Add(1)
	p.missed = true
	p.Stop(spun)
}

// Stop ends the polling of a wait that nothing can be learned from, for
// example since the source was closed.
func (p *Poller) Stop(spun time.Duration) {
	p.spun.Add(int64(spun))
	p.spinning.Store(false)
	p.limit.leave()
}

// Parked ends a wait by an event that a sleeper was woken for, gap after the
// wait began. Had the event come within the longest budget, polling is worth
// its price again; if not, it is less so, and soon not at all.
//
// An event that comes soon after even the longest poll missed it, again and
// again, is one that polling holds up: whoever causes it waits for this very
// processor, as when both ends of a connection poll on one. Polling rests then.
func (p *Poller) Parked(gap time.Duration) {
	p.parks.Add(1)
	missed := p.missed
	p.missed = false
	switch {
	case p.mode != Adaptive:
	case gap >= p.max+p.wakeCost:
		b := p.budget / 2
		if b < budgetMin {
			b = 0
		}
		p.setBudget(b)
	case missed && p.budget == p.max:
		if p.vain++; p.vain >= missesMax {
			p.rest = p.restNext
			p.restNext = min(2*p.restNext, restMax)
			p.setBudget(0)
		}
	case p.rest > 0:
		p.rest--
	default:
		p.setBudget(p.max)
	}
}

func (p *Poller) setBudget(d time.Duration) {
	if p.budget == d {
		return
	}
	p.budget = d
	p.shown.Store(int64(d))
}

// Stats counts what one or several Pollers did.
type Stats struct {
	Hits     uint64        // waits that polling ended
	Misses   uint64        // polls that gave up, the wait going on asleep
	Parks    uint64        // waits that a wake-up ended
	Spun     time.Duration // time spent polling, whatever came of it
	Budget   time.Duration // learned; of several, the longest
	Spinning int           // how many poll now
}

// Stats returns the counters; each is exact, together they are not a snapshot.
func (p *Poller) Stats() Stats {
	s := Stats{Hits: p.hits.Load(), Misses: p.misses.Load(), Parks: p.parks.Load(),
		Spun: time.Duration(p.spun.Load()), Budget: time.Duration(p.shown.Load())}
	if p.spinning.Load() {
		s.Spinning = 1
	}
	return s
}

// Add joins those of another Poller to s.
func (s *Stats) Add(o Stats) {
	s.Hits += o.Hits
	s.Misses += o.Misses
	s.Parks += o.Parks
	s.Spun += o.Spun
	s.Budget = max(s.Budget, o.Budget)
	s.Spinning += o.Spinning
}

// Ended is what stays of s when its source is gone: the counts.
func (s Stats) Ended() Stats {
	s.Budget, s.Spinning = 0, 0
	return s
}
