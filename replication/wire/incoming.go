package wire

import (
	"sync/atomic"

	"blockd.dev/internal/invariants"
	"blockd.dev/replication/wire/packet"
)

// spansMax bounds into how many separate stretches a message may fall that
// arrives out of order. What would make more is dropped, and sent again.
const spansMax = 256

// inMsg is a message that arrives, until the application has released it; or
// the place of a canceled one in its channel.
type inMsg struct {
	conn     *Conn
	id       uint64
	head     Message // what the application will get
	sequence uint64  // in its channel
	total    int
	have     spans
	bytes    int // of have
	buf      Buffer
	canceled bool
	out      atomic.Bool // the application has it
	next     *inMsg      // in its channel's queue, or in the released ones

	releaseFunc func() // m.release, made once
}

// channel puts messages into order.
type channel struct {
	next    uint64 // sequence of the one to deliver next
	waiting *inMsg // complete or canceled, by sequence
}

// incoming is all that has arrived in part, or was not released.
type incoming struct {
	seen     sequence // IDs that are complete or canceled
	partial  table[inMsg]
	channels map[uint16]*channel
	spare    []*inMsg

	held     packet.Credit // begun and not released
	freed    packet.Credit // released since the start
	granted  packet.Credit // told to the peer
	wantedAt packet.Credit // what the peer had used up when it was blocked last
	tell     bool          // send the credit, however little is new

	// What Release leaves behind, on any goroutine.
	released  atomic.Pointer[inMsg]
	unclaimed atomic.Int64 // bytes released and not collected, with releaseCost for each
	wanted    atomic.Bool  // the peer is blocked: every release is worth a packet
}

// releaseCost stands for the message itself in unclaimed, so that many small
// ones count as well: 1024 of them are a window.
func (c *Conn) releaseCost(total int) int64 {
	return int64(total) + int64(c.cfg.WindowBytes/c.cfg.WindowMessages)
}

// Release gives the message's room back to the peer's window, and its memory
// back to who lent it. It is called once, by any goroutine; Data is gone then.
func (m *Message) Release() {
	if m.release != nil {
		m.release()
	}
}

func (m *inMsg) release() {
	c := m.conn
	if !m.out.CompareAndSwap(true, false) {
		invariants.Fail("message %d of %v released twice", m.id, c.remote)
		return
	}
	if m.buf != nil {
		m.buf.Release()
	}
	m.buf = nil
	cost := c.releaseCost(m.total) // m is the Conn's after the swap
	for {
		old := c.in.released.Load()
		m.next = old
		if c.in.released.CompareAndSwap(old, m) {
			break
		}
	}
	worth := int64(c.cfg.WindowBytes / 4)
	if after := c.in.unclaimed.Add(cost); after >= worth && after-cost < worth || c.in.wanted.Load() {
		c.cfg.Wake()
	}
}

// collect takes in what Release left.
func (c *Conn) collect() {
	if c.in.released.Load() == nil {
		return
	}
	m := c.in.released.Swap(nil)
	for m != nil {
		next := m.next
		c.in.unclaimed.Add(-c.releaseCost(m.total))
		c.release(m)
		m = next
	}
}

// release gives m's credit back and forgets it.
func (c *Conn) release(m *inMsg) {
	in := &c.in
	in.held.Bytes -= uint64(m.total)
	in.held.Messages--
	in.freed.Bytes += uint64(m.total)
	in.freed.Messages++
	if in.wanted.Load() {
		in.tell = true
	}
	in.recycle(m)
}

func (in *incoming) recycle(m *inMsg) {
	have := m.have[:0]
	m.id, m.head, m.sequence, m.total, m.have, m.bytes = 0, Message{}, 0, 0, have, 0
	m.buf, m.canceled, m.next = nil, false, nil
	in.spare = append(in.spare, m)
}

func (c *Conn) newInMsg() *inMsg {
	if n := len(c.in.spare) - 1; n >= 0 {
		m := c.in.spare[n]
		c.in.spare = c.in.spare[:n]
		return m
	}
	m := &inMsg{conn: c}
	m.releaseFunc = m.release
	return m
}

