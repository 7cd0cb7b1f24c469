package qos

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
)

// Limits are per second; 0 is no limit.
type Limits struct {
	Ops   uint64
	Bytes uint64        // read and written
	Burst time.Duration // for how long what is not used is saved up
}

// Mode says how a Limiter holds requests, if there are limits.
type Mode uint8

// The modes.
const (
	// Metered lets through what the limits allow. It is for the node that the data is
	// at, or that owns the volume.
	Metered Mode = iota
	// Windowed lets a few through at a time. It is for nodes that forward to the owner.
	Windowed
)

// What a windowed Limiter has under way, unless a single request is larger, and for how
// long it holds a request.
const (
	WindowOps   = 16
	WindowBytes = 512 << 10
	WindowWait  = 2 * time.Second
)

const (
	// timerMin is the shortest sleep. What becomes possible meanwhile goes together.
	timerMin = 500 * time.Microsecond
	// timerMax is the longest, and so how late an end of the connection is seen.
	timerMax = 50 * time.Millisecond
)

// Request is one of a host, as a Limiter takes it.
type Request struct {
	What  any // a pointer; it says which one
	Bytes int64
	// Forwarded says that another node has sent it: it is held where the volume is
	// metered, and nowhere else.
	Forwarded bool
	// Gone, when not nil and set, says that nobody waits for it any more.
	Gone *atomic.Bool
	// Guard comes back with the Pass.
	Guard uint64
	// Go is called with What when the request was held and leaves the queue.
	Go func(what any, p Pass)
}

// OpBytes is how much one operation is about at most: a larger request counts as
// several, as it does where nodes forward it in pieces.
const OpBytes = 512 << 10

func (r *Request) ops() int64 { return max(1, (r.Bytes+OpBytes-1)/OpBytes) }

// Pass says how a request goes on.
type Pass struct {
	Since  clock.Mono // when it came, if it was held; 0 if it was not
	Gone   bool       // it should not go on: nobody waits for it, and it has cost nothing
	Counts bool       // it is under way, until Done
	Guard  uint64     // the request's
}

// Stats count since the start.
type Stats struct {
	Held   uint64        // requests that had to wait, and have left the queue
	Waited time.Duration // for that long, all of them together
	Now    int           // that wait now
}

// Limiter is the queue of one volume on one node. All methods may be called from any
// goroutine, also by Go; none blocks.
type Limiter struct {
	clock   clock.Clock
	bounded atomic.Bool

	mu struct {
		sync.Mutex
		mode       Mode
		ops, bytes bucket
		at         clock.Mono // of the last refill
		queue      []held     // the oldest first
		timer      *time.Timer
		armed      bool // the timer is set

		leaving bool // somebody calls Go of what has left the queue: left
		again   bool // and has to look again
		left    []held

		flyingOps, flyingBytes int64 // of those that count

		stats Stats
	}
}

// held is a request in the queue.
type held struct {
	Request
	since clock.Mono
	pass  Pass // once it has left
}

// New returns a Limiter without limits, metered.
func New(c clock.Clock) *Limiter { return &Limiter{clock: c} }

// Bounded reports whether there are limits, so that requests have to be given to
// Admit. It costs next to nothing.
func (l *Limiter) Bounded() bool { return l.bounded.Load() }

// Set changes the limits, for what is held too.
func (l *Limiter) Set(to Limits) {
	l.mu.Lock()
	l.refillLocked()
	l.mu.ops.set(to.Ops, to.Burst)
	l.mu.bytes.set(to.Bytes, to.Burst)
	l.bounded.Store(to.Ops != 0 || to.Bytes != 0)
	l.unlockAndRelease()
}

// Enforce changes the mode, for what is held too.
func (l *Limiter) Enforce(m Mode) {
	l.mu.Lock()
	l.mu.mode = m
	l.unlockAndRelease()
}

// Admit reports whether a request may go on now, and how. If not, its Go is called later.
func (l *Limiter) Admit(r Request) (p Pass, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.passesLocked(&r) {
		return Pass{}, true
	}
	l.refillLocked()
	if len(l.mu.queue) == 0 && !l.mu.leaving && l.waitLocked(&r, 0) == 0 {
		return l.takeLocked(&r), true
	}
	l.mu.queue = append(l.mu.queue, held{Request: r, since: l.mu.at})
	l.armLocked()
	return Pass{}, false
}

