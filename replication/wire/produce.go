package wire

import (
	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
	"blockd.dev/replication/wire/recovery"
)

// Produce writes the next datagram for path into buf, from its start up to its
// capacity, and returns its length: 0 when there is nothing to send there now.
// buf should have room for the path's longest datagram; what does not fit is
// not produced.
func (c *Conn) Produce(now clock.Mono, path PathID, buf []byte) int {
	c.advance(now)
	c.collect()
	if path >= PathsMax || !c.paths[path].usable() || cap(buf) < packet.DatagramMin {
		return 0
	}
	switch c.state {
	case connecting:
		if path != c.active {
			return 0
		}
		return c.produceHandshake(buf)
	case up, draining:
		return c.produceData(path, buf)
	case closing:
		if path != c.active {
			return 0
		}
		return c.produceClose(buf)
	case down:
	}
	return 0
}

// draft is a Data packet being written.
type draft struct {
	b      []byte // header, filled in last, and frames
	head   int    // length of the header
	hint   uint64 // in the header, if there is room for it
	limit  int    // of len(b)
	flags  uint8
	ackOf  uint64 // largest number acknowledged in it, if hasAck
	hasAck bool
	frames int32 // list of pieces, by their next
	last   int32
}

func (d *draft) room() int { return d.limit - len(d.b) }

// setHint makes room for a hint in the header, unless it is 0: none.
func (d *draft) setHint(hint uint64) {
	if hint != 0 {
		d.head, d.hint = packet.HeaderLen+packet.HintLen, hint
	}
}

// nextHint is the hint of the message that is to be sent next.
func (c *Conn) nextHint() uint64 {
	if i := c.out.resend.head; i != 0 {
		return c.pieces.slab[i].msg.Hint
	}
	if m := c.nextNew(); m != nil {
		return m.Hint
	}
	return 0
}

// note adds piece i to what the packet must see through.
func (c *Conn) note(d *draft, i int32) {
	c.pieces.slab[i].next = 0
	if d.frames == 0 {
		d.frames = i
	} else {
		c.pieces.slab[d.last].next = i
	}
	d.last = i
	d.flags |= recovery.Eliciting
}

// produceData writes a packet: what is urgent on any path, and messages on the
// active one, as far as the window, the pacer and the peer's credit allow.
func (c *Conn) produceData(id PathID, buf []byte) int {
	if c.ledger.Full() || c.ledger.Next() >= packet.NumberMax {
		return 0
	}
	p := &c.paths[id]
	active := id == c.active
	length := min(p.datagram, cap(buf))
	if active && c.timeouts >= troubleTimeouts {
		length = packet.DatagramMin // perhaps long ones vanish
	}
	probing := active && c.probes > 0
	send := active && c.maySend(probing, p)
	if !send && !c.urgent(id, p) {
		if active {
			return c.produceMTUProbe(id, p, buf)
		}
		return 0
	}
	d := draft{head: packet.HeaderLen, limit: length - c.sealing.Overhead()}
	if send && c.cfg.Hints {
		d.setHint(c.nextHint())
	}
	d.b = buf[:d.head]
	c.appendAck(&d, active)
	c.appendControl(&d, p, active)
	if send {
		if c.closes(p) {
			d.b = packet.AppendPing(d.b)
			d.flags |= recovery.Eliciting
		}
		if probing {
			c.probes--
			if c.out.resend.head == 0 {
				c.reclaim()
			}
		}
		c.appendMessages(&d)
		if probing && d.flags&recovery.Eliciting == 0 {
			d.b = packet.AppendPing(d.b)
			d.flags |= recovery.Eliciting
			c.stats.TxProbes++
		}
	}
	if len(d.b) == d.head {
		return 0
	}
	return c.finish(&d, id, p)
}

// maySend tells whether messages may go out now. If only the pacer forbids
// it, it says when to come back.
func (c *Conn) maySend(probing bool, p *path) bool {
	if probing {
		return true
	}
	c.paceTime = clock.Never
	if !c.hasData() {
		return false
	}
	if inFlight := c.ledger.InFlight(uint8(c.active)); inFlight > 0 && inFlight+p.datagram > p.window.Bytes() {
		p.window.Limited()
		return false
	}
	ok, at := p.pacer.Ready(c.now, &p.window, &p.rtt, c.cfg.Granularity)
	if !ok {
		c.paceTime = at
	}
	return ok
}

