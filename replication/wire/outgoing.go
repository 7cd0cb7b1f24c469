package wire

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/internal/invariants"
	"blockd.dev/replication/wire/packet"
)

// outMsg is a message that Send took, until nothing of it is under way.
//
// Every byte of it is in one place: not sent yet (sent and above), in one
// packet in flight, waiting to be sent again, or acknowledged. A packet that
// is declared lost gives its pieces up for good, also when it was not lost.
type outMsg struct {
	Outgoing
	id       MessageID
	sequence uint64 // in its channel; given when it starts
	total    int
	sent     int // bytes sent at least once
	acked    int // bytes
	segment  int // of Data, where reading stopped last
	before   int // bytes of Data in front of segment

	list       *msgList // where next and prev are in use
	next, prev *outMsg
	alarm      int // place in the heap of deadlines, plus 1
	refs       int // pieces that name it
	started    bool
	settled    bool // EventSent or EventFailed was given
	unanswered bool // a Request that waits for its Response
	canceling  bool // the peer is to be told, or has not confirmed, that it is given up
}

// msgList is a queue of messages from which any can be taken out.
type msgList struct{ head, tail *outMsg }

func (l *msgList) push(m *outMsg) {
	m.list, m.next, m.prev = l, nil, l.tail
	if l.tail == nil {
		l.head = m
	} else {
		l.tail.next = m
	}
	l.tail = m
}

func (l *msgList) remove(m *outMsg) {
	if m.prev == nil {
		l.head = m.next
	} else {
		m.prev.next = m.next
	}
	if m.next == nil {
		l.tail = m.prev
	} else {
		m.next.prev = m.prev
	}
	m.list, m.next, m.prev = nil, nil, nil
}

// outgoing is all that waits to be sent or acknowledged.
type outgoing struct {
	nextID    MessageID
	done      sequence // IDs of which nothing is under way
	byID      table[outMsg]
	spare     []*outMsg
	starting  msgList           // no byte sent yet
	answers   msgList           // the same, answers in no channel
	active    msgList           // some bytes sent, others not yet
	turn      bool              // active's, rather than starting's
	restsTurn bool              // of active's turns: not for the first, but for one behind it
	resend    pieceList         // lost
	alarms    []*outMsg         // heap by Deadline
	sequences map[uint16]uint64 // next, by channel

	credit, used packet.Credit // granted by the peer, and consumed
	reserve      packet.Credit // of the peer's window, what only answers use
	toldBlocked  packet.Credit // the credit that the peer was told to be too little

	bytes, messages             int // taken and not settled
	answerBytes, answerMessages int // of these, answers
	unanswered                  int
	askedAt                     clock.Mono // when the first of those unanswered was taken
	full, answersFull           bool       // ErrQueueFull was returned, and for an answer
}

// Send queues m. Its errors are ErrQueueFull, ErrTooLong, ErrClosed (or what
// ended the connection), or that m is not valid; m.Data is still the caller's
// then. Before EventUp messages are queued.
func (c *Conn) Send(now clock.Mono, m Outgoing) (MessageID, error) {
	c.advance(now)
	if c.state > up {
		return 0, c.endErr()
	}
	total := 0
	for _, d := range m.Data {
		total += len(d)
	}
	if err := m.check(total); err != nil {
		return 0, err
	}
	o := &c.out
	if !c.hasRoom(m.Kind, total) || m.Kind == Request && o.unanswered >= c.cfg.Requests {
		if m.Kind == Response {
			o.answersFull = true
		} else {
			o.full = true
		}
		return 0, ErrQueueFull
	}
	msg := o.take()
	*msg = outMsg{Outgoing: m, id: o.nextID, total: total}
	o.nextID++
	o.byID.put(uint64(msg.id), msg)
	o.count(msg, 1)
	if m.Kind == Request {
		msg.unanswered = true
		if o.unanswered == 0 {
			o.askedAt = c.now
		}
		o.unanswered++
	}
	if m.Deadline != 0 {
		o.setAlarm(msg)
	}
	if m.Kind == Response && m.Channel == 0 {
		o.answers.push(msg)
	} else {
		o.starting.push(msg)
	}
	c.stats.TxMessages++
	return msg.id, nil
}

// count adds m to what is taken and not settled, or takes it off by -1.
func (o *outgoing) count(m *outMsg, n int) {
	o.messages += n
	o.bytes += n * m.total
	if m.Kind == Response {
		o.answerMessages += n
		o.answerBytes += n * m.total
	}
}

func (m *Outgoing) check(total int) error {
	switch {
	case m.Kind < Notice || m.Kind > Response:
		return errKind
	case (m.Kind == Response) != (m.InReplyTo != 0):
		return errReply
	case m.Channel > packet.ChannelMax:
		return errChannel
	case total > MessageMax:
		return ErrTooLong
	}
	return nil
}

