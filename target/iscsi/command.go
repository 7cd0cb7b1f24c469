package iscsi

import (
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
	segs [][]byte // scratch for slices of the data; the reader's, then complete's
	head [pdu.BHSLen + pdu.DigestLen]byte
	tail [2 + scsi.SenseMax + 3 + pdu.DigestLen]byte
	slot uint32
}

// Next implements pool.Item.
func (cmd *command) Next() **command { return &cmd.next }

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
	k.pool.Put(cmd)
}

// lend returns a command struct with one reference, or nil when the connection
// has all that it may have.
func (c *conn) lend() *command {
	cmd, index := c.pool.Get()
	if index > 0 {
		cmd = &command{conn: c, slot: uint32(index)}
		cmd.task.Owner = cmd
		cmd.task.Done = taskDone
		cmd.task.Gone, cmd.task.Soon = &c.gone, c.soon
	}
	if cmd != nil {
		cmd.refs.Store(1)
	}
	return cmd
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