// closes tells that nothing can follow the next datagram until something is
// acknowledged, and that all in flight is too little for the peer to do so by
// itself before its AckDelay is over.
func (c *Conn) closes(p *path) bool {
	window := p.window.Bytes()
	return window < ackPackets*p.datagram && c.ledger.InFlight(uint8(c.active))+2*p.datagram > window
}

// hasData tells whether any piece of a message, or about one, can be sent.
func (c *Conn) hasData() bool {
	o := &c.out
	return o.resend.head != 0 || o.active.head != nil || c.startable() != nil
}

// urgent tells whether path id has something to carry that waits for nothing.
func (c *Conn) urgent(id PathID, p *path) bool {
	if p.ping || p.answerDue || p.tries > 0 && p.tryAt <= c.now {
		return true
	}
	return id == c.active && (c.acks.due <= c.now || c.creditDue() || c.blocked())
}

// blocked tells that a message waits for credit, and the peer doesn't know it.
func (c *Conn) blocked() bool {
	o := &c.out
	return (o.starting.head != nil || o.answers.head != nil) && o.toldBlocked != o.credit && c.startable() == nil
}

func (c *Conn) appendAck(d *draft, active bool) {
	if c.acks.count == 0 || c.acks.pending == 0 && active {
		return
	}
	n := len(d.b)
	d.b = c.acks.append(d.b, c.now, d.room()/2)
	if len(d.b) > n {
		d.ackOf = c.acks.ranges[0].Last
		d.hasAck = true
	}
}

// appendControl writes what isn't messages.
func (c *Conn) appendControl(d *draft, p *path, active bool) {
	if p.answerDue {
		p.answerDue = false
		d.b = packet.AppendChallenge(d.b, packet.FrameResponse, p.answer)
		d.flags |= recovery.Eliciting
	}
	if p.tries > 0 && p.tryAt <= c.now {
		if p.challenge == 0 {
			p.challenge = c.rng.Uint64() | 1
		}
		p.tries--
		p.tryAt = c.now.Add(max(2*p.rtt.Timeout(c.cfg.Granularity, c.params.AckDelay, firstTimeout), c.cfg.Granularity))
		d.b = packet.AppendChallenge(d.b, packet.FrameChallenge, p.challenge)
		d.flags |= recovery.Eliciting
	}
	if p.ping {
		p.ping = false
		d.b = packet.AppendPing(d.b)
		d.flags |= recovery.Eliciting
	}
	if !active {
		return
	}
	if c.creditDue() {
		d.b = packet.AppendCredit(d.b, packet.FrameCredit, c.granting())
		c.note(d, c.pieces.take(piece{kind: pieceCredit}))
	}
	if c.blocked() {
		c.out.toldBlocked = c.out.credit
		d.b = packet.AppendCredit(d.b, packet.FrameBlocked, c.out.credit)
		c.note(d, c.pieces.take(piece{kind: pieceBlocked}))
	}
}

// shortPiece is the least worth cutting off a longer message, in bytes: the
// head of another piece costs, on both sides.
const shortPiece = 256

// appendMessages fills the packet: first with what was lost, then with new
// messages.
func (c *Conn) appendMessages(d *draft) {
	o := &c.out
	for o.resend.head != 0 {
		if !c.appendAgain(d) {
			return
		}
	}
	for {
		m := c.nextNew()
		if m == nil {
			return
		}
		n, ok := c.appendPiece(d, m, m.sent, m.total-m.sent)
		if !ok {
			return
		}
		if !m.started {
			c.start(m)
		}
		m.sent += n
		o.passOn(m)
		m.refs++
		c.note(d, c.pieces.take(piece{kind: pieceData, msg: m, from: uint64(m.sent - n), n: n}))
	}
}

