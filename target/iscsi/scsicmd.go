package iscsi

import (
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
)

// take returns a command struct. When every one is on its way to a slow peer
// it waits for the output to drain.
func (c *conn) take() (*command, error) {
	for {
		if cmd := c.lend(); cmd != nil {
			return cmd, nil
		}
		c.sock.Uncork()
		if err := c.sock.Drain(); err != nil {
			return nil, err
		}
		c.sock.Cork()
	}
}

// handleCommand takes a command whose immediate data is all there.
func (c *conn) handleCommand(hdr, data []byte) error {
	cmd, err := c.begin(hdr)
	if cmd == nil {
		return err
	}
	if n := min(len(data), cmd.xfer.want); n > 0 && cmd.xfer.problem == problemNone {
		cmd.sg.CopyIn(0, data[:n])
	}
	c.admit(cmd)
	return nil
}

// streamCommand takes a command whose immediate data is still to be read.
func (c *conn) streamCommand(hdr []byte, dataLen, segLen int) error {
	copied := c.saved[:copy(c.saved[:], hdr)]
	cmd, err := c.begin(hdr)
	if err != nil {
		return err
	}
	if cmd == nil {
		if _, err := c.readInto(nil, segLen); err != nil {
			return err
		}
		return c.replay() // its number is used up
	}
	var segs [][]byte
	if cmd.xfer.problem == problemNone {
		segs = cmd.sg.Slice(0, min(dataLen, cmd.xfer.want), c.segs[:0])
	}
	ok, err := c.readInto(segs, segLen)
	if err != nil || !ok {
		if cmd.prepared {
			c.nexus.Cancel(&cmd.task)
		}
		cmd.unref()
		if err != nil {
			return err
		}
		c.reject(pdu.RejectDataDigest, copied)
		return nil
	}
	c.admit(cmd)
	return c.replay()
}

// begin decodes and prepares a command and gives it a buffer. It returns nil
// when the command was rejected. Nobody else sees it before admit.
func (c *conn) begin(hdr []byte) (*command, error) {
	if c.nexus == nil {
		c.consume(hdr)
		c.reject(pdu.RejectNotSupported, hdr)
		return nil, nil
	}
	cmd, err := c.take()
	if err != nil {
		return nil, err
	}
	q := &cmd.req
	if _, err := q.Decode(hdr); err != nil {
		cmd.unref()
		c.consume(hdr)
		c.reject(pdu.RejectInvalidField, hdr)
		return nil, nil
	}
	c.mu.Lock()
	known := c.mu.tasks.find(q.ITT) != nil
	crowded := q.Immediate && c.mu.tasks.n >= c.lim.QueueDepth+immediateMax
	c.mu.Unlock()
	if known || crowded || q.ITT == pdu.NoTag {
		cmd.unref()
		c.consume(hdr)
		switch {
		case q.ITT == pdu.NoTag:
			c.reject(pdu.RejectInvalidField, hdr)
		case known:
			c.reject(pdu.RejectTaskInProgress, hdr)
		default:
			c.reject(pdu.RejectTooManyImmediate, hdr)
		}
		return nil, nil
	}
	c.prepare(cmd)
	want := 0
	if cmd.prepared && cmd.task.Dir == scsi.DirOut && q.Write {
		want = min(cmd.task.Length, int(q.Expected))
	}
	if !q.Write && q.DataLen > 0 {
		q.Expected = 0 // data without W: refused below as unsolicited
	}
	cmd.xfer.begin(&c.par, q, want, cmd.slot)
	return cmd, nil
}

// consume counts the number of a request that is rejected: it won't be
// retried with it.
func (c *conn) consume(hdr []byte) {
	if hdr[0]&0x40 == 0 {
		c.mu.Lock()
		c.mu.win.advance()
		c.mu.win.open()
		c.mu.Unlock()
	}
}