// queued is what counts for the room of a message of this kind: answers have as much as requests and notices together. Were they to
// wait until the peer has this side's requests, which it may be able to take only when it has these answers, both would wait for ever.
func (o *outgoing) queued(kind Kind) (messages, bytes int) {
	if kind == Response {
		return o.answerMessages, o.answerBytes
	}
	return o.messages - o.answerMessages, o.bytes - o.answerBytes
}

func (c *Conn) hasRoom(kind Kind, total int) bool {
	o := &c.out
	messages, bytes := o.queued(kind)
	return o.messages == 0 || o.done.fits(uint64(o.nextID)) &&
		(messages == 0 || messages < c.cfg.SendMessages && bytes+total <= c.cfg.SendBytes)
}

func (o *outgoing) take() *outMsg {
	if n := len(o.spare) - 1; n >= 0 {
		m := o.spare[n]
		o.spare = o.spare[:n]
		return m
	}
	return new(outMsg)
}

// Cancel fails message id with ErrCanceled, or ErrNotSent if no byte of it was
// sent, unless it is complete already. The peer forgets what it has of it; if
// it has all of a Request, it gets EventCanceled.
func (c *Conn) Cancel(now clock.Mono, id MessageID) {
	c.advance(now)
	if m := c.out.byID.get(uint64(id)); m != nil && c.state <= draining {
		c.giveUp(m, ErrCanceled)
	}
}

// giveUp fails m because of err, and lets the peer know.
func (c *Conn) giveUp(m *outMsg, err error) {
	if m.settled && !m.unanswered || m.canceling {
		return
	}
	if !m.started {
		err = notSent(err)
	}
	c.fail(m, err)
	m.canceling = true
	c.queuePiece(piece{kind: pieceCancel, msg: m})
}

// fail reports m failed and stops sending it.
func (c *Conn) fail(m *outMsg, err error) {
	o := &c.out
	if m.unanswered {
		m.unanswered = false
		o.unanswered--
	}
	o.clearAlarm(m)
	if m.list != nil {
		m.list.remove(m)
	}
	if !m.settled {
		c.settle(m)
	}
	m.Data = nil
	c.events.push(Event{Kind: EventFailed, ID: m.id, Tag: m.Tag, Err: err})
}

// settle notes that m's Data is the caller's again.
func (c *Conn) settle(m *outMsg) {
	m.settled = true
	c.out.count(m, -1)
}

// pieceAcked notes that n bytes of m arrived.
func (c *Conn) pieceAcked(m *outMsg, n int) {
	m.acked += n
	if invariants.Enabled && m.acked > m.total {
		invariants.Fail("%d bytes of a message of %d acknowledged", m.acked, m.total)
	}
	if m.acked == m.total && !m.settled {
		c.delivered(m)
	}
}

// answered finds the Request that the peer answers, and takes its claim to be
// answered off. An answer proves that all of the Request arrived.
func (c *Conn) answered(id MessageID) *outMsg {
	m := c.out.byID.get(uint64(id))
	if m == nil || !m.unanswered {
		return nil
	}
	m.unanswered = false
	c.out.unanswered--
	c.out.clearAlarm(m)
	if !m.settled {
		c.delivered(m)
	}
	return m
}

// delivered notes that the peer has all of m.
func (c *Conn) delivered(m *outMsg) {
	if m.list != nil {
		m.list.remove(m)
	}
	c.settle(m)
	m.Data = nil
	if !m.unanswered {
		c.out.clearAlarm(m)
	}
	c.events.push(Event{Kind: EventSent, ID: m.id, Tag: m.Tag})
}

// letGo forgets m if nothing of it is under way. Its ID is done before, as
// soon as the peer has all of it, or knows that it won't.
func (c *Conn) letGo(m *outMsg) {
	o := &c.out
	if !m.settled || m.refs > 0 || m.canceling || m.list != nil {
		return
	}
	if o.done.fresh(uint64(m.id)) {
		o.done.take(uint64(m.id))
		o.done.settle()
	}
	if m.unanswered {
		return
	}
	o.byID.remove(uint64(m.id))
	*m = outMsg{}
	o.spare = append(o.spare, m)
}

// signalRoom tells a caller of Send, who was refused, to try again.
func (c *Conn) signalRoom() {
	o := &c.out
	if o.full && c.roomy(Request) && o.unanswered < c.cfg.Requests || o.answersFull && c.roomy(Response) {
		o.full, o.answersFull = false, false
		c.events.push(Event{Kind: EventRoom})
	}
}

// roomy tells whether there is room for several messages of this kind.
func (c *Conn) roomy(kind Kind) bool {
	messages, bytes := c.out.queued(kind)
	return c.state == up && messages <= c.cfg.SendMessages*3/4 && bytes <= c.cfg.SendBytes*3/4 && c.out.done.fits(uint64(c.out.nextID)+64)
}

