// Package endpoint moves a node's messages: it owns the links, drives the
// Conns, dials peers and answers those who dial, and keeps one connection to
// each of them up.
//
// # Goroutines
//
// Each Link has one goroutine, its pump, which runs to completion: it takes
// what arrived, lets Conns digest it, calls handlers and callbacks, and sends
// what Conns have to say, one batch of each per turn. When there is nothing
// to do it polls for as long as it pays (internal/adaptive), then sleeps in
// Link.Wait. There are no others. A pump in mode busy polls for ever, but where
// somebody else takes its processor away: then it sleeps for its next waits,
// from 16 to 4096 of them, since time slices are longer than wake-ups.
//
// Handlers and callbacks therefore run on a pump. They must not block, and
// what they send leaves with the same turn: that is the short way. From other
// goroutines everything here may be called, too, and wakes the pump if it
// sleeps.
//
// Where Config.Sources has the disks that the handler writes to, the pump also takes
// their completions, in the place of the disks' own goroutines: as long as few are
// under way, from the turn that brought a request until it has been answered.
//
// # Who owns what
//
// A connection has a home: the pump whose Link its preferred path uses. Only
// the home takes its events, so that they stay in order, and only the home
// produces. A pump that gets a datagram for a connection of another passes
// it to the Conn, under the Conn's lock, and calls the home. What the home
// produces for another pump's path goes through that pump's outbox, which
// copies; only probes of spare paths do so for long, as the home follows the
// preferred path.
//
// Locks, in the order in which they are taken: Peer.mu, conn.mu, Endpoint.mu,
// pump.mu. None is held while a handler or a callback runs.
//
// # One connection per peer
//
// Two nodes may dial each other at the same time, and each of them learns who
// is at the other end only at the end of the handshake. If there are two
// connections then, both sides prefer that which the node with the smaller ID
// dialed. The other takes no new requests, finishes those that are under way,
// and is closed. A second connection dialed by the same side means that that
// side has lost the first, so it is gone at once, with wire.ErrPeerRestart. One dialed by
// the other side may mean the same, if the first has been idle since: so where the first
// is preferred it is asked, and the second stays until the answer has come, or
// takes its place.
//
// # Strangers
//
// A hello costs this node a key exchange. With more than Config.RetryAbove
// handshakes under way it first asks for proof, without keeping anything,
// that the client receives at the address it sends from; with more than
// Config.HalfOpenMax it answers nothing. An address becomes a path of a
// connection only when a packet that the peer sealed comes from there.
package endpoint
