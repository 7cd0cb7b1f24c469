package nvmetcp

import (
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

	// lent is set while somebody holds the command: the connection until the
	// response is queued, and then the output if it refers to the data.
	lent bool

	next *command // in the pool, or in the list of parked commands
	segs [][]byte // scratch for slices of the data
	head [pdu.AlignMax]byte
	tail [2*pdu.DigestLen + pdu.CapsuleRespLen]byte
}

// Next implements pool.Item.
func (c *command) Next() **command { return &c.next }

// Sent is called by sockio when the kernel has the data.
func (c *command) Sent() { c.recycle() }

// recycle gives the command back; its holder calls it.
func (c *command) recycle() {
	if !c.lent {
		panic("nvmetcp: command given back twice")
	}
	c.lent = false
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
	k.pool.Put(c)
	if k.parked.Load() > 0 {
		k.unpark()
	}
}

// take lends a command to the connection. It fails when the connection has all
// that it may have.
func (c *conn) take() (*command, error) {
	cmd, index := c.pool.Get()
	if index > 0 {
		cmd = &command{conn: c, tag: uint16(index)}
		cmd.nv.Owner = cmd
		cmd.nv.Done = commandDone
		cmd.nv.Gone, cmd.nv.Soon = &c.gone, c.soon
		c.slots = append(c.slots, cmd)
	}
	if cmd == nil {
		return nil, errOverrun
	}
	cmd.lent = true
	cmd.stage = stageIdle
	return cmd, nil
}
