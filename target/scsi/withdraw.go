package scsi

import (
	"time"

	"blockd.dev/internal/clock"
)

// A target that stops ends its sessions, and a host whose session ends holds what it sends there,
// for as long as it thinks that the session may come back: Linux 120 s unless told otherwise,
// whatever its multipath would do. So before that the target tells hosts that have other paths
// to take these: the units are unavailable through it (SPC-4 §5.15.2.4.5), which is for
// the path what a failure is, and at once: LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE
// STATE. Not standby, which Linux' path checkers take for a path that works, nor transitioning,
// for which hosts wait.
//
// For a host without another path that would be an error, where it would have waited for the target
// to come back. Whether it has one, and uses more than one, is for others to find out: see
// EachTended.

const (
	// movedQuiet is for how long nothing has come for a unit from a host that has gone on by another
	// path, or does without. What Linux had queued comes within some 10 ms; but multipathd, which puts the
	// paths into another order then, may have the kernel take the path up again, some 0.4 s later in an
	// emulated host. What comes by it must be refused once more, not meet a session that has ended.
	movedQuiet = time.Second
	// busyLook is when to look again at a unit with tasks under way.
	busyLook = 20 * time.Millisecond

	// tendedFor is how old the last look at a path may be for one that is looked after. Linux'
	// multipathd looks every 5 to 20 s unless told otherwise, Windows every 30 s if told to.
	tendedFor = time.Minute
	// tendedAfter is the age of a nexus at which looks count: before that any host looks.
	tendedAfter = 15 * time.Second
)

// EachTended calls fn for the units and the initiators that look after their paths to them
// through this target: that tested the unit or asked for its port groups a short while ago, and long after
// they had found it. That is how hosts with several paths know which ones work; a
// host may have paths that it does not use, but those it lets alone.
func (t *Target) EachTended(fn func(initiator string, unit UnitID)) {
	t.mu.Lock()
	units := make([]*LU, 0, len(t.mu.units))
	for _, lu := range t.mu.units {
		units = append(units, lu)
	}
	t.mu.Unlock()
	now := t.deps.Clock.Now()
	for _, lu := range units {
		for _, i := range lu.each() {
			at := clock.Mono(i.lookedAt.Load())
			if !i.nexus.gone.Load() && now.Sub(at) <= tendedFor && at.Sub(i.nexus.since) >= tendedAfter {
				fn(i.nexus.id.InitiatorName, lu.id)
			}
		}
	}
}

// looked notes that the initiator looked after its path.
func (i *itl) looked() { i.lookedAt.Store(int64(i.lu.target.deps.Clock.Now())) }

// Withdrawal is the units that were withdrawn from initiators at a time.
type Withdrawal struct {
	clock clock.Clock
	began clock.Mono
	itls  []*itl
}

// Withdraw makes the units that match names unavailable to the initiators that it names with them, for
// the sessions of this moment and for good, and tells these by a unit attention. Tasks that were
// prepared before go on.
func (t *Target) Withdraw(match func(initiator string, unit UnitID) bool) *Withdrawal {
	w := &Withdrawal{clock: t.deps.Clock, began: t.deps.Clock.Now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.mu.nexuses {
		for _, i := range n.itls() {
			if match(n.id.InitiatorName, i.lu.id) && !i.withdrawn.Swap(true) {
				i.ua.raise(uaAccessStateChanged)
				w.itls = append(w.itls, i)
			}
		}
	}
	return w
}

// Units counts what was withdrawn: a unit once for each session.
func (w *Withdrawal) Units() int { return len(w.itls) }

// Left counts the units of Units whose initiators may not have gone on by other paths yet.
func (w *Withdrawal) Left() (n int) {
	now := w.clock.Now()
	for _, i := range w.itls {
		if i.rest(w.began, now) > 0 {
			n++
		}
	}
	return n
}

// Rest is how long it takes at least until all initiators have gone on by other paths, as far as
// that can be seen; zero when they have. After that time it may be longer.
func (w *Withdrawal) Rest() time.Duration {
	now := w.clock.Now()
	rest := time.Duration(0)
	for _, i := range w.itls {
		rest = max(rest, i.rest(w.began, now))
	}
	return rest
}

// rest is Withdrawal.Rest for one of its units.
func (i *itl) rest(began, now clock.Mono) time.Duration {
	if i.nexus.gone.Load() {
		return 0
	}
	last := max(began, clock.Mono(i.refusedAt.Load()))
	rest := max(0, last.Add(movedQuiet).Sub(now))
	if i.set.busy() {
		rest = max(rest, busyLook)
	}
	return rest
}

// refuse notes that the initiator was told to take another path.
func (i *itl) refuse() sense {
	i.refusedAt.Store(int64(i.lu.target.deps.Clock.Now()))
	return sense{key: keyNotReady, asc: ascUnavailable}
}
