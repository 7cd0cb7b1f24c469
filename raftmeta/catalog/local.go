package catalog

import (
	"context"
	"sync"

	"blockd.dev/raftmeta/group"
)

// Open reads the catalog in dir, which it creates when there is none, and
// keeps it in a journal there, for one node without a Raft group. The
// directory must not be open elsewhere; the caller holds the lock for that. A
// directory that does not check is refused with an error that wraps ErrCorrupt.
func Open(dir string) (*Catalog, error) {
	j, s, info, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	fsm := NewFSM()
	fsm.state.Store(s)
	return &Catalog{fsm: fsm, log: &local{fsm: fsm, journal: j}, journal: j, info: info}, nil
}

// JournalInfo returns what Open found.
func (c *Catalog) JournalInfo() JournalInfo { return c.info }

// Close writes a snapshot and closes the files of a catalog that was opened by
// Open. Commands are refused from then on; State still works.
func (c *Catalog) Close() error {
	if l, ok := c.log.(*local); ok {
		return l.close()
	}
	return nil
}

// local is a log of one node.
type local struct {
	mu      sync.Mutex
	fsm     *FSM
	journal *journal
	closed  bool
}

// Apply implements Log.
func (l *local) Apply(_ context.Context, g group.Command) (group.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return group.Result{}, group.ErrClosed
	}
	if l.journal.failed != nil {
		return group.Result{}, l.journal.failed
	}
	cmd, err := decodeCommand(g.Version, g.Data)
	if err != nil {
		return group.Result{Data: encodeOutcome(Result{}, err)}, nil
	}
	next, res, err := l.fsm.State().Apply(cmd)
	if err != nil || res.Replayed {
		return group.Result{Data: encodeOutcome(res, err)}, nil
	}
	if err := l.journal.append(next.Revision, cmd); err != nil {
		return group.Result{}, err
	}
	l.fsm.publish(next, Change{Revision: next.Revision, Action: res.Audit.Action, Subject: res.Audit.Subject})
	if l.journal.logBytes > l.journal.compactBytes {
		// The command is durable whatever comes of this; a failure shows in the
		// next command, and Err tells it.
		_ = l.journal.compact(next)
	}
	return group.Result{Data: encodeOutcome(res, nil)}, nil
}

// Wait implements Log.
func (l *local) Wait(context.Context, uint64) error { return nil }

// Barrier implements Log.
func (l *local) Barrier(context.Context) error { return nil }

// Err implements Log.
func (l *local) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.journal.failed
}

func (l *local) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var err error
	if l.journal.failed == nil && l.journal.logBytes > fileHeaderBytes {
		err = l.journal.compact(l.fsm.State())
	}
	if cerr := l.journal.close(); err == nil {
		err = cerr
	}
	return err
}