// prepare hands the CDB to the device server and finds a buffer, unless the
// device lends. A command
// that can't go on has refuse and its status set.
func (c *conn) prepare(cmd *command) {
	q, t := &cmd.req, &cmd.task
	t.LUN = q.LUN
	t.CDB = q.CDB[:q.CDBLen]
	t.Attr = scsi.TaskAttr(q.Attr)
	if q.Write {
		t.Expected = int(q.Expected)
	}
	if (q.Read && q.Write) || q.BidiRead != 0 {
		cmd.fail(0x05, 0x24, 0x00) // no CDB of a disk is bidirectional: invalid field
		return
	}
	if !c.nexus.Prepare(t) {
		cmd.refuse = true
		return
	}
	cmd.prepared = true
	if t.Length == 0 || t.Dir == scsi.DirNone {
		t.Data = &cmd.sg
		return
	}
	n := int64(t.Length)
	if c.heldBytes.Add(n) > c.lim.BufferBytes || !t.Lends && !c.srv.arena.GetSG(t.Length, &cmd.sg) {
		c.heldBytes.Add(-n)
		c.nexus.Cancel(t)
		cmd.prepared = false
		cmd.refuse = true
		t.Status, t.SenseLen = scsi.StatusBusy, 0
		t.Length, t.Dir = 0, scsi.DirNone
		c.mu.Lock()
		c.mu.stats.Busy++
		c.mu.Unlock()
		return
	}
	cmd.held = n
	if !t.Lends {
		t.Data = &cmd.sg
	}
}

// fail sets the status that the transport itself gives: CHECK CONDITION with
// fixed format sense data (SPC-5 §4.5.3).
func (cmd *command) fail(key, asc, ascq byte) {
	t := &cmd.task
	cmd.refuse = true
	t.Status = scsi.StatusCheckCondition
	t.InLen = 0
	clear(t.Sense[:18])
	t.Sense[0], t.Sense[2], t.Sense[7] = 0x70, key, 10
	t.Sense[12], t.Sense[13] = asc, ascq
	t.SenseLen = 18
}

// admit makes a command known, counts its number, and lets it run or asks for
// its data.
func (c *conn) admit(cmd *command) {
	c.mu.Lock()
	c.tookLocked(cmd.req.Immediate)
	c.mu.tasks.insert(cmd)
	c.mu.stats.BytesIn += uint64(cmd.req.DataLen)
	c.mu.Unlock()
	c.proceed(cmd)
}

// proceed takes a command as far as its data allows: it runs, or fails, or
// R2Ts go out.
func (c *conn) proceed(cmd *command) {
	x := &cmd.xfer
	if !x.ready() {
		if !cmd.refuse {
			c.sendR2Ts(cmd)
		}
		return
	}
	if x.problem != problemNone && !cmd.refuse {
		if cmd.prepared {
			c.nexus.Cancel(&cmd.task)
			cmd.prepared = false
		}
		asc, ascq := x.problem.sense()
		cmd.fail(0x0b, asc, ascq) // ABORTED COMMAND
	}
	if cmd.refuse {
		c.complete(cmd)
		return
	}
	c.mu.Lock()
	if c.mu.halted {
		c.mu.Unlock()
		return // end gives it up
	}
	cmd.executing = true
	c.mu.Unlock()
	cmd.prepared = false
	cmd.task.OutLen = min(x.next, x.want)
	c.attend(&cmd.task)
	c.nexus.Execute(&cmd.task)
}

// attend has the reader wait itself for what a task waits for that reads and is alone; see
// package nvmetcp.
func (c *conn) attend(t *scsi.Task) {
	if t.Dir != scsi.DirIn || !c.last || c.pool.InUse() != 1 {
		return
	}
	if a := t.Attended(); a != nil {
		c.sock.Attend(a)
	}
}

// sendR2Ts asks for as much data as may be outstanding.
func (c *conn) sendR2Ts(cmd *command) {
	for {
		sn, ttt, off, n, ok := cmd.xfer.r2t(min(c.par.MaxOutstandingR2T, maxOutstandingR2T))
		if !ok {
			return
		}
		c.mu.Lock()
		r := pdu.R2T{LUN: cmd.req.LUN, ITT: cmd.req.ITT, TTT: ttt, R2TSN: sn, Offset: uint32(off), Length: uint32(n)}
		r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(false)
		c.sendLocked(r.Append(cmd.head[:0]), nil)
		c.mu.Unlock()
		c.sock.Flush()
	}
}

