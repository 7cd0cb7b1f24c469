package wire

import (
	"fmt"
	"math/rand/v2"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
	"blockd.dev/replication/wire/recovery"
)

// state is how far a connection has come.
type state uint8

const (
	connecting state = iota // the handshake goes on
	up                      // messages flow
	draining                // Close was called, what was queued goes out
	closing                 // all has failed, the peer is being told why
	down                    // EventDown was given
)

// Conn is one end of a connection between two nodes. It is driven by calls
// and not safe for concurrent use: its owner locks. After every call that
// takes a clock reading, the owner drains NextEvent, calls Produce for each
// path until it returns 0, and arranges to call Tick at Deadline.
//
// Readings must come from one clock. One that lies before an earlier one
// counts as the earlier one.
type Conn struct {
	cfg    Config
	client bool
	state  state
	now    clock.Mono
	events events
	stats  Stats
	mutant mutant
	rng    *rand.Rand

	// Who talks to whom.
	remote   ConnID
	peer     any
	params   packet.Params // the peer's
	shake    handshaking
	sealing  sealing
	opening  opening
	received sequence // packet numbers

	// What was sent, and what came.
	ledger recovery.Ledger
	pieces pieces
	acks   acks
	paths  [PathsMax]path
	active PathID
	out    outgoing
	in     incoming
	frame  packet.Frame // scratch of Receive

	wasUp       bool
	shakeClosed bool

	// Timers. Those that are not listed follow from the state: see Deadline.
	lossTime     clock.Mono    // Detect wants to be called
	paceTime     clock.Mono    // the pacer lets the next datagram go
	lastSent     clock.Mono    // newest eliciting packet
	heard        clock.Mono    // newest authentic packet
	owedSince    clock.Mono    // since when the peer should have answered
	troubleSince clock.Mono    // when the first of timeouts was
	ackedLargest uint64        // scratch of onAck
	ackDelay     time.Duration // scratch of onAck
	armed        clock.Mono    // what Deadline returned last
	owedBefore   bool          // the ping that goes out next is about something owed already
	slept        clock.Mono    // until when this node slept last
	asked        clock.Mono    // when an acknowledgement was overdue last
	timeouts     int           // acknowledgements overdue in a row
	probes       int           // packets to send because of that
	drainEnd     clock.Mono    // draining, closing: when it is over
	closeAt      clock.Mono    // closing: when to say it again
	closeSend    bool          // closing: say it now
	closeCode    packet.CloseCode
	closeText    string
	err          error // why the connection is over
}

