package reservation

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// rules is what a State means for the check of a command, compiled when the
// state is published.
type rules struct {
	others  Access                // the most that everybody else may do
	members map[Identity]struct{} // these may do everything
}

// compile returns nil for a state that restricts nobody.
func compile(s *State) *rules {
	switch {
	case !s.Legacy.IsZero():
		return &rules{others: AccessAny, members: map[Identity]struct{}{s.Legacy: {}}}
	case s.Type == TypeNone:
		return nil
	}
	r := &rules{others: AccessQuery}
	if s.Type.readable() {
		r.others = AccessRead
	}
	if !s.Type.shared() {
		r.members = map[Identity]struct{}{s.Holder: {}}
		return r
	}
	r.members = make(map[Identity]struct{}, len(s.Registrants))
	for _, g := range s.Registrants {
		r.members[g.ID] = struct{}{}
	}
	return r
}

// Change is what a watcher is told: the state after a command, and the notices
// and aborts that come with it.
type Change struct {
	State  *State
	Events []Event
	// Aborts are the parties whose tasks end (PREEMPT AND ABORT, and NVMe's of
	// that name). A watcher with such tasks calls Hold, ends them on a goroutine
	// of its own, and then releases. It leaves out tasks that wait in
	// Backend.Apply themselves: two parties that abort each other would wait for
	// ever, and such a task meets the new state anyway.
	Aborts []Identity

	holds struct {
		sync.Mutex
		n    int
		idle chan struct{} // closed when n falls to 0; made by the first that waits
	}
}

// ErrUnfinished means that a command took effect, but commands of a party that it
// preempted are still under way: what they write may yet arrive. It must not be
// answered as done.
var ErrUnfinished = errors.New("the change is in force, but commands of the preempted host have not ended, since the device does not complete them")

// Hold keeps the command that caused c from being answered until release is
// called, once. It must be called within the watcher's callback.
func (c *Change) Hold() (release func()) {
	c.holds.Lock()
	defer c.holds.Unlock()
	c.holds.n++
	return c.release
}

func (c *Change) release() {
	c.holds.Lock()
	defer c.holds.Unlock()
	if c.holds.n--; c.holds.n == 0 && c.holds.idle != nil {
		close(c.holds.idle)
		c.holds.idle = nil
	}
}

// Wait returns when every Hold was released, or ErrUnfinished when ctx ends
// before. Backends call it after Publish, with no lock held, before they answer
// the command. Several may wait at a time: one change can stand for several
// generations, see Shared.Ended.
func (c *Change) Wait(ctx context.Context) error {
	c.holds.Lock()
	if c.holds.n == 0 {
		c.holds.Unlock()
		return nil
	}
	if c.holds.idle == nil {
		c.holds.idle = make(chan struct{})
	}
	idle := c.holds.idle
	c.holds.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ErrUnfinished
	}
}

// Volume is the published reservation table of one volume. Its methods are
// safe for concurrent use.
type Volume struct {
	rules atomic.Pointer[rules] // nil while nobody is restricted
	state atomic.Pointer[State]

	mu struct {
		sync.Mutex
		watchers []*watcher // replaced, never changed, so that Publish can range without the lock
	}
}

type watcher struct{ fn func(*Change) }

// NewVolume returns a volume with the table s; nil stands for an empty one.
func NewVolume(s *State) *Volume {
	if s == nil {
		s = empty
	}
	v := &Volume{}
	v.set(s)
	return v
}

func (v *Volume) set(s *State) {
	v.state.Store(s)
	v.rules.Store(compile(s))
}

// State returns the table as it is now.
func (v *Volume) State() *State { return v.state.Load() }

// Allows reports whether id may run a command of class a now. It takes no
// lock and does not allocate.
//
// A frontend counts the command among its running ones before it asks: then a
// command that was allowed just before a preemption is one that PREEMPT AND
// ABORT finds and waits for.
func (v *Volume) Allows(id *Identity, a Access) bool {
	r := v.rules.Load()
	if r == nil || a <= r.others {
		return true
	}
	_, ok := r.members[*id]
	return ok
}

// Restricted reports whether there is anybody whom Allows would refuse
// something. It spares the caller the making of an Identity.
func (v *Volume) Restricted() bool { return v.rules.Load() != nil }

// Watch calls fn for every change published from now on, in order, until stop
// is called; a call that has begun may outlast stop. fn runs before the command that caused the change answers; it must
// not block, and must not call Backend.Apply or stop.
func (v *Volume) Watch(fn func(*Change)) (stop func()) {
	w := &watcher{fn: fn}
	v.mu.Lock()
	v.mu.watchers = append(slices.Clip(v.mu.watchers), w)
	v.mu.Unlock()
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.mu.watchers = slices.DeleteFunc(slices.Clone(v.mu.watchers), func(o *watcher) bool { return o == w })
	}
}

// Publish makes c.State the present table and then calls the watchers. It is
// for backends, which call it for one change at a time, once the change is as
// durable as they promise.
func (v *Volume) Publish(c *Change) {
	v.set(c.State)
	v.mu.Lock()
	watchers := v.mu.watchers
	v.mu.Unlock()
	for _, w := range watchers {
		w.fn(c)
	}
}
