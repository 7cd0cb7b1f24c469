package nvmehost

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvmetcp/pdu"
)

// Call is one command. The caller owns it again when Done is called.
type Call struct {
	// SQE is the submission queue entry; the command identifier and the SGL
	// are filled in by the queue.
	SQE [pdu.SQELen]byte
	// Data is what the host sends (Out) or where what it receives goes.
	Data [][]byte
	Out  bool

	// Status is the completion's Status field without the phase tag; Result is
	// Dword 0 and 1. Err is set instead when the connection failed.
	Status uint16
	Result uint64
	Err    error

	// Done is called once, by a queue's reader or by whoever closes it. It
	// must not block.
	Done func(*Call)
	// Tag is the caller's own.
	Tag any

	op    *op // of a Device's request
	next  *Call
	fused *Call // goes right behind this one
	n     int   // bytes of Data
	refs  atomic.Int32
	segs  [][]byte
	scr   [1][]byte
	head  [pdu.AlignMax]byte // of the PDU that is being queued, which copies it
	tail  [pdu.DigestLen]byte
}

// Sent is called when the kernel has the command's data.
func (c *Call) Sent() { c.unref() }

func (c *Call) unref() {
	if c.refs.Add(-1) == 0 {
		c.Done(c)
	}
}

// reset clears what a queue set, and what a request set.
func (c *Call) reset() {
	clear(c.SQE[:])
	clear(c.segs)
	c.segs = c.segs[:0]
	c.Data, c.Out, c.Status, c.Result, c.Err = nil, false, 0, 0, nil
	c.op, c.next, c.fused, c.n = nil, nil, nil, 0
	c.scr[0] = nil
}

// command starts an entry.
func (c *Call) command(op uint8, nsid uint32) {
	c.SQE[0] = op
	binary.LittleEndian.PutUint32(c.SQE[4:], nsid)
}

// dword sets Command Dword n.
func (c *Call) dword(n int, v uint32) { binary.LittleEndian.PutUint32(c.SQE[4*n:], v) }

// StatusError is a command that the controller refused.
type StatusError struct {
	Op     uint8
	Status uint16 // without the phase tag
}

// Error shows status code type, status code and Do Not Retry.
func (e *StatusError) Error() string {
	dnr := ""
	if e.Status&(1<<14) != 0 {
		dnr = ", do not retry"
	}
	return fmt.Sprintf("nvmehost: command %02xh ended with status %d/%02xh%s", e.Op, e.Status>>8&7, e.Status&0xff, dnr)
}

// err is the call's end as an error.
func (c *Call) err() error {
	if c.Err != nil {
		return c.Err
	}
	if c.Status&0x7ff != 0 {
		return &StatusError{Op: c.SQE[0], Status: c.Status}
	}
	return nil
}

// kindOf is the kind of device error that a status stands for.
func kindOf(status uint16) error {
	switch status & 0x7ff {
	case 0x002, 0x00f, 0x011, 0x183:
		return blockdev.ErrInvalid
	case 0x00b:
		return blockdev.ErrGone
	case 0x020, 0x182:
		return blockdev.ErrReadOnly
	case 0x080:
		return blockdev.ErrOutOfRange
	case 0x081:
		return blockdev.ErrNoSpace
	case 0x021, 0x022, 0x082, 0x303:
		return blockdev.ErrBusy
	case 0x083, 0x301, 0x302:
		return blockdev.ErrFenced
	case 0x280, 0x281:
		return blockdev.ErrMedium
	case 0x285:
		return blockdev.ErrMiscompare
	}
	return blockdev.ErrIO
}