// appendAgain writes the first piece of the queue, or as much of it as fits;
// false if nothing did.
func (c *Conn) appendAgain(d *draft) bool {
	i := c.out.resend.head
	p := &c.pieces.slab[i]
	m := p.msg
	if p.kind == pieceCancel {
		if d.room() < packet.CancelLenMax {
			return false
		}
		d.b = packet.AppendCancel(d.b, &packet.Cancel{
			ID: uint64(m.id), Started: m.started, Request: m.Kind == Request,
			Total: uint64(m.total), Channel: m.Channel, Sequence: m.sequence,
		})
		c.note(d, c.popPiece(&c.out.resend))
		return true
	}
	if m.settled {
		c.dropPiece(c.popPiece(&c.out.resend))
		return true
	}
	n, ok := c.appendPiece(d, m, int(p.from), p.n)
	if !ok {
		return false
	}
	c.stats.TxResent++
	if n == p.n {
		c.note(d, c.popPiece(&c.out.resend))
		return true
	}
	part := piece{kind: pieceData, msg: m, from: p.from, n: n}
	p.from += uint64(n)
	p.n -= n
	m.refs++
	c.note(d, c.pieces.take(part)) // may move the slab that p points into
	return false
}

// appendPiece writes a message frame with up to want bytes of m from byte from
// on, and returns how many it has. It is false when too little fits.
func (c *Conn) appendPiece(d *draft, m *outMsg, from, want int) (n int, ok bool) {
	sequence := m.sequence
	if !m.started && m.Channel != 0 {
		sequence = c.out.sequences[m.Channel] // what start will give it
	}
	f := packet.Message{
		ID: uint64(m.id), Kind: uint8(m.Kind), Total: uint64(m.total), Offset: uint64(from),
		Channel: m.Channel, Sequence: sequence, InReplyTo: uint64(m.InReplyTo), Remaining: m.remaining(c.now),
	}
	n = min(want, d.room()-packet.MessageHeadMax)
	if n < want {
		if n < shortPiece {
			return 0, false
		}
	} else if n < 0 {
		return 0, false
	}
	d.b = packet.AppendMessageHead(d.b, &f, n)
	at := len(d.b)
	d.b = d.b[:at+n]
	m.copyData(d.b[at:], from)
	return n, true
}

// finish puts the header in front, seals the packet and notes it as sent.
func (c *Conn) finish(d *draft, id PathID, p *path) int {
	number := c.ledger.Next()
	eliciting := d.flags&recovery.Eliciting != 0
	if !eliciting {
		c.stats.TxAckOnly++
	} else if d.hasAck {
		c.note(d, c.pieces.take(piece{kind: pieceAck, from: d.ackOf}))
	}
	if c.sealing.worn(&c.cfg) {
		c.sealing.turn(number)
		c.stats.Rekeys++
	}
	hd := packet.Header{
		Type: packet.TypeData, Phase: c.sealing.phase, Number: number, Dest: c.remote,
		Hint: d.hint, Hinted: d.head > packet.HeaderLen,
	}
	hd.Append(d.b[:0])
	b := c.sealing.Seal(d.b, d.head, number)
	c.sealing.packets++
	c.sealing.bytes += uint64(len(b))
	if len(b) > packet.DatagramMin {
		d.flags |= recovery.Large
	}
	if eliciting {
		if !c.ledger.Waiting() && !c.owedBefore {
			c.owedSince = c.now
		}
		c.owedBefore = false
		c.lastSent = c.now
		p.pacer.Sent(len(b))
	}
	c.ledger.Add(recovery.Packet{Sent: c.now, Bytes: int32(len(b)), Frames: d.frames, Flags: d.flags, Path: uint8(id)})
	c.stats.TxPackets++
	c.stats.TxBytes += uint64(len(b))
	return len(b)
}

// produceMTUProbe writes a packet of the length that is to be tried, with
// nothing of value in it.
func (c *Conn) produceMTUProbe(id PathID, p *path, buf []byte) int {
	n := p.probeLength(c.now)
	if n == 0 || n > cap(buf) || c.timeouts > 0 || c.state != up {
		return 0
	}
	p.probing = n
	d := draft{b: buf[:packet.HeaderLen], head: packet.HeaderLen, flags: recovery.Eliciting | recovery.MTUProbe}
	d.b = packet.AppendPing(d.b)
	end := n - c.sealing.Overhead()
	clear(d.b[len(d.b):end])
	d.b = d.b[:end]
	return c.finish(&d, id, p)
}
