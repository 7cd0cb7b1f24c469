package wire

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// Close ends the connection: nothing more is taken, what was queued has
// Config.DrainTimeout to be acknowledged, then both sides go down with
// ErrClosed. The peer is told the reason, of which 200 bytes are kept.
// A second Close ends the draining.
func (c *Conn) Close(now clock.Mono, reason string) {
	c.advance(now)
	switch c.state {
	case down, closing:
	case draining:
		c.end(packet.CloseDone, c.closeText, c.err)
	case connecting:
		c.end(packet.CloseDone, reason, fmt.Errorf("%w: %s", ErrClosed, reason))
	case up:
		c.err = fmt.Errorf("%w: %s", ErrClosed, reason)
		c.closeText = reason
		c.state = draining
		c.drainEnd = c.now.Add(c.cfg.DrainTimeout)
		if c.out.messages == 0 {
			c.end(packet.CloseDone, reason, c.err)
		}
	}
}

// Abandon ends the connection at once and tells the peer nothing; EventDown
// carries err. For an owner that stops, or resolves two connections to one.
func (c *Conn) Abandon(now clock.Mono, err error) {
	c.advance(now)
	if c.state != down {
		c.die(err)
	}
}

// endErr is why Send is refused.
func (c *Conn) endErr() error {
	if c.err == nil {
		return ErrClosed
	}
	return c.err
}

// onClose takes the peer's word that it is over.
func (c *Conn) onClose(f *packet.Close) {
	switch f.Code {
	case packet.CloseRefused:
		c.die(fmt.Errorf("%w by the peer: %s", ErrRefused, f.Reason))
	case packet.CloseViolation:
		c.die(fmt.Errorf("%w by the peer, which accuses this node of: %s", ErrClosed, f.Reason))
	case packet.CloseDone:
		c.die(fmt.Errorf("%w by the peer: %s", ErrClosed, f.Reason))
	}
}

// Figures of the end: how often it is said, and how long it may take.
const (
	closeRepeats  = 3
	closeWaitMin  = time.Millisecond
	closeWaitMax  = 30 * time.Millisecond
	handshakeWait = 5 * time.Millisecond
)

// end fails everything because of err, and tells the peer for a while.
func (c *Conn) end(code packet.CloseCode, text string, err error) {
	if c.state == closing || c.state == down {
		return
	}
	wait := handshakeWait
	if c.state != connecting {
		wait = c.paths[c.active].rtt.Timeout(c.cfg.Granularity, c.params.AckDelay, firstTimeout)
		wait = min(max(wait, closeWaitMin), closeWaitMax)
	}
	c.err, c.closeCode, c.closeText = err, code, text
	c.failAll(err)
	c.state = closing
	c.closeSend = true
	c.closeAt = c.now.Add(wait)
	c.drainEnd = c.now.Add(closeRepeats * wait)
}

func (c *Conn) tickClosing() {
	if c.drainEnd <= c.now {
		c.die(c.err)
		return
	}
	if c.closeAt <= c.now {
		c.closeSend = true
		c.closeAt = max(c.closeAt.Add(c.drainEnd.Sub(c.closeAt)/2), c.now.Add(closeWaitMin))
	}
}

func (c *Conn) produceClose(buf []byte) int {
	if !c.closeSend {
		return 0
	}
	c.closeSend = false
	if c.wasUp {
		if c.ledger.Full() {
			return 0
		}
		d := draft{b: packet.AppendClose(buf[:packet.HeaderLen], c.closeCode, c.closeText), head: packet.HeaderLen}
		return c.finish(&d, c.active, &c.paths[c.active])
	}
	level := LevelInitial
	if c.shake.sealer[LevelHandshake].sealer != nil {
		level = LevelHandshake
	}
	b := packet.AppendClose(c.handshakeHead(level, buf[:0]), c.closeCode, c.closeText)
	return c.handshakeTail(level, b)
}

// die ends the connection now.
func (c *Conn) die(err error) {
	c.err = err
	c.failAll(err)
	c.state = down
	c.closeHandshake()
	c.events.push(Event{Kind: EventDown, Err: err})
}

// failAll reports every message failed that is not complete, in the order of
// Send, and frees what has arrived in part.
func (c *Conn) failAll(err error) {
	o := &c.out
	var open []*outMsg
	o.byID.each(func(m *outMsg) {
		if (!m.settled || m.unanswered) && !m.canceling {
			open = append(open, m)
		}
	})
	slices.SortFunc(open, func(a, b *outMsg) int { return cmp.Compare(a.id, b.id) })
	unsent := notSent(err)
	for _, m := range open {
		if m.started {
			c.fail(m, err)
		} else {
			c.fail(m, unsent)
		}
	}
	o.byID, o.spare, o.alarms = table[outMsg]{}, nil, nil
	o.starting, o.answers, o.active, o.resend = msgList{}, msgList{}, msgList{}, pieceList{}
	c.pieces = pieces{} // the ledger names some, and is not asked any more
	c.dropIncoming()
}

func (c *Conn) closeHandshake() {
	if !c.shakeClosed {
		c.shakeClosed = true
		c.cfg.Handshake.Close()
	}
}
