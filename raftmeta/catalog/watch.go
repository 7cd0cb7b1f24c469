package catalog

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrTooOld is what a Watcher returns when changes were forgotten that it has
// not seen: take the State as it is, and watch from its revision.
var ErrTooOld = errors.New("changes since that revision are not known any more; begin from the present state")

// changesMax is how many changes are remembered for those who watch.
const changesMax = 4096

// Change is a step from a revision to the next.
type Change struct {
	Revision uint64
	Action   string // as in the audit log, for example volume.create
	Subject  string
	Refused  bool // nothing changed but the audit log
}

// changes remembers the last changes. The slowest watcher costs nothing but its ErrTooOld.
type changes struct {
	mu   sync.Mutex
	list []Change // ascending by Revision, without gaps
	tail *tail
	base uint64 // changes after this revision are in list
}

// add remembers a change. One that is no step by one forgets those before.
func (c *changes) add(ch Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.newest(); ch.Revision != n+1 {
		c.list, c.tail, c.base = nil, nil, ch.Revision
		return
	}
	c.list = appendShared(c.list, &c.tail, ch, changesMax)
	c.base = c.list[0].Revision - 1
}

// newest is the revision of the last change.
func (c *changes) newest() uint64 { return c.base + uint64(len(c.list)) }

// reset is for a state that came as a whole.
func (c *changes) reset(revision uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list, c.tail, c.base = nil, nil, revision
}

// after returns the changes after a revision; ok is false when some are missing.
func (c *changes) after(revision uint64) (list []Change, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case revision < c.base:
		return nil, false
	case revision >= c.newest():
		return nil, true
	}
	return slices.Clip(c.list[revision-c.base:]), true
}

// Watcher follows the changes from a revision on. It has no buffer of its own,
// starts no goroutine and needs no closing. It is for one goroutine.
type Watcher struct {
	fsm  *FSM
	seen uint64
}

// Watch returns a watcher of the changes after a revision, for example that of
// a State, or that of the last Change of another Watcher on any member.
func (c *Catalog) Watch(after uint64) *Watcher { return &Watcher{c.fsm, after} }

// Next waits for changes that it has not returned yet, and returns all of them
// in order, with a state that has them all and may have more. The changes are shared: they must
// not be changed. ErrTooOld means that some are forgotten; every later call returns it too.
func (w *Watcher) Next(ctx context.Context) ([]Change, *State, error) {
	for {
		_, changed := w.fsm.watch()
		list, ok := w.fsm.changes.after(w.seen)
		switch {
		case !ok:
			return nil, nil, ErrTooOld
		case len(list) > 0:
			w.seen = list[len(list)-1].Revision
			return list, w.fsm.State(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}
