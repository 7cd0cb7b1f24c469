package sim

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"
)

// event is something that happens at an instant of true time.
type event struct {
	at time.Duration
	n  uint64
	do func()
}

type events []event

func (h events) Len() int { return len(h) }
func (h events) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].n < h[j].n
}
func (h events) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *events) Push(x any) { *h = append(*h, x.(event)) }

// Pop is for container/heap.
func (h *events) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

// world is one run.
type world struct {
	rng    *rand.Rand
	now    time.Duration
	events events
	n      uint64
	nodes  []*node
	meta   *meta
	hosts  []*host
	cut    [][]bool // from, to; the last index is Meta's
	calm   bool     // no faults any more
	rare   bool     // there are few faults
	rotten bool     // a disk has changed by itself
	ops    []*record
	cuts   int
	lossy  float64       // chance that a message is lost
	doubly float64       // ... doubled
	laggy  float64       // ... late
	storm  time.Duration // until then many messages are lost
	quiet  time.Duration // until then hosts ask for nothing new
	still  time.Duration // until then nothing else goes wrong
	hinty  float64       // chance that a request has the transport say that a replica is away that is not
	hasty  float64       // chance that a node does not wait for the last lease's end
	broken []string

	disks     int // nodes that have one
	copies    int // of each extent
	minInSync int
	slowly    bool                          // resync gives way to hosts all the time
	lazy      bool                          // timers are not set anew for what came since: they may be late
	broadly   bool                          // resync copies several regions at a time
	tardy     bool                          // copies of proposals that bring a replica in come late
	whole     bool                          // all extents are on all members, and the owner is not told
	late      [mostBytes / regionBytes]bool // regions that lost a version by a Fence from before their move was finished, which came when the replica had restarted
	lying     bool                          // a disk may lose what it has acknowledged when its machine goes down
	liar      *node                         // the last that did
	lies      int
	handed    handed
	handovers int
	sessions  int // that were begun anew
}

func (w *world) fail(format string, args ...any) {
	if len(w.broken) < 5 {
		w.broken = append(w.broken, fmt.Sprintf("%v: ", w.now)+fmt.Sprintf(format, args...))
	}
}

func (w *world) after(d time.Duration, do func()) {
	w.n++
	heap.Push(&w.events, event{w.now + d, w.n, do})
}

func (w *world) runUntil(end time.Duration, stop func() bool) {
	for len(w.events) > 0 && w.events[0].at <= end && len(w.broken) == 0 {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
		if stop != nil && stop() {
			return
		}
	}
	w.now = max(w.now, end)
}

// between is uniform in [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// latest is how late a message may be.
const latest = 120 * time.Millisecond

// send delivers once, twice, late or not.
func (w *world) send(from, to int, deliver func()) {
	copies := 1
	if !w.calm {
		if w.chance(w.lossy) || w.now < w.storm && w.chance(0.2) {
			return
		}
		if w.chance(w.doubly) {
			copies = 2
		}
	}
	for range copies {
		d := w.between(50*time.Microsecond, 500*time.Microsecond)
		if !w.calm && w.chance(w.laggy) {
			d = w.between(time.Millisecond, latest)
		}
		w.after(d, func() {
			if !w.cut[from][to] {
				deliver()
			}
		})
	}
}
