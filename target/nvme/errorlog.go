package nvme

import "encoding/binary"

// errorEntries is what the Error Information log page holds: ELPE + 1.
const errorEntries = 64

// errorLog keeps the last failures of a controller.
type errorLog struct {
	count   uint64 // of all there ever were
	entries [errorEntries]errorEntry
}

type errorEntry struct {
	count  uint64
	sqid   uint16
	cid    uint16
	status Status
	lba    uint64
	nsid   uint32
}

// noteError keeps a failed command. Failures of Fabrics commands and the ends
// of aborted ones are no errors of the controller.
func (c *Controller) noteError(q *Queue, cmd *Command, s Status) {
	switch s.Code() {
	case CommandAborted, AbortedSQDeletion, AbortedPreempt, CommandSequenceError, AuthenticationRequired:
		return
	}
	if cmd.Opcode() == OpFabrics {
		return
	}
	e := errorEntry{sqid: q.id, cid: cmd.CID(), status: s, nsid: cmd.NSID()}
	if q.id != 0 {
		e.lba = cmd.cdq(10)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l := &c.mu.errors
	l.count++
	e.count = l.count
	l.entries[l.count%errorEntries] = e
}

// page is the Error Information log page, the newest entry first (NVMe Base
// 2.0 §5.16.1.2).
func (l *errorLog) page() []byte {
	p := make([]byte, 64*errorEntries)
	for i := range uint64(errorEntries) {
		if i >= l.count {
			break
		}
		e, b := &l.entries[(l.count-i)%errorEntries], p[64*i:]
		binary.LittleEndian.PutUint64(b, e.count)
		binary.LittleEndian.PutUint16(b[8:], e.sqid)
		binary.LittleEndian.PutUint16(b[10:], e.cid)
		binary.LittleEndian.PutUint16(b[12:], uint16(e.status)<<1)
		binary.LittleEndian.PutUint16(b[14:], 0xffff) // no single parameter to point at
		binary.LittleEndian.PutUint64(b[16:], e.lba)
		binary.LittleEndian.PutUint32(b[24:], e.nsid)
		b[29] = trTypeTCP
	}
	return p
}

// trTypeTCP is the TRTYPE of NVMe/TCP.
const trTypeTCP = 3