// creditDue tells whether the peer should hear of new credit: an eighth of
// the window is free again, or it asked.
func (c *Conn) creditDue() bool {
	in := &c.in
	return in.tell || in.freed.Bytes+uint64(c.cfg.WindowBytes)-in.granted.Bytes >= uint64(c.cfg.WindowBytes)/8 ||
		(in.freed.Messages+uint64(c.cfg.WindowMessages)-in.granted.Messages)*8 >= uint64(c.cfg.WindowMessages)
}

// grant is the credit that the peer has now.
func (c *Conn) grant() packet.Credit {
	return packet.Credit{
		Bytes:    c.in.freed.Bytes + uint64(c.cfg.WindowBytes),
		Messages: c.in.freed.Messages + uint64(c.cfg.WindowMessages),
	}
}

// verdict is what comes of a frame.
type verdict uint8

const (
	taken     verdict = iota // all is well
	noBuffer                 // there is no memory for it now: as if the packet had not come
	violation                // no honest peer sends that
)

// onMessage takes a piece of a message.
func (c *Conn) onMessage(f *packet.Message) verdict {
	in := &c.in
	if !in.seen.fits(f.ID) {
		return violation
	}
	if !in.seen.fresh(f.ID) && !c.mutant.deliverTwice {
		return taken
	}
	m := in.partial.get(f.ID)
	if m == nil {
		var v verdict
		if m, v = c.begin(f); v != taken {
			return v
		}
	} else if m.total != int(f.Total) || m.head.Kind != Kind(f.Kind) || m.head.Channel != f.Channel || m.sequence != f.Sequence {
		return violation
	}
	from := int(f.Offset)
	fresh, ok := m.have.add(from, from+len(f.Data), spansMax)
	if !ok {
		return noBuffer
	}
	if fresh > 0 {
		copy(m.buf.Bytes()[from:], f.Data)
	}
	if m.bytes += fresh; m.bytes < m.total {
		return taken
	}
	in.partial.remove(f.ID)
	in.seen.take(f.ID)
	in.seen.settle()
	return c.complete(m)
}

// begin makes room for the message that f is a piece of.
func (c *Conn) begin(f *packet.Message) (*inMsg, verdict) {
	in := &c.in
	if in.held.Messages >= uint64(c.cfg.WindowMessages) || in.held.Bytes+f.Total > uint64(c.cfg.WindowBytes) {
		return nil, violation
	}
	var buf Buffer
	if f.Total > 0 {
		if buf = c.cfg.Alloc(int(f.Total)); buf == nil {
			return nil, noBuffer
		}
	}
	in.held.Bytes += f.Total
	in.held.Messages++
	m := c.newInMsg()
	m.id, m.total, m.sequence, m.buf = f.ID, int(f.Total), f.Sequence, buf
	m.head = Message{
		ID: MessageID(f.ID), Kind: Kind(f.Kind), Channel: f.Channel, InReplyTo: MessageID(f.InReplyTo),
		Remaining: f.Remaining, release: m.releaseFunc,
	}
	in.partial.put(f.ID, m)
	return m, taken
}

// complete delivers m, or puts it where it waits for those before it.
func (c *Conn) complete(m *inMsg) verdict {
	if m.head.Channel == 0 || c.mutant.swapChannels {
		c.deliver(m)
		return taken
	}
	in := &c.in
	ch := in.channels[m.head.Channel]
	if ch == nil {
		if in.channels == nil {
			in.channels = map[uint16]*channel{}
		}
		ch = &channel{}
		in.channels[m.head.Channel] = ch
	}
	at := &ch.waiting
	for *at != nil && (*at).sequence < m.sequence {
		at = &(*at).next
	}
	if m.sequence < ch.next || *at != nil && (*at).sequence == m.sequence {
		c.discard(m)
		return violation
	}
	m.next = *at
	*at = m
	for m := ch.waiting; m != nil && m.sequence == ch.next; m = ch.waiting {
		ch.waiting, m.next = m.next, nil
		ch.next++
		c.deliver(m)
	}
	return taken
}

