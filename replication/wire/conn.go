package wire

import (
	"errors"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// Conn is one end of a connection between two nodes. It is driven by calls
// and not safe for concurrent use: its owner locks. After every call that
// takes a clock reading, the owner drains NextEvent, calls Produce for each
// path until it returns 0, and arranges to call Tick at Deadline.
//
// Readings must come from one clock. One that lies before an earlier one
// counts as the earlier one.
type Conn struct {
	cfg Config
}

var errNotYet = errors.New("wire: not yet")

// NewClient starts a connection. Its hello is there for Produce on cfg.Path.
func NewClient(cfg Config, now clock.Mono) (*Conn, error) {
	cfg.setDefaults()
	return nil, errNotYet
}

// NewServer answers the datagram first, which arrived on path and for which
// Inspect returned a Hello. Whether to answer it at all, or by AppendRetry, is
// the owner's decision and has been made. Receive must not get first again. A
// hello that turns out to be broken is an error.
func NewServer(cfg Config, now clock.Mono, first []byte, path PathID) (*Conn, error) {
	return nil, errNotYet
}

// Receive takes a datagram that arrived on path. It may decrypt it in place
// and keeps no reference. What is not valid is counted and otherwise ignored.
// A path that was not added is ignored too: the owner calls AddPath first when
// a peer's datagram, which Inspect routes here, comes from a new address.
func (c *Conn) Receive(now clock.Mono, path PathID, datagram []byte) {}

// Produce writes the next datagram for path into buf, from its start up to its
// capacity, and returns its length: 0 when there is nothing to send there now.
// buf should have room for the path's longest datagram; what does not fit is
// not produced.
func (c *Conn) Produce(now clock.Mono, path PathID, buf []byte) int { return 0 }

// Deadline is when Tick must be called, unless something else happens before;
// clock.Never for not at all.
func (c *Conn) Deadline() clock.Mono { return clock.Never }

// Tick does what time asks for. It may come early, and often.
func (c *Conn) Tick(now clock.Mono) {}

// Send queues m. Its errors are ErrQueueFull, ErrTooLong, ErrClosed (and what
// ended the connection), or that m is not valid; m.Data is still the caller's
// then. Before EventUp messages are queued.
func (c *Conn) Send(now clock.Mono, m Outgoing) (MessageID, error) { return 0, errNotYet }

// Cancel fails message id with ErrCanceled, or ErrNotSent if no byte of it was sent,
// unless it is complete already. The peer forgets what it has of it; if it has all of a
// Request, it gets EventCanceled.
func (c *Conn) Cancel(now clock.Mono, id MessageID) {}

// NextEvent returns what has happened, in order.
func (c *Conn) NextEvent() (Event, bool) { return Event{}, false }

// AddPath makes path known, with the longest datagram in bytes that its link
// can send. It is probed, and used when it answers and the one in use fails.
// A path that is known already is taken as usable again. Errors: the length is
// out of range, or there are PathsMax paths.
func (c *Conn) AddPath(now clock.Mono, path PathID, datagramMax int) error { return errNotYet }

// PathDown tells that path can't be used: its link is gone. What was sent
// there is sent again elsewhere. AddPath brings it back.
func (c *Conn) PathDown(now clock.Mono, path PathID) {}

// SetPathMTU tells the longest datagram in bytes that path's link can send
// now. Longer ones are found out by probing, up to this.
func (c *Conn) SetPathMTU(now clock.Mono, path PathID, datagramMax int) {}

// Close ends the connection: nothing more is taken, what was queued has
// Config.DrainTimeout to be acknowledged, then both sides go down with
// ErrClosed. The peer is told the reason, of which 200 bytes are kept.
// A second Close ends the draining.
func (c *Conn) Close(now clock.Mono, reason string) {}

// Abandon ends the connection at once and tells the peer nothing; EventDown
// carries err. For an owner that stops, or resolves two connections to one.
func (c *Conn) Abandon(now clock.Mono, err error) {}

// Peer is who the handshake proved the peer to be: Step.Peer, nil before
// EventUp.
func (c *Conn) Peer() any { return nil }

// RemoteID is how the peer calls the connection: what a Reset is for. Zero
// before EventUp.
func (c *Conn) RemoteID() ConnID { return 0 }

// PeerFeatures are the bits that Config.Features of both sides have, known from
// EventUp on.
func (c *Conn) PeerFeatures() uint64 { return 0 }

// Stats returns the counters.
func (c *Conn) Stats() Stats { return Stats{} }

// PathsMax is how many paths a connection can have.
const PathsMax = 8

// Route is what Inspect found in a datagram.
type Route = packet.Route

// The kinds of Route.
const (
	// Hello is the first datagram of a client: for NewServer, after a refusal
	// or a retry were considered.
	Hello = packet.Hello
	// Known is for the Conn whose LocalID is Dest; if there is none, AppendReset
	// makes the answer.
	Known = packet.Known
	// Reply is for the Conn whose LocalID is Dest; if there is none, for nobody.
	Reply = packet.Reply
	// Reset is for the Conn whose RemoteID is Dest; if there is none, for nobody.
	Reset = packet.Reset
)

// Inspect finds out which Conn a datagram is for, without any state.
// A Hello that is repeated, before the client has heard of the server's ID,
// belongs to the Conn that was made for its Source and sender's address. An
// error means that the datagram is not ours.
func Inspect(datagram []byte) (Route, error) { return packet.Inspect(datagram) }

// AppendRetry appends the datagram that asks the sender of hello to come back
// with token, 1 to packet.TokenMax bytes. It is always shorter than hello.
func AppendRetry(dst []byte, hello Route, token []byte) []byte {
	return packet.AppendRetry(dst, hello, token)
}

// AppendRefusal appends the datagram that tells the sender of hello which
// versions this node speaks. It is always shorter than hello.
func AppendRefusal(dst []byte, hello Route) []byte { return packet.AppendRefusal(dst, hello) }

// AppendReset appends the datagram that tells the peer that connection id,
// the Dest of its datagram, isn't known here (any more). token is what the lost Conn had as
// Config.ResetToken. A reset is never answered, and shorter than what
// Inspect accepts as Known, so that two nodes can't keep each other busy.
func AppendReset(dst []byte, id ConnID, token [ResetTokenLen]byte) []byte {
	return packet.AppendReset(dst, id, token)
}
