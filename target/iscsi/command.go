package iscsi

import (
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev/arena"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
)

// command is one SCSI command from its header to the last byte of its
// response. It is pooled per connection.
type command struct {
	conn *conn
	req  pdu.SCSICommand
	task scsi.Task
	sg   arena.SG
	held int64 // bytes counted against the connection's budget

	xfer      transfer
	executing bool // the device server has it; guarded by conn.mu
	prepared  bool // Prepare said yes and Execute or Cancel are to come
	refuse    bool // its status is set; it only waits for its data to end

	// refs are the holders: the conn until the response is queued, each queued
	// Data-In, and a task management function that names it.
	refs atomic.Int32

	next *command // in its bucket of the task table, or in the pool
	segs [][]byte // scratch for slices of sg; the reader's, then complete's
	head [pdu.BHSLen + pdu.DigestLen]byte
	tail [2 + scsi.SenseMax + 3 + pdu.DigestLen]byte
	slot uint32
}

// Sent is called by sockio when the kernel has one of the Data-Ins.
func (cmd *command) Sent() { cmd.unref() }

// unref drops a reference; the last one recycles the command.
func (cmd *command) unref() {
	n := cmd.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("iscsi: command released twice")
	}
	k := cmd.conn
	cmd.sg.Release()
	k.heldBytes.Add(-cmd.held)
	cmd.held = 0
	cmd.task.Data = nil
	cmd.task.Reset()
	cmd.executing, cmd.prepared, cmd.refuse = false, false, false
	clear(cmd.segs)
	cmd.segs = cmd.segs[:0]
	k.pool.put(cmd)
}

// pool keeps a connection's command structs.
type pool struct {
	mu    sync.Mutex
	free  *command
	made  int
	limit int
	out   int
	empty *sync.Cond // out fell to 0
}

func (p *pool) init(limit int) {
	p.limit = limit
	p.empty = sync.NewCond(&p.mu)
}

// get returns a command with one reference, or nil when the limit is reached.
func (p *pool) get(k *conn) *command {
	p.mu.Lock()
	c := p.free
	if c != nil {
		p.free, c.next = c.next, nil
		p.out++
		p.mu.Unlock()
		c.refs.Store(1)
		return c
	}
	if p.made == p.limit {
		p.mu.Unlock()
		return nil
	}
	p.made++
	p.out++
	slot := uint32(p.made)
	p.mu.Unlock()
	c = &command{conn: k, slot: slot}
	c.task.Owner = c
	c.task.Done = taskDone
	c.refs.Store(1)
	return c
}

func (p *pool) put(c *command) {
	p.mu.Lock()
	c.next, p.free = p.free, c
	if p.out--; p.out == 0 {
		p.empty.Broadcast()
	}
	p.mu.Unlock()
}

// wait blocks until every command is back.
func (p *pool) wait() {
	p.mu.Lock()
	for p.out > 0 {
		p.empty.Wait()
	}
	p.mu.Unlock()
}

// buckets of the task table; a power of two.
const buckets = 256

// taskTable finds commands by their Initiator Task Tag.
type taskTable struct {
	bucket [buckets]*command
	n      int
}

func bucketOf(itt uint32) uint32 { return (itt ^ itt>>8 ^ itt>>16 ^ itt>>24) % buckets }

func (t *taskTable) find(itt uint32) *command {
	for c := t.bucket[bucketOf(itt)]; c != nil; c = c.next {
		if c.req.ITT == itt {
			return c
		}
	}
	return nil
}

func (t *taskTable) insert(c *command) {
	b := &t.bucket[bucketOf(c.req.ITT)]
	c.next, *b = *b, c
	t.n++
}

// remove takes c out and reports whether it was there.
func (t *taskTable) remove(c *command) bool {
	for p := &t.bucket[bucketOf(c.req.ITT)]; *p != nil; p = &(*p).next {
		if *p == c {
			*p, c.next = c.next, nil
			t.n--
			return true
		}
	}
	return false
}

// each calls fn for every command; fn must not change the table.
func (t *taskTable) each(fn func(*command)) {
	for _, c := range t.bucket {
		for ; c != nil; c = c.next {
			fn(c)
		}
	}
}