// Done is for a request that counts, when it has ended.
func (l *Limiter) Done(bytes int64) {
	l.mu.Lock()
	l.mu.flyingOps--
	l.mu.flyingBytes -= bytes
	l.unlockAndRelease()
}

// Withdraw takes a request back that is held. It reports false if it is not, or not any
// more; otherwise Go is not called.
func (l *Limiter) Withdraw(what any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.mu.queue {
		if l.mu.queue[i].What == what {
			l.mu.queue = slices.Delete(l.mu.queue, i, i+1)
			return true
		}
	}
	return false
}

// Stats may be called at any time.
func (l *Limiter) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.mu.stats
	s.Now = len(l.mu.queue)
	return s
}

// passesLocked reports whether a request is none to hold here.
func (l *Limiter) passesLocked(r *Request) bool { return r.Forwarded && l.mu.mode == Windowed }

// waitLocked is how long a request that was held since must wait at least; 0 when it may go.
func (l *Limiter) waitLocked(r *Request, since clock.Mono) time.Duration {
	if l.mu.mode == Metered || !l.bounded.Load() {
		return max(l.mu.ops.wait(r.ops()), l.mu.bytes.wait(r.Bytes))
	}
	fits := l.mu.flyingOps < WindowOps && l.mu.flyingBytes+r.Bytes <= WindowBytes
	if l.mu.flyingOps == 0 || fits || since != 0 && l.mu.at >= since.Add(WindowWait) {
		return 0
	}
	return timerMax
}

// takeLocked lets a request go on.
func (l *Limiter) takeLocked(r *Request) Pass {
	if l.mu.mode == Metered {
		l.mu.ops.take(r.ops())
		l.mu.bytes.take(r.Bytes)
		return Pass{}
	}
	l.mu.flyingOps++
	l.mu.flyingBytes += r.Bytes
	return Pass{Counts: true}
}

func (l *Limiter) refillLocked() {
	now := l.clock.Now()
	d := now.Sub(l.mu.at)
	l.mu.at = now
	waited := len(l.mu.queue) > 0
	l.mu.ops.refill(d, waited)
	l.mu.bytes.refill(d, waited)
}

// unlockAndRelease lets all go on that may. One caller does it at a time, so that they go in
// their order, and has the others' turn done too.
func (l *Limiter) unlockAndRelease() {
	l.mu.again = true
	if l.mu.leaving {
		l.mu.Unlock()
		return
	}
	l.mu.leaving = true
	for l.mu.again {
		l.mu.again = false
		l.leaveLocked()
		left := l.mu.left
		l.mu.Unlock()
		for i := range left {
			left[i].Go(left[i].What, left[i].pass)
		}
		clear(left)
		l.mu.Lock()
	}
	l.mu.leaving = false
	l.armLocked()
	l.mu.Unlock()
}

// leaveLocked moves what may go on from the queue to left.
func (l *Limiter) leaveLocked() {
	l.refillLocked()
	l.mu.left = l.mu.left[:0]
	stay := l.mu.queue[:0]
	for _, h := range l.mu.queue {
		switch {
		case h.Gone != nil && h.Gone.Load():
			h.pass = Pass{Gone: true}
		case l.passesLocked(&h.Request):
			h.pass = Pass{}
		case len(stay) == 0 && l.waitLocked(&h.Request, h.since) == 0:
			h.pass = l.takeLocked(&h.Request)
		default:
			stay = append(stay, h)
			continue
		}
		h.pass.Since, h.pass.Guard = h.since, h.Guard
		l.mu.stats.Held++
		l.mu.stats.Waited += l.mu.at.Sub(h.since)
		l.mu.left = append(l.mu.left, h)
	}
	clear(l.mu.queue[len(stay):])
	l.mu.queue = stay
}

// armLocked sets the timer for the first one in the queue.
func (l *Limiter) armLocked() {
	if l.mu.armed || l.mu.leaving || len(l.mu.queue) == 0 {
		return
	}
	l.mu.armed = true
	first := &l.mu.queue[0]
	d := min(max(l.waitLocked(&first.Request, first.since), timerMin), timerMax)
	if l.mu.timer == nil {
		l.mu.timer = time.AfterFunc(d, l.tick)
		return
	}
	l.mu.timer.Reset(d)
}

func (l *Limiter) tick() {
	l.mu.Lock()
	l.mu.armed = false
	l.unlockAndRelease()
}
