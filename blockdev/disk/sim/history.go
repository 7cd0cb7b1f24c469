package sim

import (
	"fmt"

	"blockd.dev/blockdev/disk"
)

// record is one write, sync or discard in the trace.
type record struct {
	op     disk.Op
	dsync  bool
	failed bool // acknowledged with an error
	off    int64
	bytes  int64
	pages  []*page // what it brings, per block; empty when it has no effect

	// start and done number its two events, counted from 0; done is -1 until
	// it is acknowledged. seq is the place of done in the order of all
	// completions, over all generations of images.
	start, done int
	seq         uint64
}

// event is one end of a record.
type event struct {
	r    *record
	done bool
}

// history is the trace, and a cursor that replays what is durable.
type history struct {
	events []event
	at     cursor
	marks  []cursor // every markEvents events, ascending
}

// cursor is the state of the medium after the first n events.
type cursor struct {
	n       int
	durable tree
	pending []*record // writes started and not durable, in order of start
	lost    []*record // writes that a failed sync made undurable for ever
}

// markEvents is how far apart the resting places of the cursor are: a cut
// replays at most that many events.
const markEvents = 256

func (h *history) init(live *tree) {
	h.at.durable = live.clone()
	h.marks = []cursor{h.at.copy()}
}

func (c *cursor) copy() cursor {
	return cursor{n: c.n, durable: c.durable.clone(),
		pending: append([]*record(nil), c.pending...), lost: append([]*record(nil), c.lost...)}
}

// eventLocked records the start or the end of r.
func (s *Sim) eventLocked(r *record, done bool) {
	s.seq++
	n := len(s.hist.events)
	if done {
		r.done, r.seq = n, s.seq
	} else {
		r.start, r.done = n, -1
	}
	if !s.o.NoTrace {
		s.hist.events = append(s.hist.events, event{r, done})
	}
}

// Event describes one event of the trace.
type Event struct {
	Op     disk.Op
	Done   bool // acknowledged; else started
	Dsync  bool
	Failed bool  // acknowledged with an error
	Off    int64 // bytes, where it landed
	Len    int64 // bytes
	Start  int   // the number of the event that started the same I/O
}

// String writes the event for a failing test's log.
func (e Event) String() string {
	what := "start"
	switch {
	case e.Failed:
		what = "fail"
	case e.Done:
		what = "done"
	}
	if e.Op == disk.Sync {
		return fmt.Sprintf("%-5s sync #%d", what, e.Start)
	}
	op := e.Op.String()
	if e.Dsync {
		op = "dsync-" + op
	}
	return fmt.Sprintf("%-5s %s #%d [%d, +%d)", what, op, e.Start, e.Off, e.Len)
}

// Events is how many events there have been: Cut takes 0 to Events().
func (s *Sim) Events() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.hist.events)
}

// Event returns event n, 0 <= n < Events().
func (s *Sim) Event(n int) Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.hist.events[n]
	return Event{Op: e.r.op, Done: e.done, Dsync: e.r.dsync, Failed: e.done && e.r.failed,
		Off: e.r.off, Len: e.r.bytes, Start: e.r.start}
}

// seek moves the cursor to the state after the first n events.
func (h *history) seek(n int) *cursor {
	if h.at.n > n {
		i := len(h.marks) - 1
		for h.marks[i].n > n {
			i--
		}
		h.at = h.marks[i].copy()
	}
	for h.at.n < n {
		h.at.step(h.events[h.at.n])
		if last := h.marks[len(h.marks)-1].n; h.at.n >= last+markEvents {
			h.marks = append(h.marks, h.at.copy())
		}
	}
	return &h.at
}

// step replays one event.
func (c *cursor) step(e event) {
	c.n++
	r := e.r
	switch {
	case r.op == disk.Sync:
		if e.done {
			c.sync(r)
		}
	case !e.done:
		c.pending = append(c.pending, r)
	case r.dsync && !r.failed:
		c.durable.apply(r)
		c.drop(r)
	case len(r.pages) == 0: // failed or lost: it will never show
		c.drop(r)
	}
}

// sync makes durable what was acknowledged before the sync was submitted, or
// for a failed sync gives it up.
func (c *cursor) sync(sync *record) {
	rest := c.pending[:0]
	for _, r := range c.pending {
		switch {
		case r.done < 0 || r.done >= sync.start:
			rest = append(rest, r)
		case sync.failed:
			c.lost = append(c.lost, r)
		default:
			c.durable.apply(r)
		}
	}
	clear(c.pending[len(rest):])
	c.pending = rest
}

func (c *cursor) drop(r *record) {
	for i, p := range c.pending {
		if p == r {
			c.pending = append(c.pending[:i], c.pending[i+1:]...)
			return
		}
	}
}
