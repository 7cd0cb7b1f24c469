package wire

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
	"blockd.dev/replication/wire/recovery"
)

// onAck settles the packets that the peer acknowledges.
func (c *Conn) onAck(f *packet.Ack) verdict {
	if f.Largest >= c.ledger.Next() {
		return violation
	}
	c.ackedLargest, c.ackDelay = f.Largest, f.Delay
	r := f.Newest()
	for ok := true; ok; r, ok = f.Older(r) {
		c.ledger.Ack(r.First, r.Last, c)
		if r.First <= c.ledger.Settled() {
			break
		}
	}
	c.sealing.acked(f.Largest)
	c.detectLoss()
	return taken
}

// PacketAcked is for the ledger only.
func (c *Conn) PacketAcked(number uint64, p *recovery.Packet, wasLost bool) {
	path := &c.paths[p.Path]
	path.lastAcked = c.now
	if number == c.ackedLargest && p.Sent >= c.slept {
		path.rtt.Sample(c.now, c.now.Sub(p.Sent), min(c.ackDelay, c.params.AckDelay+c.cfg.Granularity))
		path.window.Sampled(c.now, number, c.ledger.Next(), &path.rtt, min(c.params.AckDelay, fullDelay))
	}
	if PathID(p.Path) == c.active {
		c.timeouts, c.probes = 0, 0
	}
	if wasLost {
		c.stats.TxSpurious++
	}
	if p.Flags&recovery.MTUProbe != 0 {
		path.probeAcked(int(p.Bytes))
	} else {
		path.window.Acked(int(p.Bytes))
	}
	if p.Flags&recovery.Large != 0 {
		path.largeAcked, path.largeLost = max(path.largeAcked, number), 0
	}
	c.piecesArrived(p.Frames)
	p.Frames = 0
}

// PacketLost is for the ledger only.
func (c *Conn) PacketLost(number uint64, p *recovery.Packet) {
	path := &c.paths[p.Path]
	c.stats.TxLost++
	if p.Flags&recovery.MTUProbe != 0 {
		path.probeLost(int(p.Bytes))
	} else {
		path.window.Lost()
		if p.Flags&recovery.Large != 0 && number > path.largeAcked {
			c.onLargeLost(path)
		}
	}
	if c.mutant.forgetLost {
		return
	}
	c.piecesLost(p.Frames)
	p.Frames = 0
}

func (c *Conn) detectLoss() { c.lossTime = c.ledger.Detect(c.now, c) }

// RTT is for the ledger only.
func (c *Conn) RTT(path uint8) *recovery.RTT { return &c.paths[path].rtt }

// timeoutAt is when an acknowledgement is overdue, of the oldest packet in
// flight, since newer ones may go out all the time where none arrives: twice
// as late each time, but often enough that a dead peer is asked several times
// before it is called dead, and other paths get their chance.
func (c *Conn) timeoutAt() clock.Mono {
	wait := c.paths[c.active].rtt.Timeout(c.cfg.Granularity, c.params.AckDelay, firstTimeout)
	wait = min(wait<<min(c.timeouts, 16), c.cfg.DeadAfter/8)
	return max(c.ledger.OldestSent(), c.asked).Add(max(wait, time.Microsecond))
}

// onTimeout asks for what is overdue: by sending the oldest packet's content
// again, which also repairs the loss of the last packets of a burst, that no
// later one shows. When that doesn't help, by short packets and on all paths.
func (c *Conn) onTimeout() {
	if c.timeouts == 0 {
		c.troubleSince = c.now
	}
	c.timeouts++
	c.probes = 1
	c.asked = c.now
	p := &c.paths[c.active]
	c.abandonOthers()
	if c.timeouts == troubleTimeouts {
		p.window.Collapse()
	}
	if c.timeouts >= troubleTimeouts {
		p.startChallenge(c.now)
		p.tries = 1
		c.challengeOthers()
		c.maybeMove()
	}
}

// abandonOthers declares lost what is overdue on paths that are not used any
// more: nothing later goes there that would show it.
func (c *Conn) abandonOthers() {
	for i := range c.paths {
		p := &c.paths[i]
		if PathID(i) == c.active || !c.ledger.WaitingOn(uint8(i)) {
			continue
		}
		wait := min(p.rtt.Timeout(c.cfg.Granularity, c.params.AckDelay, firstTimeout), c.cfg.DeadAfter/8)
		if c.ledger.LastSent(uint8(i)).Add(wait) <= c.now {
			c.ledger.LosePath(uint8(i), c)
		}
	}
}

// reclaim puts the pieces of the oldest packet in flight into the queue of
// what is to be sent again.
func (c *Conn) reclaim() {
	c.ledger.Oldest(func(_ uint64, p *recovery.Packet) bool {
		if p.Frames == 0 {
			return true
		}
		c.stats.TxProbes++
		front := c.out.resend
		c.out.resend = pieceList{}
		c.piecesLost(p.Frames)
		p.Frames = 0
		// What is older goes first.
		if front.head != 0 {
			if c.out.resend.head == 0 {
				c.out.resend = front
			} else {
				c.pieces.slab[c.out.resend.tail].next = front.head
				c.out.resend.tail = front.tail
			}
		}
		return false
	})
}
