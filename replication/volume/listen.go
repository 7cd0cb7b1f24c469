package volume

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
)

// Bound is what hosts may have to wait while copies are brought back. Zero fields are the defaults.
type Bound struct {
	// Factor is what the 99th percentile may be, times what it is without; the median may grow by half
	// as much. Above 1. Default 2.
	Factor float64
	// Least is what either may be in any case. Default 1 ms.
	Least time.Duration
	// Listen is for how long hosts are listened to before a resync of which nothing is known; a
	// fifth of that every twenty fifths later. Default 1 s.
	Listen time.Duration
}

// DefaultFactor is that of a Bound.
const DefaultFactor = 2

// Listener is what all owners and stores of a node know of how long hosts wait, whichever volume
// they use: what one volume copies takes from the disks, the network and the processors of all. Each Ear hears
// one kind of them: those of an owner here, and what owners anywhere want of a disk here for theirs. Resync
// on the node gives way to the one that suffers most, by what that one waits without it. To hear
// that nothing is copied by anybody for a while.
//
// All methods may be called from any goroutine. Locks, in this order: Ear.mu, Listener.mu.
type Listener struct {
	bound   Bound
	stepped atomic.Int64 // when something was last copied, from here or to here
	heard   atomic.Int64 // when hosts were listened to last
	silent  atomic.Int64 // until then nothing is copied

	mu     sync.Mutex
	active []*Ear // those that may have heard something within twice paceQuiet
}

// NewListener returns the Listener of a node.
func NewListener(b Bound) *Listener {
	if b.Factor == 0 {
		b.Factor = DefaultFactor
	}
	if b.Least == 0 {
		b.Least = time.Millisecond
	}
	if b.Listen == 0 {
		b.Listen = time.Second
	}
	return &Listener{bound: b}
}

// Ear returns one that has heard nothing.
func (l *Listener) Ear() *Ear { return &Ear{listener: l} }

// Copying says that something is copied from or to this node.
func (l *Listener) Copying(now clock.Mono) { l.stepped.Store(int64(now)) }

// copying tells whether something was copied until a moment ago.
func (l *Listener) copying(now clock.Mono) bool {
	at := clock.Mono(l.stepped.Load())
	return at != 0 && now < at.Add(l.bound.Listen/paceUpset)
}

// Hush has nothing copied by the owners of this node for a while, for hosts to be heard.
func (l *Listener) Hush(now clock.Mono, d time.Duration) {
	if until := int64(now.Add(min(d, l.bound.Listen))); until > l.silent.Load() {
		l.heard.Store(int64(now))
		l.silent.Store(until)
	}
}

// hushed tells whether an op that has ended now and took d had nothing to wait for but other ops.
func (l *Listener) hushed(now clock.Mono, d time.Duration) bool {
	// One that began before the pause may have waited for a step.
	return now < clock.Mono(l.silent.Load()) && now.Add(-d) >= clock.Mono(l.heard.Load())
}

// add has e among those that hear something.
func (l *Listener) add(now clock.Mono, e *Ear) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active = slices.DeleteFunc(l.active, func(o *Ear) bool { return o == e || !o.active(now.Add(-paceQuiet)) })
	l.active = append(l.active, e)
}

// ears appends those that have heard something of late.
func (l *Listener) ears(to []*Ear, now clock.Mono) []*Ear {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.active {
		if e.active(now) {
			to = append(to, e)
		}
	}
	return to
}

// An Ear hears how long some ops of hosts take.
type Ear struct {
	listener *Listener    // nil: of another node, which tells what it hears
	lastOp   atomic.Int64 // when the last one ended; 0: none has

	mu     sync.Mutex
	calm   Latency    // without resync
	period Latency    // of those since ended
	ended  clock.Mono // when the last median was taken
	median [paceMedians]time.Duration
	taken  int        // medians so far
	upset  clock.Mono // ops that began before tell nothing

	bound, usual time.Duration // what 99 of 100 ops, and half of them, may take
	bounded      clock.Mono    // when that was found
	heard        heard
}