// receiving finds the command that a Data-Out is for, or nil.
func (c *conn) receiving(itt uint32) *command {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := c.mu.tasks.find(itt)
	if cmd == nil || cmd.executing {
		return nil
	}
	return cmd
}

// handleDataOut takes a Data-Out whose data is all there. One for a task that
// is gone is dropped: its data may cross an abort on the way.
func (c *conn) handleDataOut(hdr, data []byte) error {
	var d pdu.DataOut
	if _, err := d.Decode(hdr); err != nil {
		return err
	}
	cmd := c.receiving(d.ITT)
	if cmd == nil {
		for i := len(c.held) - 1; i >= 0 && !c.replaying; i-- {
			if c.held[i].itt == d.ITT {
				return c.hold(c.held[i].cmdSN, d.ITT, hdr, data)
			}
		}
		return nil
	}
	off := cmd.xfer.next
	keep, known := cmd.xfer.dataOut(&d)
	if !known {
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	if keep {
		if n := min(len(data), cmd.xfer.want-off); n > 0 {
			cmd.sg.CopyIn(off, data[:n])
		}
	}
	c.countIn(len(data))
	c.proceed(cmd)
	return nil
}

// streamDataOut takes a Data-Out whose data is still to be read.
func (c *conn) streamDataOut(hdr []byte, dataLen, segLen int) error {
	copied := c.saved[:copy(c.saved[:], hdr)]
	var d pdu.DataOut
	if _, err := d.Decode(hdr); err != nil {
		return err
	}
	cmd := c.receiving(d.ITT)
	if cmd == nil && len(c.held) > 0 {
		return c.gather(copied, dataLen, segLen)
	}
	var segs [][]byte
	known := true
	if cmd != nil {
		off := cmd.xfer.next
		var keep bool
		keep, known = cmd.xfer.dataOut(&d)
		if keep && cmd.xfer.want > off {
			segs = cmd.sg.Slice(off, min(dataLen, cmd.xfer.want-off), c.segs[:0])
		}
	}
	ok, err := c.readInto(segs, segLen)
	if err != nil {
		return err
	}
	switch {
	case !ok:
		c.reject(pdu.RejectDataDigest, copied)
		if cmd != nil {
			cmd.xfer.lost()
		}
	case !known:
		c.reject(pdu.RejectInvalidField, copied)
	}
	if cmd != nil && known {
		c.countIn(dataLen)
		c.proceed(cmd)
	}
	return nil
}

// gather reads the data of a Data-Out whose command may be held.
func (c *conn) gather(hdr []byte, dataLen, segLen int) error {
	data := make([]byte, dataLen)
	ok, err := c.readInto([][]byte{data}, segLen)
	if err != nil {
		return err
	}
	if !ok {
		c.reject(pdu.RejectDataDigest, hdr)
		return nil
	}
	return c.handleDataOut(hdr, data)
}

// lostDataOut notes that the data of a Data-Out was unreadable.
func (c *conn) lostDataOut(hdr []byte) error {
	var d pdu.DataOut
	if _, err := d.Decode(hdr); err != nil {
		return err
	}
	if cmd := c.receiving(d.ITT); cmd != nil {
		if _, known := cmd.xfer.dataOut(&d); known {
			cmd.xfer.lost()
			c.proceed(cmd)
		}
	}
	return nil
}

func (c *conn) countIn(n int) {
	c.mu.Lock()
	c.mu.stats.BytesIn += uint64(n)
	c.mu.Unlock()
}

// readInto receives a data segment: segs takes its front, the rest of dataLen
// is dropped. segLen includes padding and digest. It reports whether the
// digest, if any, is right.
func (c *conn) readInto(segs [][]byte, segLen int) (ok bool, err error) {
	if segs != nil {
		c.segs = segs // keeps what it grew to
	}
	if !c.par.DataDigest {
		return true, c.in.Into(segs, segLen, nil)
	}
	var crc uint32
	if err := c.in.Into(segs, segLen-pdu.DigestLen, func(p []byte) { crc = pdu.Digest(crc, p) }); err != nil {
		return false, err
	}
	if err := c.in.Need(pdu.DigestLen); err != nil {
		return false, err
	}
	ok = crc == pdu.DigestAt(c.in.Bytes())
	c.in.Use(pdu.DigestLen)
	return ok, nil
}
