package iscsihost

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/target/iscsi/pdu"
)

// CDB operation codes (SBC-4, SPC-5).
const (
	opTestUnitReady   = 0x00
	opInquiry         = 0x12
	opModeSense6      = 0x1a
	opUnmap           = 0x42
	opRead16          = 0x88
	opCompareAndWrite = 0x89
	opWrite16         = 0x8a
	opSync16          = 0x91
	opWriteSame16     = 0x93
	opServiceIn16     = 0x9e // READ CAPACITY(16) is its service action 10h
)

// The Initiator Task Tag of a command is its slot's index below a count that
// makes a late answer recognisable; it stays below 1<<31.
const (
	slotBits  = 12
	countMax  = 1 << 19
	logoutITT = 0xfffffffe
)

// job is something to send: a request, or a CDB of Command.
type job struct {
	req   *blockdev.Request
	raw   *rawCall
	tries int8 // how often a unit attention has ended it
	flush bool // the SYNCHRONIZE CACHE that makes an UNMAP or a WRITE SAME durable
}

// fail ends the job, since the session has.
func (j job) fail(err error) {
	if j.raw != nil {
		j.raw.err = err
		close(j.raw.done)
		return
	}
	blockdev.Complete(j.req, blockdev.NewError(blockdev.ErrGone, j.req, -1, err))
}

// command is a slot: a SCSI command in flight. It has one reference for the
// target's answer and one for each piece of data that the socket has not taken
// yet; the last one to go ends it, so that the buffers are free by then.
type command struct {
	session *Session
	index   uint32
	count   uint32
	itt     uint32
	job     job
	active  bool // guarded by session.mu

	cdb      [16]byte
	data     [][]byte // to send, or to fill
	own      [1][]byte
	param    [24]byte // of UNMAP
	expected int      // bytes of data
	out      bool

	refs     atomic.Int32
	answered bool // by the target; the reader's
	failed   error
	status   uint8
	sense    Sense
	got      int // bytes of data received
	residual pdu.Residual
}

// prepare sets the CDB and the data of the job.
func (c *command) prepare(j job) {
	c.job, c.active, c.answered, c.failed = j, true, false, nil
	c.count = (c.count + 1) % countMax
	c.itt = c.count<<slotBits | c.index
	c.status, c.sense, c.got, c.residual = 0, Sense{}, 0, pdu.Residual{}
	c.refs.Store(1)
	c.cdb = [16]byte{}
	c.data, c.expected, c.out = nil, 0, false
	if j.raw != nil {
		copy(c.cdb[:], j.raw.cdb)
		c.own[0] = j.raw.data
		c.data, c.expected, c.out = c.own[:], len(j.raw.data), j.raw.out
		return
	}
	r := j.req
	sh := c.session.shape.Load()
	op := r.Op
	if j.flush {
		op = blockdev.OpFlush
	}
	switch op {
	case blockdev.OpRead:
		c.cdb[0] = opRead16
		c.data, c.expected = r.Data, int(r.Length)
	case blockdev.OpWrite:
		c.cdb[0] = opWrite16
		c.data, c.expected, c.out = r.Data, int(r.Length), true
	case blockdev.OpCompareAndWrite:
		c.cdb[0] = opCompareAndWrite
		c.data, c.expected, c.out = r.Data, 2*int(r.Length), true
	case blockdev.OpFlush:
		c.cdb[0] = opSync16
		return // the whole unit
	case blockdev.OpUnmap:
		if sh.unmap {
			c.unmap(r, sh)
			return
		}
		c.writeSame(sh.unmapSame)
	case blockdev.OpWriteZeroes:
		c.writeSame(sh.unmapSame && !r.NoUnmap)
	}
	if r.FUA && (op == blockdev.OpWrite || op == blockdev.OpCompareAndWrite) {
		c.cdb[1] |= 0x08
	}
	blocks := uint32(r.Length / int64(sh.geometry.BlockSize))
	binary.BigEndian.PutUint64(c.cdb[2:], uint64(r.Offset/int64(sh.geometry.BlockSize)))
	if op == blockdev.OpCompareAndWrite {
		c.cdb[13] = byte(blocks)
	} else {
		binary.BigEndian.PutUint32(c.cdb[10:], blocks)
	}
}

// writeSame writes one block of zeroes over the range.
func (c *command) writeSame(unmap bool) {
	c.cdb[0] = opWriteSame16
	if unmap {
		c.cdb[1] |= 0x08
	}
	c.own[0] = c.session.zero
	c.data, c.expected, c.out = c.own[:], len(c.session.zero), true
}

// unmap sends one UNMAP block descriptor.
func (c *command) unmap(r *blockdev.Request, sh *shape) {
	p := c.param[:]
	clear(p)
	binary.BigEndian.PutUint16(p[0:], uint16(len(p)-2))
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)-8))
	binary.BigEndian.PutUint64(p[8:], uint64(r.Offset/int64(sh.geometry.BlockSize)))
	binary.BigEndian.PutUint32(p[16:], uint32(r.Length/int64(sh.geometry.BlockSize)))
	c.cdb[0], c.cdb[8] = opUnmap, byte(len(p))
	c.own[0] = p
	c.data, c.expected, c.out = c.own[:], len(p), true
}

