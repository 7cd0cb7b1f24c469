package nvmetcp

import (
	"time"

	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
)

// handshakeCommands is how many commands a connection may have under way
// before its queue is connected.
const handshakeCommands = 4

// poolSpare is how many more command structs there are than twice the queue's
// entries. Twice, since a host may send as many commands again as it has
// responses before the writer that sent these has given their structs back; by
// the time it has the responses to those, it must have.
const poolSpare = 32

// handleCapsule takes a command and the data that comes with it.
func (c *conn) handleCapsule(f *pdu.Frame, hdr []byte) error {
	cmd, err := c.take()
	if err != nil {
		return fatalAt(pdu.Fatal(pdu.SequenceError, 0), hdr)
	}
	nv := &cmd.nv
	copy(nv.SQE[:], hdr[pdu.CommonLen:])
	if !c.noSQHD {
		c.sub.take()
		c.sqhd.Store(c.sub.head)
	}
	c.in.Use(f.DataOff)
	ok := c.prepare(cmd)
	if f.DataLen == 0 && !(ok && nv.Dir == nvme.DirOut && nv.SGL().Kind == nvme.SGLInCapsule) {
		c.proceed(cmd, ok)
		return nil
	}
	ok, err = c.inCapsule(f, cmd, ok)
	if err != nil {
		if ok && !cmd.own {
			c.queue.Cancel(nv)
		}
		cmd.recycle()
		return err
	}
	c.proceed(cmd, ok)
	return nil
}

// inCapsule receives the data within a capsule, or drops it when the command
// has no use for it.
func (c *conn) inCapsule(f *pdu.Frame, cmd *command, ok bool) (bool, error) {
	nv := &cmd.nv
	var segs [][]byte
	if ok && nv.Dir == nvme.DirOut && nv.SGL().Kind == nvme.SGLInCapsule {
		switch {
		case nv.SGL().Offset != 0:
			ok = c.refuse(cmd, nvme.InvalidSGLOffset|nvme.DNR)
		case f.DataLen < nv.Length:
			ok = c.refuse(cmd, nvme.InvalidSGLLength|nvme.DNR)
		case !c.bufferNow(cmd):
			ok = c.refuse(cmd, nvme.NamespaceNotReady)
		default:
			segs = cmd.sg.Slice(0, nv.Length, c.segs[:0])
			c.segs = segs
		}
	}
	good, err := c.body(f, segs)
	if err != nil {
		return ok, err
	}
	if ok && segs != nil {
		cmd.xfer.next = nv.Length
		cmd.bad = !good
	}
	return ok, nil
}

// prepare lets the command set, or the connection itself, say what the command
// moves. When it returns false the status is set.
func (c *conn) prepare(cmd *command) bool {
	cmd.xfer = transfer{}
	if c.isOwn(&cmd.nv) {
		cmd.own = true
		return c.prepareOwn(&cmd.nv)
	}
	if c.queue == nil {
		cmd.nv.Status = nvme.CommandSequenceError | nvme.DNR
		return false
	}
	return c.queue.Prepare(&cmd.nv)
}

// refuse gives up a prepared command. It returns false.
func (c *conn) refuse(cmd *command, s nvme.Status) bool {
	if !cmd.own {
		c.queue.Cancel(&cmd.nv)
	}
	cmd.nv.Dir, cmd.nv.Length = nvme.DirNone, 0
	cmd.nv.Status, cmd.nv.Result = s, 0
	return false
}

// proceed takes a command as far as its data allows: it ends, or runs, or waits
// for a buffer, or its data is asked for.
func (c *conn) proceed(cmd *command, ok bool) {
	nv := &cmd.nv
	if !ok {
		c.complete(cmd)
		return
	}
	if nv.Length == 0 || nv.Dir == nvme.DirOut && nv.SGL().Kind == nvme.SGLInCapsule {
		if nv.Length == 0 {
			nv.Data = &cmd.sg
		}
		c.execute(cmd)
		return
	}
	if cmd.own {
		if !c.bufferNow(cmd) {
			c.refuse(cmd, nvme.NamespaceNotReady)
			c.complete(cmd)
			return
		}
		c.start(cmd)
		return
	}
	if c.parked.Load() > 0 || !c.buffer(cmd, c.lim.BufferBytes) {
		c.park(cmd)
		return
	}
	c.attend(nv)
	c.start(cmd)
}

// attend has the reader wait itself for what a command waits for that reads and is alone: with
// several under way those who wait for disks are awake, and take many completions at a time.
func (c *conn) attend(nv *nvme.Command) {
	if nv.Dir != nvme.DirIn || c.pool.InUse() != 1 || len(c.in.Bytes()) > 0 {
		return
	}
	if a := nv.Attended(); a != nil {
		c.sock.Attend(a)
	}
}

// start goes on with a command that has its buffer: it runs, or its data is
// asked for.
func (c *conn) start(cmd *command) {
	if cmd.nv.Dir == nvme.DirOut {
		c.mu.Lock()
		c.askLocked(cmd)
		c.mu.Unlock()
		c.sendR2T(cmd)
		return
	}
	c.execute(cmd)
}

// askLocked notes that an R2T goes out.
func (c *conn) askLocked(cmd *command) {
	cmd.xfer = transfer{want: cmd.nv.Length}
	cmd.stage = stageReceiving
	c.owed.Add(1)
}

// sendR2T asks for all of a command's data: one R2T is what every host can
// have outstanding (MAXR2T is 0's based).
func (c *conn) sendR2T(cmd *command) {
	r := pdu.R2T{CID: cmd.nv.CID(), TTag: cmd.tag, Length: uint32(cmd.nv.Length)}
	c.sock.Append(r.Append(cmd.head[:0], &c.layout), nil, nil, nil)
	c.sock.Flush()
}

