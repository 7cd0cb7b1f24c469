package nvmetcp

import (
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev/arena"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
)

// stage is how far a command is, for the reader and for the end of the
// connection. conn.mu guards changes that another goroutine may see.
type stage uint8

const (
	stageIdle      stage = iota // in the pool, or in the reader's hands
	stageParked                 // waits for a buffer
	stageReceiving              // an R2T is out
	stageRunning                // the command set has it
)

// command is one command from its capsule to the last byte of its response.
// It is pooled per connection.
type command struct {
	conn *conn
	nv   nvme.Command
	sg   arena.SG
	held int64 // bytes counted against the connection's budget

	tag   uint16 // the transfer tag: its place in conn.slots, from 1
	stage stage  // guarded by conn.mu
	own   bool   // Connect or authentication: the connection's own to execute
	bad   bool   // its data did not pass its digest
	xfer  transfer

	// refs are the holders: the connection until the response is queued, and
	// the queued data.
	refs atomic.Int32

	next *command // in the pool, or in the list of parked commands
	segs [][]byte // scratch for slices of sg
	head [pdu.AlignMax]byte
	tail [2*pdu.DigestLen + pdu.CapsuleRespLen]byte
}

// Sent is called by sockio when the kernel has the data.
func (c *command) Sent() { c.unref() }

// unref drops a reference; the last one recycles the command.
func (c *command) unref() {
	n := c.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("nvmetcp: command released twice")
	}
	k := c.conn
	c.sg.Release()
	held := c.held
	c.held = 0
	c.nv.Reset()
	c.own, c.bad = false, false
	clear(c.segs)
	c.segs = c.segs[:0]
	if held > 0 {
		k.heldBytes.Add(-held)
	}
	k.pool.put(c)
	if k.parked.Load() > 0 {
		k.unpark()
	}
}

// pool keeps a connection's command structs.
type pool struct {
	mu    sync.Mutex
	free  *command
	made  int
	limit int
	out   int
	empty sync.Cond // out fell to 0
}

// get returns a command with one reference, or nil when the limit is reached.
// made tells that it is new.
func (p *pool) get(k *conn) (c *command, made bool) {
	p.mu.Lock()
	c = p.free
	if c != nil {
		p.free, c.next = c.next, nil
		p.out++
		p.mu.Unlock()
		c.refs.Store(1)
		return c, false
	}
	if p.made == p.limit {
		p.mu.Unlock()
		return nil, false
	}
	p.made++
	p.out++
	tag := uint16(p.made)
	p.mu.Unlock()
	c = &command{conn: k, tag: tag}
	c.nv.Owner = c
	c.nv.Done = commandDone
	c.refs.Store(1)
	return c, true
}

func (p *pool) put(c *command) {
	p.mu.Lock()
	c.next, p.free = p.free, c
	if p.out--; p.out == 0 {
		p.empty.Broadcast()
	}
	p.mu.Unlock()
}

func (p *pool) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out
}

// wait blocks until every command is back.
func (p *pool) wait() {
	p.mu.Lock()
	for p.out > 0 {
		p.empty.Wait()
	}
	p.mu.Unlock()
}