// deliver hands m to the application; canceled ones and answers to nothing
// just give their credit back.
func (c *Conn) deliver(m *inMsg) {
	if m.canceled {
		c.release(m)
		return
	}
	if m.buf != nil {
		m.head.Data = m.buf.Bytes()[:m.total]
	}
	e := Event{Kind: EventMessage, ID: m.head.ID, Message: m.head}
	var request *outMsg
	if m.head.Kind == Response {
		if request = c.answered(m.head.InReplyTo); request == nil {
			c.discard(m)
			return
		}
		e = Event{Kind: EventResponse, ID: request.id, Tag: request.Tag, Message: m.head}
	}
	c.stats.RxMessages++
	m.out.Store(true)
	c.events.push(e)
	if request != nil {
		c.letGo(request)
	}
}

// discard frees m, which the application will not get.
func (c *Conn) discard(m *inMsg) {
	if m.buf != nil {
		m.buf.Release()
	}
	c.release(m)
}

// onCancel forgets a message that its sender gave up, or tells that nobody
// waits for the answer.
func (c *Conn) onCancel(f *packet.Cancel) verdict {
	in := &c.in
	if !in.seen.fits(f.ID) {
		return violation
	}
	if !in.seen.fresh(f.ID) {
		if f.Request {
			c.events.push(Event{Kind: EventCanceled, ID: MessageID(f.ID)})
		}
		return taken
	}
	m := in.partial.get(f.ID)
	if m != nil && (!f.Started || m.total != int(f.Total) || m.head.Channel != f.Channel || m.sequence != f.Sequence) {
		return violation
	}
	in.seen.take(f.ID)
	in.seen.settle()
	if !f.Started {
		return taken
	}
	if m == nil {
		// Nothing of it came, yet it has used up credit and a place.
		if in.held.Messages >= uint64(c.cfg.WindowMessages) || in.held.Bytes+f.Total > uint64(c.cfg.WindowBytes) {
			return violation
		}
		in.held.Bytes += f.Total
		in.held.Messages++
		m = c.newInMsg()
		m.id, m.total, m.sequence = f.ID, int(f.Total), f.Sequence
		m.head.Channel = f.Channel
	} else {
		in.partial.remove(f.ID)
		m.buf = releaseBuffer(m.buf)
	}
	m.canceled = true
	return c.complete(m)
}

func releaseBuffer(b Buffer) Buffer {
	if b != nil {
		b.Release()
	}
	return nil
}

// onCredit takes what the peer grants; it only grows, so an old frame is
// harmless.
func (c *Conn) onCredit(f *packet.Credit) {
	o := &c.out
	o.credit.Bytes = max(o.credit.Bytes, f.Bytes)
	o.credit.Messages = max(o.credit.Messages, f.Messages)
}

// onBlocked notes that the peer has used up the credit that f names. Frames
// may come late and twice; only the newest counts.
func (c *Conn) onBlocked(f *packet.Credit) {
	in := &c.in
	if f.Bytes < in.wantedAt.Bytes || f.Messages < in.wantedAt.Messages {
		return
	}
	in.wantedAt = *f
	in.wanted.Store(true)
	if c.grant() != *f {
		in.tell = true
	}
}

// granting returns the credit to be sent. Who is still blocked by it will say
// so again.
func (c *Conn) granting() packet.Credit {
	in := &c.in
	in.granted, in.tell = c.grant(), false
	if in.granted != in.wantedAt {
		in.wanted.Store(false)
	}
	return in.granted
}

// dropIncoming frees everything that the application has not got.
func (c *Conn) dropIncoming() {
	in := &c.in
	in.partial.each(func(m *inMsg) { m.buf = releaseBuffer(m.buf) })
	in.partial = table[inMsg]{}
	for _, ch := range in.channels {
		for m := ch.waiting; m != nil; m = m.next {
			m.buf = releaseBuffer(m.buf)
		}
	}
	in.channels = nil
}