// heard counts ops of hosts while something was copied.
type heard struct {
	ops         uint64
	late, tardy uint64 // of these, those that took longer than bound, and than usual
}

func (h heard) minus(o heard) heard { return heard{h.ops - o.ops, h.late - o.late, h.tardy - o.tardy} }

// Saw counts an op of a host that took d. Whether something is copied the Listener knows.
func (e *Ear) Saw(now clock.Mono, d time.Duration) { e.saw(now, d, false) }

// saw counts an op of a host that took d; resync says that its own volume has one.
func (e *Ear) saw(now clock.Mono, d time.Duration, resync bool) {
	l := e.listener
	if last := clock.Mono(e.lastOp.Swap(int64(now))); last == 0 || now >= last.Add(paceQuiet) {
		l.add(now, e)
	}
	calm := l.bound.Listen > 0 && (!resync && !l.copying(now) || l.hushed(now, d))
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case now.Add(-d) < e.upset:
	case calm:
		e.calm.addFading(d, paceMemory)
		if e.period.add(d); e.period.Count >= paceOps && now >= e.ended.Add(l.bound.Listen/paceUpset) {
			e.median[e.taken%paceMedians] = e.period.Quantile(0.5)
			e.taken++
			e.period, e.ended = Latency{}, now
		}
	default:
		e.heard.ops++
		if d > max(e.bound, l.bound.Least) {
			e.heard.late++
		}
		if d > max(e.usual, l.bound.Least) {
			e.heard.tardy++
		}
	}
}

// active tells whether hosts were heard until a moment ago.
func (e *Ear) active(now clock.Mono) bool {
	last := clock.Mono(e.lastOp.Load())
	return last != 0 && now < last.Add(paceQuiet)
}

// disturbed says that ops have waited for something else than the work of others.
func (e *Ear) disturbed(now clock.Mono) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.upset = now.Add(e.listener.bound.Listen / paceUpset)
}

// known tells whether it is known what they take without resync, by so many of them.
func (e *Ear) known(ops uint64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.listener == nil || e.listener.bound.Listen == 0 || e.calm.Count >= ops
}

// counts are the ops so far, by bounds that are looked at anew in each window.
func (e *Ear) counts(now clock.Mono) heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.listener != nil && e.calm.Count >= paceFewOps && now >= e.bounded.Add(paceWindow) {
		// A quantile is an eighth too much at most.
		more := e.listener.bound.Factor - 1
		allowed := func(calm time.Duration, factor float64) time.Duration {
			return min(time.Duration(float64(calm)*factor)*8/9, paceBoundMax)
		}
		e.bounded, e.bound, e.usual = now, allowed(e.calm.Quantile(0.99), 1+more), allowed(e.calmMedian(), 1+more/2)
	}
	return e.heard
}

// calmMedian is what half of hosts' ops take without resync.
func (e *Ear) calmMedian() time.Duration {
	if e.taken == 0 {
		return e.calm.Quantile(0.5)
	}
	return slices.Min(e.median[:min(e.taken, paceMedians)])
}

// Told is what the owner of a resync elsewhere is told of this ear; see replica.Response.Differ.
func (e *Ear) Told(now clock.Mono) []int64 {
	if !e.known(paceFewOps) {
		return nil
	}
	h := e.counts(now)
	return []int64{int64(h.ops), int64(h.late), int64(h.tardy)}
}

// tell has e be as one of another node.
func (e *Ear) tell(now clock.Mono, told []int64) {
	if len(told) < 3 {
		return // it knows nothing, or is of an older version
	}
	h := heard{uint64(told[0]), uint64(told[1]), uint64(told[2])}
	e.mu.Lock()
	defer e.mu.Unlock()
	if h.ops != e.heard.ops && e.heard.ops != 0 {
		e.lastOp.Store(int64(now))
	}
	e.heard = h
}