// NewClient starts a connection. Its hello is there for Produce on cfg.Path.
func NewClient(cfg Config, now clock.Mono) (*Conn, error) {
	c, err := newConn(cfg, now, true)
	if err != nil {
		return nil, err
	}
	c.active = cfg.Path
	c.usePath(cfg.Path, cfg.DatagramMax)
	c.step()
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// NewServer answers the datagram first, which arrived on path and for which
// Inspect returned a Hello of our Version. Whether to answer it at all, or by
// AppendRetry, is the owner's decision and has been made; a token in it counts
// as proof of the client's address. Receive must not get first again. An error
// is about cfg, or a hello that is not one; a client that is refused by the
// handshake gets a Conn that tells it so, and goes down.
func NewServer(cfg Config, now clock.Mono, first []byte, path PathID) (*Conn, error) {
	route, err := Inspect(first)
	if err != nil {
		return nil, err
	}
	if route.Kind != Hello || route.Version != packet.Version || path >= PathsMax {
		return nil, fmt.Errorf("wire: datagram is no hello of version %d on path 0 to %d", packet.Version, PathsMax-1)
	}
	c, err := newConn(cfg, now, false)
	if err != nil {
		return nil, err
	}
	c.remote = route.Source
	c.active = path
	c.usePath(path, cfg.DatagramMax)
	c.shake.proven = len(route.Token) > 0
	c.Receive(now, path, first)
	return c, nil
}

func newConn(cfg Config, now clock.Mono, client bool) (*Conn, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Conn{
		cfg: cfg, client: client, now: now, heard: now, owedSince: now,
		rng:   rand.New(rand.NewChaCha8(cfg.Seed)),
		armed: clock.Never, lossTime: clock.Never, paceTime: clock.Never, drainEnd: clock.Never, closeAt: clock.Never,
	}
	c.acks.due = clock.Never
	c.out.nextID = 1
	c.out.done.take(0)
	c.in.seen.take(0)
	c.in.granted = c.grant()
	c.shake.next = clock.Never
	c.shake.until = now.Add(cfg.HandshakeTimeout)
	if err := cfg.Handshake.Start(c.ownParams()); err != nil {
		cfg.Handshake.Close()
		return nil, fmt.Errorf("wire: handshake: %w", err)
	}
	return c, nil
}

func (c *Conn) ownParams() []byte {
	p := packet.Params{
		Source: c.cfg.LocalID, ResetToken: c.cfg.ResetToken, DatagramMax: packet.DatagramMax,
		Credit: c.in.granted, AckDelay: c.cfg.AckDelay, Features: c.cfg.Features,
	}
	return p.Append(nil)
}

// advance moves the Conn's time to now. When nobody has called for long
// although a deadline had come, it was this node that slept: the peer's
// silence is measured anew.
func (c *Conn) advance(now clock.Mono) {
	if now <= c.now {
		return
	}
	if long := c.cfg.DeadAfter / 4; now.Sub(c.now) > long && now.Sub(c.armed) > long {
		c.owedSince, c.slept = now, now
	}
	c.now = now
}

// Deadline is when Tick must be called, unless something else happens before;
// clock.Never for not at all.
func (c *Conn) Deadline() clock.Mono {
	c.collect()
	c.armed = c.deadline()
	return c.armed
}

func (c *Conn) deadline() clock.Mono {
	switch c.state {
	case down:
		return clock.Never
	case closing:
		return min(c.drainEnd, c.closeAt)
	case connecting:
		return min(c.shake.next, c.shake.until, c.firstAlarm())
	case up, draining:
	}
	at := min(c.lossTime, c.firstAlarm(), c.keepAliveAt(), c.pathTimer(), c.drainEnd)
	if c.ledger.Waiting() {
		at = min(at, c.timeoutAt(), c.deadAt())
	}
	if c.paths[c.active].usable() && !c.ledger.Full() { // else there is no use in Produce
		at = min(at, c.acks.due, c.paceTime)
		if c.creditDue() {
			at = min(at, c.now)
		}
	}
	return at
}

func (c *Conn) firstAlarm() clock.Mono {
	if len(c.out.alarms) == 0 {
		return clock.Never
	}
	return c.out.alarms[0].Deadline
}

// Tick does what time asks for. It may come early, and often.
func (c *Conn) Tick(now clock.Mono) {
	c.advance(now)
	c.collect()
	switch c.state {
	case down:
		return
	case closing:
		c.tickClosing()
		return
	case connecting:
		c.expire()
		c.tickHandshake()
		return
	case up, draining:
	}
	c.expire()
	if c.lossTime <= c.now {
		c.detectLoss()
	}
	if c.ledger.Waiting() {
		if c.deadAt() <= c.now {
			c.die(c.silence())
			return
		}
		if c.timeoutAt() <= c.now && !c.mutant.forgetTail {
			c.onTimeout()
		}
	}
	if c.keepAliveAt() <= c.now {
		c.keepAlive()
	}
	if c.state == draining && (c.out.messages == 0 || c.drainEnd <= c.now) {
		c.end(packet.CloseDone, c.closeText, c.err)
		return
	}
	c.signalRoom()
}

// silence is the error for a peer from which nothing comes.
func (c *Conn) silence() error {
	return fmt.Errorf("%w for %v", ErrPeerSilent, c.now.Sub(max(c.heard, c.slept)).Round(time.Millisecond))
}

// deadAt is when silence ends the connection, while anything is unacknowledged.
func (c *Conn) deadAt() clock.Mono { return max(c.heard, c.owedSince).Add(c.cfg.DeadAfter) }

// keepAliveAt is when to see whether the peer is still there. A peer that owes
// an answer is asked often, so that a request doesn't wait for a dead node;
// otherwise seldom: enough that the other paths are known to work, that
// neighbour tables keep the peer's address, and that a lost peer is noticed
// before somebody needs it.
func (c *Conn) keepAliveAt() clock.Mono {
	if c.ledger.Waiting() {
		return clock.Never // timeouts see to it
	}
	if c.out.unanswered > 0 {
		return max(c.heard, c.lastSent, c.out.askedAt).Add(c.cfg.DeadAfter / 3)
	}
	return max(c.heard, c.lastSent).Add(c.cfg.KeepAlive)
}

func (c *Conn) keepAlive() {
	c.paths[c.active].ping = true
	c.lastSent = c.now // the next one counts from here, even if nothing can be sent
	if c.out.unanswered > 0 && c.now.Sub(c.heard) < c.cfg.KeepAlive {
		// Its silence began when it was heard last; what was before it was asked
		// anything is not its fault.
		c.owedSince, c.owedBefore = max(c.heard, c.slept, c.out.askedAt), true
		return
	}
	c.challengeOthers()
}

// Ask makes the peer answer, so that one that is gone is noticed within DeadAfter
// and not with the next ping of an idle connection.
func (c *Conn) Ask(now clock.Mono) {
	c.advance(now)
	c.paths[c.active].ping = true
}

// Heard is when something came from the peer last.
func (c *Conn) Heard() clock.Mono { return c.heard }

// NextEvent returns what has happened, in order.
func (c *Conn) NextEvent() (Event, bool) { return c.events.pop() }

// Peer is who the handshake proved the peer to be: Step.Peer, nil before
// EventUp.
func (c *Conn) Peer() any { return c.peer }

// RemoteID is how the peer calls the connection: what a Reset is for. For a
// client it is zero until the server has answered.
func (c *Conn) RemoteID() ConnID { return c.remote }

// PeerFeatures are the bits that Config.Features of both sides have, known from
// EventUp on.
func (c *Conn) PeerFeatures() uint64 { return c.cfg.Features & c.params.Features }

// Stats returns the counters.
func (c *Conn) Stats() Stats {
	c.collect()
	s, p := c.stats, &c.paths[c.active]
	s.Up = c.state == up || c.state == draining
	s.Path, s.Datagram = c.active, p.datagram
	s.SmoothedRTT, s.MinRTT = p.rtt.Smoothed, p.rtt.Min
	s.Window, s.InFlight = p.window.Bytes(), c.ledger.InFlight(uint8(c.active))
	s.QueuedBytes, s.Queued, s.Unanswered = c.out.bytes, c.out.messages, c.out.unanswered
	s.HeldBytes, s.HeldMessages = int(c.in.held.Bytes), int(c.in.held.Messages)
	return s
}