// startable returns the oldest message that has not started, if the peer's credit covers it. Answers don't wait for requests
// and notices that it does not cover, and the last of the peer's window is theirs. Else two ends that each hold as many requests as their
// windows take could answer none of them: the peer takes answers whatever else it has to do, so these always find room again.
func (c *Conn) startable() *outMsg {
	o := &c.out
	m, answer := o.starting.head, o.answers.head
	if m != nil && (answer == nil || m.id < answer.id) && c.covers(m, o.reserve) {
		return m
	}
	if answer != nil && c.covers(answer, packet.Credit{}) {
		return answer
	}
	return nil
}

// covers tells whether m may start, and leave so much of the peer's window.
func (c *Conn) covers(m *outMsg, reserve packet.Credit) bool {
	o := &c.out
	return o.used.Messages+reserve.Messages < o.credit.Messages && o.used.Bytes+uint64(m.total)+reserve.Bytes <= o.credit.Bytes ||
		c.mutant.ignoreCredit
}

// reserved is what answers alone may use of a window: an eighth, and room for the longest one. A window of
// one message, or of the longest message, has none to spare.
func reserved(window packet.Credit) packet.Credit {
	spare := window.Bytes - min(window.Bytes, MessageMax)
	return packet.Credit{Bytes: min(max(window.Bytes/8, MessageMax), spare), Messages: window.Messages / 8}
}

// start uses up credit for m, and gives it its place in its channel.
func (c *Conn) start(m *outMsg) {
	o := &c.out
	m.list.remove(m)
	o.used.Bytes += uint64(m.total)
	o.used.Messages++
	if m.Channel != 0 {
		if o.sequences == nil {
			o.sequences = map[uint16]uint64{}
		}
		m.sequence = o.sequences[m.Channel]
		o.sequences[m.Channel]++
	}
	m.started = true
}

// nextNew returns the message whose first bytes, or more bytes, should go out
// next: one that starts and one under way take turns, so that neither a flood
// of small messages nor a long one stops the other (see passOn, too).
func (c *Conn) nextNew() *outMsg {
	o := &c.out
	fresh := c.startable()
	first := o.active.head
	switch {
	case fresh != nil && (first == nil || !o.turn):
		return fresh
	case first != nil && first.next != nil && o.restsTurn:
		return first.next
	}
	return first
}

// passOn moves the turn on from m, of which a piece has just gone out. Of the messages
// under way the first has every other turn until all of it is sent, and those behind it
// take turns at the rest. With equal turns for all, long messages that began together
// would be complete together: who gets them would have nothing to do before, and
// everything then.
func (o *outgoing) passOn(m *outMsg) {
	o.turn = !o.turn
	if m.list == &o.active {
		first := m == o.active.head
		if o.restsTurn = first; first && m.sent < m.total {
			return
		}
		m.list.remove(m)
	}
	if m.sent < m.total {
		o.active.push(m)
	}
}

// copyData copies bytes off to off+len(dst) of m's Data.
func (m *outMsg) copyData(dst []byte, off int) {
	if off < m.before {
		m.segment, m.before = 0, 0
	}
	for len(dst) > 0 {
		seg := m.Data[m.segment]
		if off >= m.before+len(seg) {
			m.before += len(seg)
			m.segment++
			continue
		}
		n := copy(dst, seg[off-m.before:])
		dst, off = dst[n:], off+n
	}
}

// remaining is how long m would still wait; 0 for no limit.
func (m *outMsg) remaining(now clock.Mono) time.Duration {
	if m.Deadline == 0 {
		return 0
	}
	return max(m.Deadline.Sub(now), time.Microsecond)
}

// The heap of deadlines.

func (o *outgoing) setAlarm(m *outMsg) {
	o.alarms = append(o.alarms, m)
	m.alarm = len(o.alarms)
	o.up(m.alarm - 1)
}

func (o *outgoing) clearAlarm(m *outMsg) {
	i := m.alarm - 1
	if i < 0 {
		return
	}
	last := len(o.alarms) - 1
	o.swap(i, last)
	o.alarms[last] = nil
	o.alarms = o.alarms[:last]
	m.alarm = 0
	if i < last {
		o.up(i)
		o.down(i)
	}
}

func (o *outgoing) swap(i, j int) {
	a := o.alarms
	a[i], a[j] = a[j], a[i]
	a[i].alarm, a[j].alarm = i+1, j+1
}

func (o *outgoing) up(i int) {
	for i > 0 && o.alarms[i].Deadline < o.alarms[(i-1)/2].Deadline {
		o.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (o *outgoing) down(i int) {
	for {
		small := i
		for _, kid := range [2]int{2*i + 1, 2*i + 2} {
			if kid < len(o.alarms) && o.alarms[kid].Deadline < o.alarms[small].Deadline {
				small = kid
			}
		}
		if small == i {
			return
		}
		o.swap(i, small)
		i = small
	}
}

// expire fails the messages whose deadline has come.
func (c *Conn) expire() {
	o := &c.out
	for len(o.alarms) > 0 && o.alarms[0].Deadline <= c.now {
		m := o.alarms[0]
		o.clearAlarm(m)
		c.giveUp(m, ErrDeadline)
	}
}