// execute runs a command whose data is there.
func (c *conn) execute(cmd *command) {
	if cmd.bad {
		c.refuse(cmd, nvme.TransientTransportError)
		c.complete(cmd)
		return
	}
	if cmd.own {
		c.executeOwn(cmd)
		return
	}
	cmd.nv.OutLen = cmd.xfer.next
	c.queue.Execute(&cmd.nv)
}

// handleData takes data that an R2T asked for.
func (c *conn) handleData(f *pdu.Frame, hdr []byte) error {
	var d pdu.Data
	if _, err := d.Decode(hdr); err != nil {
		return fatalOf(err, hdr)
	}
	cmd := c.receiving(d.TTag)
	switch {
	case cmd == nil:
		return fatalAt(pdu.Fatal(pdu.InvalidHeaderField, 10), hdr)
	case cmd.nv.CID() != d.CID:
		return fatalAt(pdu.Fatal(pdu.InvalidHeaderField, 8), hdr)
	case uint64(d.Length) != uint64(f.DataLen):
		return fatalAt(pdu.Fatal(pdu.InvalidHeaderField, 16), hdr)
	}
	off := cmd.xfer.next
	done, fe := cmd.xfer.data(&d)
	if fe != nil {
		return fatalAt(fe, hdr)
	}
	c.in.Use(f.DataOff)
	segs := cmd.sg.Slice(off, f.DataLen, c.segs[:0])
	c.segs = segs
	good, err := c.body(f, segs)
	if err != nil {
		return err // end gives the command up
	}
	if !good {
		cmd.bad = true
	}
	if !done {
		return nil
	}
	c.mu.Lock()
	cmd.stage = stageRunning
	c.mu.Unlock()
	c.owed.Add(-1)
	c.execute(cmd)
	return nil
}

// receiving finds the command that a transfer tag names, nil when it expects
// no data.
func (c *conn) receiving(tag uint16) *command {
	i := int(tag) - 1
	if i < 0 || i >= len(c.slots) {
		return nil
	}
	cmd := c.slots[i]
	c.mu.Lock()
	defer c.mu.Unlock()
	if cmd.stage != stageReceiving {
		return nil
	}
	return cmd
}

// buffer gives a command the buffer for its data, or lets it borrow, as long as
// all of the connection's hold at most limit bytes.
func (c *conn) buffer(cmd *command, limit int64) bool {
	n := int64(cmd.nv.Length)
	if c.heldBytes.Add(n) > limit || !cmd.nv.Lends && !c.srv.arena.GetSG(cmd.nv.Length, &cmd.sg) {
		c.heldBytes.Add(-n)
		return false
	}
	cmd.held = n
	if !cmd.nv.Lends {
		cmd.nv.Data = &cmd.sg
	}
	return true
}

const (
	// exhaustedTries and exhaustedPause are how often and how long the reader
	// waits for a buffer when the arena has none and it must have one.
	exhaustedTries = 20
	exhaustedPause = 5 * time.Millisecond
)

// bufferNow is buffer for data that can't wait, whatever the limit. It fails
// only while the arena has nothing for a longer time.
func (c *conn) bufferNow(cmd *command) bool {
	const unlimited = 1 << 62
	if c.buffer(cmd, unlimited) {
		return true
	}
	c.sock.Uncork()
	defer c.sock.Cork()
	for range exhaustedTries {
		<-time.After(exhaustedPause)
		if c.buffer(cmd, unlimited) {
			return true
		}
	}
	return false
}

// park puts a command in line for a buffer.
func (c *conn) park(cmd *command) {
	c.counts.parked.Add(1)
	c.mu.Lock()
	cmd.stage = stageParked
	cmd.next = nil
	if c.mu.last != nil {
		c.mu.last.next = cmd
	} else {
		c.mu.first = cmd
	}
	c.mu.last = cmd
	c.parked.Add(1)
	c.mu.Unlock()
	c.unpark() // what was given back meanwhile told nobody
}

// unpark lets parked commands go on, in order, as far as there are buffers. It
// runs on whichever goroutine gave a buffer back, or on the timer's when
// others use up the arena. A connection that can't answer leaves them to end: answers
// to it give their buffers back while order is held, which an answer of one that goes on here
// would wait for. When the target stops they need none: the command set ends them.
func (c *conn) unpark() {
	for !c.sock.Failed() {
		c.mu.Lock()
		cmd := c.mu.first
		if c.mu.dead || c.mu.pumping || cmd == nil {
			c.mu.Unlock()
			return
		}
		leaving := c.leaving.Load()
		if !leaving && !c.buffer(cmd, c.lim.BufferBytes) {
			if c.mu.timer == nil {
				c.mu.timer = time.AfterFunc(exhaustedPause, c.unpark)
			} else {
				c.mu.timer.Reset(exhaustedPause)
			}
			c.mu.Unlock()
			return
		}
		if c.mu.first = cmd.next; c.mu.first == nil {
			c.mu.last = nil
		}
		cmd.next = nil
		c.parked.Add(-1)
		c.mu.pumping = true // a completion within this call must not recurse
		ask := cmd.nv.Dir == nvme.DirOut && !leaving
		if ask {
			c.askLocked(cmd)
		} else {
			cmd.stage = stageRunning
		}
		c.mu.Unlock()
		if ask {
			c.sendR2T(cmd)
		} else {
			c.execute(cmd)
		}
		c.mu.Lock()
		c.mu.pumping = false
		c.mu.Unlock()
	}
}
