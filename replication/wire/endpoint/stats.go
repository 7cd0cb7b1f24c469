package endpoint

import (
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/wire"
)

// pumpCounters are what a pump counts, and anyone reads.
type pumpCounters struct {
	turns                          atomic.Uint64
	hellos, hellosDropped, retries atomic.Uint64
	resets, notOurs                atomic.Uint64
}

// LinkStats is one link and its pump.
type LinkStats struct {
	Kind  link.Kind
	Local netip.AddrPort
	Link  link.Stats
	Poll  adaptive.Stats // how it is waited for: budget learned, time spent polling

	Turns         uint64 // of the pump
	Hellos        uint64 // clients that wanted to connect
	HellosDropped uint64 // of these, turned away without an answer
	Retries       uint64 // of these, asked to prove their address
	Resets        uint64 // datagrams of connections that this node doesn't know
	NotOurs       uint64 // datagrams that are nobody's
}

// PeerStats is one peer and its connection.
type PeerStats struct {
	Node string
	Up   bool
	Err  error // why it is down, or what ended the connection before
	Wire wire.Stats
}

// Stats is a node on the network. Peers are in the order of their IDs.
type Stats struct {
	Links    []LinkStats
	Peers    []PeerStats
	HalfOpen int // handshakes under way of clients that dial this node
}

// Stats returns the counters; together they are not a snapshot.
func (e *Endpoint) Stats() Stats {
	s := Stats{HalfOpen: int(e.halfOpen.Load())}
	for _, p := range e.allPumps() {
		s.Links = append(s.Links, LinkStats{
			Kind: p.link.Kind(), Local: p.local, Link: p.link.Stats(), Poll: p.poller.Stats(),
			Turns: p.count.turns.Load(), Hellos: p.count.hellos.Load(), HellosDropped: p.count.hellosDropped.Load(),
			Retries: p.count.retries.Load(), Resets: p.count.resets.Load(), NotOurs: p.count.notOurs.Load(),
		})
	}
	e.mu.RLock()
	peers := e.peersLocked()
	e.mu.RUnlock()
	slices.SortFunc(peers, func(a, b *Peer) int { return strings.Compare(a.node, b.node) })
	for _, p := range peers {
		s.Peers = append(s.Peers, p.Stats())
	}
	return s
}

// Stats returns the state of the peer and the counters of its connection.
func (p *Peer) Stats() PeerStats {
	s := PeerStats{Node: p.node, Err: p.Err()}
	if c := p.active.Load(); c != nil {
		s.Up, s.Wire = true, c.wireStats()
	}
	return s
}
