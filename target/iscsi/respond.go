package iscsi

import (
	"blockd.dev/blockdev/arena"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
)

// taskDone is the Done of every task.
func taskDone(t *scsi.Task) {
	cmd := t.Owner.(*command)
	cmd.conn.complete(cmd)
}

// complete ends a command: it leaves the task table and its response is
// queued. Any goroutine may call it.
func (c *conn) complete(cmd *command) {
	c.mu.Lock()
	if c.mu.tasks.remove(cmd) && !cmd.req.Immediate {
		c.mu.win.open()
	}
	handed := !cmd.task.Silent && !c.mu.dead && c.respondLocked(cmd)
	if c.mu.idle != nil && c.underWayLocked() == 0 {
		close(c.mu.idle)
		c.mu.idle = nil
	}
	c.mu.Unlock()
	if !handed {
		cmd.unref()
	}
	c.sock.Flush()
}

// respondLocked queues Data-Ins and status. The status travels with the last
// Data-In when it needs no sense data (§11.7.3); then it reports that the
// connection's reference to cmd went along, and cmd may be gone.
func (c *conn) respondLocked(cmd *command) (handed bool) {
	t, q, s := &cmd.task, &cmd.req, &c.mu.stats
	res := cmd.residual()
	s.Commands++
	if t.Status != scsi.StatusGood {
		s.Errors++
	}
	sent := 0
	if t.Dir == scsi.DirIn && q.Read && t.InLen > 0 {
		sent = min(t.InLen, int(q.Expected))
	}
	var dataSN uint32
	if sent > 0 {
		s.Reads++
		s.BytesOut += uint64(sent)
		collapsed := t.SenseLen == 0 && t.Status == scsi.StatusGood
		dataSN = c.dataInLocked(cmd, sent, collapsed, res)
		if collapsed {
			return true
		}
	} else if t.Dir == scsi.DirOut && q.Write {
		s.Writes++
		dataSN = cmd.xfer.r2tSN
	}
	r := pdu.SCSIResponse{Status: uint8(t.Status), Residual: res, ITT: q.ITT, ExpDataSN: dataSN}
	r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(true)
	tail := cmd.tail[:0]
	if t.SenseLen > 0 {
		r.DataLen = 2 + t.SenseLen
		tail = append(tail, byte(t.SenseLen>>8), byte(t.SenseLen))
		tail = append(tail, t.Sense[:t.SenseLen]...)
		tail = append(tail, zeros[:pdu.Pad(r.DataLen)]...)
		if c.mu.par.DataDigest {
			tail = pdu.AppendDigest(tail, pdu.Digest(0, tail))
		}
	}
	head := r.Append(cmd.head[:0])
	if c.mu.par.HeaderDigest {
		head = pdu.AppendDigest(head, pdu.Digest(0, head))
	}
	c.sock.Append(head, nil, tail, nil)
	return false
}

// dataInLocked queues n bytes of data in as many PDUs as the initiator's
// limits make of it, and returns how many. If they are collapsed with the
// response, the connection's reference to cmd goes with the last one.
func (c *conn) dataInLocked(cmd *command, n int, collapsed bool, res pdu.Residual) uint32 {
	p := &c.mu.par
	d := pdu.DataIn{LUN: cmd.req.LUN, ITT: cmd.req.ITT}
	burst := p.MaxBurst
	for off := 0; off < n; {
		m := min(n-off, p.MaxSendData, burst)
		burst -= m
		last := off+m == n
		d.Final = last || burst == 0
		d.Offset, d.DataLen = uint32(off), m
		if last && collapsed {
			d.HasStatus, d.Residual, d.Status = true, res, uint8(cmd.task.Status)
		}
		d.StatSN, d.ExpCmdSN, d.MaxCmdSN = c.snLocked(d.HasStatus)
		head := d.Append(cmd.head[:0])
		if p.HeaderDigest {
			head = pdu.AppendDigest(head, pdu.Digest(0, head))
		}
		first := len(cmd.segs)
		cmd.segs = arena.Slice(cmd.task.Segments(), off, m, cmd.segs)
		segs := cmd.segs[first:]
		tail := append(cmd.tail[:0], zeros[:pdu.Pad(m)]...)
		if p.DataDigest {
			var crc uint32
			for _, s := range segs {
				crc = pdu.Digest(crc, s)
			}
			tail = pdu.AppendDigest(tail, pdu.Digest(crc, tail))
		}
		if !last || !collapsed {
			cmd.refs.Add(1)
		}
		c.sock.Append(head, segs, tail, cmd)
		d.DataSN++
		off += m
		if burst == 0 {
			burst = p.MaxBurst
		}
	}
	return d.DataSN
}

// residual compares what the command moves with what the initiator expected
// (§11.4.5).
func (cmd *command) residual() pdu.Residual {
	t, q := &cmd.task, &cmd.req
	moves, expected := 0, int(q.Expected)
	switch {
	case t.Dir == scsi.DirIn && t.InLen > 0:
		moves = t.InLen
		if !q.Read {
			expected = 0
		}
	case t.Dir == scsi.DirOut:
		moves = t.Length
		if !q.Write {
			expected = 0
		}
	}
	switch {
	case moves > expected:
		return pdu.Residual{Overflow: true, Count: uint32(moves - expected)}
	case moves < expected:
		return pdu.Residual{Underflow: true, Count: uint32(expected - moves)}
	}
	return pdu.Residual{}
}
