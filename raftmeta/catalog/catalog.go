package catalog

import (
	"context"
	"sync"
	"sync/atomic"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Catalog is the catalog of one node, kept in a directory.
type Catalog struct {
	mu      sync.Mutex // serialises commands; guards journal, changed and closed
	journal *journal
	changed chan struct{} // closed and replaced when state changes
	closed  bool
	state   atomic.Pointer[State]
	info    JournalInfo
}

// Open reads the catalog in dir, which it creates when there is none. The
// directory must not be open elsewhere; the caller holds the lock for that. A
// directory that does not check is refused with an error that wraps ErrCorrupt.
func Open(dir string) (*Catalog, error) {
	j, s, info, err := openJournal(dir)
	if err != nil {
		return nil, err
	}
	c := &Catalog{journal: j, changed: make(chan struct{}), info: info}
	c.state.Store(s)
	return c, nil
}

// State returns the current state. It never blocks.
func (c *Catalog) State() *State { return c.state.Load() }

// JournalInfo returns what Open found.
func (c *Catalog) JournalInfo() JournalInfo { return c.info }

// Do applies a command and returns when it is durable and published. A refusal
// is an *Error. The catalog keeps no reference to cmd.
func (c *Catalog) Do(cmd *catalogpb.Command) (Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return Result{}, refuse(ErrFailed, "blockd is stopping")
	}
	cur := c.state.Load()
	next, res, err := cur.Apply(cmd)
	if err != nil || res.Replayed {
		return res, err
	}
	if err := c.journal.append(next.Revision, cmd); err != nil {
		return Result{}, err
	}
	c.state.Store(next)
	close(c.changed)
	c.changed = make(chan struct{})
	if c.journal.logBytes > c.journal.compactBytes {
		// The command is durable whatever comes of this; a failure shows in the
		// next command, and Err tells it.
		_ = c.journal.compact(next)
	}
	return res, nil
}

// Err returns why the catalog can't be written any more, or nil.
func (c *Catalog) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.journal.failed
}

// Wait returns the first state that it sees with a revision above after, or
// the context's error.
func (c *Catalog) Wait(ctx context.Context, after uint64) (*State, error) {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if s := c.state.Load(); s.Revision > after {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close writes a snapshot and closes the files. Commands are refused from then
// on; State still works.
func (c *Catalog) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	var err error
	if c.journal.failed == nil && c.journal.logBytes > fileHeaderBytes {
		err = c.journal.compact(c.state.Load())
	}
	if cerr := c.journal.close(); err == nil {
		err = cerr
	}
	return err
}