// sendLocked queues the command and the data that may go with it unasked.
func (s *Session) sendLocked(c *command) {
	immediate, unsolicited := 0, 0
	if c.out {
		first := min(c.expected, s.par.firstBurst)
		if s.par.immediate {
			immediate = min(first, s.par.maxSend)
		}
		if !s.par.initialR2T {
			unsolicited = first - immediate
		}
	}
	p := pdu.SCSICommand{
		Final: unsolicited == 0, Read: !c.out && c.expected > 0, Write: c.out, Attr: 1, // SIMPLE
		LUN: s.lun, ITT: c.itt, Expected: uint32(c.expected), CmdSN: s.mu.cmdSN, ExpStatSN: s.mu.expStatSN,
		DataLen: immediate, CDBLen: len(c.cdb),
	}
	copy(p.CDB[:], c.cdb[:])
	s.mu.cmdSN++
	s.mu.head = p.Append(s.mu.head[:0])
	s.appendLocked(c, 0, immediate)
	if unsolicited > 0 {
		s.dataOutLocked(c, pdu.NoTag, immediate, unsolicited)
	}
}

// dataOutLocked queues one sequence of Data-Outs.
func (s *Session) dataOutLocked(c *command, ttt uint32, offset, n int) {
	for sn := uint32(0); n > 0; sn++ {
		m := min(n, s.par.maxSend)
		d := pdu.DataOut{Final: m == n, LUN: s.lun, ITT: c.itt, TTT: ttt, ExpStatSN: s.mu.expStatSN,
			DataSN: sn, Offset: uint32(offset), DataLen: m}
		s.mu.head = d.Append(s.mu.head[:0])
		s.appendLocked(c, offset, m)
		offset, n = offset+m, n-m
	}
}

// appendLocked queues the header in mu.head with n bytes of c's data.
func (s *Session) appendLocked(c *command, offset, n int) {
	m := &s.mu
	m.head = s.seal(m.head)
	if n == 0 {
		s.sock.Append(m.head, nil, nil, nil)
		return
	}
	m.segs = cut(m.segs[:0], c.data, offset, n)
	m.tail = append(m.tail[:0], pad[:pdu.Pad(n)]...)
	if s.par.dataDigest {
		var crc uint32
		for _, seg := range m.segs {
			crc = pdu.Digest(crc, seg)
		}
		m.tail = pdu.AppendDigest(m.tail, pdu.Digest(crc, m.tail))
	}
	c.refs.Add(1)
	s.sock.Append(m.head, m.segs, m.tail, c)
	clear(m.segs)
}

var pad [4]byte

// seal appends the header digest where one is used.
func (s *Session) seal(head []byte) []byte {
	if s.par.headerDigest {
		head = pdu.AppendDigest(head, pdu.Digest(0, head))
	}
	return head
}

// cut appends to dst the parts of data that hold [offset, offset+n).
func cut(dst, data [][]byte, offset, n int) [][]byte {
	for _, seg := range data {
		if offset >= len(seg) {
			offset -= len(seg)
			continue
		}
		part := seg[offset:]
		if len(part) > n {
			part = part[:n]
		}
		dst = append(dst, part)
		offset = 0
		if n -= len(part); n == 0 {
			break
		}
	}
	return dst
}

// Sent is told by the socket that a piece of data is out.
func (c *command) Sent() { c.release() }

// release drops one reference; the last one ends the command.
func (c *command) release() {
	if c.refs.Add(-1) == 0 {
		c.session.finish(c)
	}
}

// unitAttentionsMax is how many unit attentions in a row end a request.
const unitAttentionsMax = 16

// finish ends a command that is answered and whose data is out: it is sent
// again after a unit attention, else its request is done.
func (s *Session) finish(c *command) {
	j, err := c.job, c.failed
	status, sense := c.status, c.sense
	again := false
	if j.raw == nil && err == nil {
		switch {
		case status == statusCheckCondition && sense.Key == keyUnitAttention:
			s.attention(sense)
			j.tries++
			again = j.tries < unitAttentionsMax
		case status != statusGood:
		case !c.out && c.got != c.expected || c.residual.Count != 0:
			err = fmt.Errorf("iscsihost: %d bytes came of %d, residual %+v", c.got, c.expected, c.residual)
		case j.req.FUA && !j.flush && (j.req.Op == blockdev.OpUnmap || j.req.Op == blockdev.OpWriteZeroes):
			j.flush, again = true, true
		}
	}
	if j.raw != nil {
		j.raw.result = Result{Status: status, Sense: sense, N: c.got}
		j.raw.err = err
	}
	s.mu.Lock()
	dead := s.mu.dead
	c.active, c.job, c.data, c.own[0] = false, job{}, nil, nil
	s.mu.free = append(s.mu.free, c)
	s.mu.inFlight--
	var startErr error
	if again {
		startErr = s.startLocked(j)
	}
	s.pumpLocked()
	if s.mu.leaving && s.mu.inFlight == 0 && dead == nil {
		s.logoutLocked()
	}
	s.mu.Unlock()
	s.sock.Flush()

	switch {
	case j.raw != nil:
		close(j.raw.done)
	case again && startErr == nil:
	case again:
		j.fail(startErr)
	case dead != nil && err != nil:
		j.fail(err)
	case err != nil:
		blockdev.Complete(j.req, blockdev.NewError(blockdev.ErrIO, j.req, -1, err))
	case status != statusGood:
		blockdev.Complete(j.req, requestError(j.req, status, sense, s.shape.Load().geometry.BlockSize))
	default:
		blockdev.Complete(j.req, nil)
	}
}

// queue is a FIFO that allocates only while it grows.
type queue struct {
	items []job
	head  int
}

func (q *queue) len() int   { return len(q.items) - q.head }
func (q *queue) front() job { return q.items[q.head] }

func (q *queue) push(j job) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, j)
}

func (q *queue) pop() job {
	j := q.items[q.head]
	q.items[q.head] = job{}
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return j
}
