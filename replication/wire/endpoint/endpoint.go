package endpoint

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
)

// alpn names the protocol in the TLS handshake.
const alpn = "blockd-wire/1"

// Endpoint is a node on the network between nodes.
type Endpoint struct {
	cfg    Config
	self   secure.Identity
	creds  atomic.Pointer[credentials]
	tokens *secure.RetryTokens

	mu struct {
		sync.RWMutex
		stopped bool
		pumps   []*pump // never changed in place
		peers   map[string]*Peer
		byID    map[wire.ConnID]*conn
		hellos  map[hello]*conn // of clients that dial, until they are up
	}
	halfOpen atomic.Int32
	dialer   atomic.Pointer[pump] // which starts attempts to connect
	nextDial atomic.Int64         // a clock.Mono: when the next is due
	pumps    sync.WaitGroup
	waiters  sync.Pool // of *waiter
}

// credentials are the node's, with what is derived from them.
type credentials struct {
	*secure.Credentials
	reset secure.ResetSecret
}

// hello names an attempt of a client to connect.
type hello struct {
	from   netip.AddrPort
	source wire.ConnID
}

// Open makes an Endpoint without links: see AddLink.
func Open(cfg Config) (*Endpoint, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	e := &Endpoint{cfg: cfg, tokens: secure.NewRetryTokens(cfg.Clock.Now())}
	e.nextDial.Store(int64(clock.Never))
	e.waiters.New = newWaiter
	if err := e.SetCredentials(cfg.Credentials); err != nil {
		return nil, err
	}
	e.mu.peers = map[string]*Peer{}
	e.mu.byID = map[wire.ConnID]*conn{}
	e.mu.hellos = map[hello]*conn{}
	return e, nil
}

// Self is who this node is.
func (e *Endpoint) Self() secure.Identity { return e.self }

// SetCredentials renews the node's certificate for connections to come. It
// must name the same node.
func (e *Endpoint) SetCredentials(c *secure.Credentials) error {
	id, err := c.Self()
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if e.self == (secure.Identity{}) {
		e.self = id
	}
	if id != e.self {
		return fmt.Errorf("endpoint: the new certificate is of node %s, and this is %s", id.URI(), e.self.URI())
	}
	reset, err := secure.NewResetSecret(&c.Certificate)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	e.creds.Store(&credentials{c, reset})
	return nil
}

// AddLink starts a pump for l, which is the Endpoint's from now on: it closes
// it. Connections that are up get a path through it.
func (e *Endpoint) AddLink(l link.Link) error {
	p := newPump(e, l)
	e.mu.Lock()
	if e.mu.stopped {
		e.mu.Unlock()
		return errors.Join(ErrStopped, l.Close())
	}
	e.mu.pumps = append(slices.Clone(e.mu.pumps), p)
	e.dialer.Store(e.mu.pumps[0])
	e.pumps.Add(1)
	peers := e.peersLocked()
	e.mu.Unlock()
	go p.run()
	now := e.cfg.Clock.Now()
	for _, peer := range peers {
		peer.linkAdded(now)
	}
	return nil
}

// RemoveLink ends the use of the link with the local address and closes it.
// Connections go on over others, if they have any.
func (e *Endpoint) RemoveLink(local netip.AddrPort) {
	for _, p := range e.allPumps() {
		if p.local == local {
			p.stop(fmt.Errorf("%w: removed", link.ErrClosed))
		}
	}
}

// Peer returns the handle of a node, and keeps a connection to it up if there
// are addresses: each is a way to the node, tried through every link of the
// same family. A second call with addresses replaces them for the attempts
// to come.
func (e *Endpoint) Peer(node string, addrs ...netip.AddrPort) *Peer {
	e.mu.Lock()
	p := e.mu.peers[node]
	if p == nil {
		p = newPeer(e, node)
		e.mu.peers[node] = p
	}
	e.mu.Unlock()
	if len(addrs) > 0 {
		p.setAddrs(e.cfg.Clock.Now(), addrs)
	}
	return p
}

// Close takes leave of all peers, gives them up to a quarter of a second to
// answer, and closes the links. Everything not completed fails.
func (e *Endpoint) Close() error {
	e.mu.Lock()
	e.mu.stopped = true
	conns := e.connsLocked()
	pumps := e.mu.pumps
	e.mu.Unlock()
	now := e.cfg.Clock.Now()
	for _, p := range e.allPeers() {
		p.wake()
	}
	for _, c := range conns {
		c.close(now, "the node stops")
	}
	for _, p := range pumps {
		p.drain(now.Add(250 * time.Millisecond))
	}
	e.pumps.Wait()
	for _, c := range e.allConns() {
		c.abandon(ErrStopped)
	}
	return nil
}

func (e *Endpoint) allPumps() []*pump {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mu.pumps
}

func (e *Endpoint) allConns() []*conn {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.connsLocked()
}

func (e *Endpoint) connsLocked() []*conn {
	conns := make([]*conn, 0, len(e.mu.byID))
	for _, c := range e.mu.byID {
		conns = append(conns, c)
	}
	return conns
}

func (e *Endpoint) allPeers() []*Peer {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.peersLocked()
}

func (e *Endpoint) peersLocked() []*Peer {
	peers := make([]*Peer, 0, len(e.mu.peers))
	for _, p := range e.mu.peers {
		peers = append(peers, p)
	}
	return peers
}

// find returns the connection that peers call id.
func (e *Endpoint) find(id wire.ConnID) *conn {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mu.byID[id]
}

// newID returns a name for a connection, which nobody can guess or has.
func (e *Endpoint) newID() wire.ConnID {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // it never fails
		if id := wire.ConnID(binary.BigEndian.Uint64(b[:])); id != 0 && e.find(id) == nil {
			return id
		}
	}
}

// register makes c known by its ID, unless the Endpoint is stopped.
func (e *Endpoint) register(c *conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.mu.stopped {
		return false
	}
	e.mu.byID[c.id] = c
	if c.hello.source != 0 {
		e.mu.hellos[c.hello] = c
		e.halfOpen.Add(1)
	}
	return true
}

// greeted ends the time in which c's hello may be repeated.
func (e *Endpoint) greeted(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.hello.source != 0 && e.mu.hellos[c.hello] == c {
		delete(e.mu.hellos, c.hello)
		e.halfOpen.Add(-1)
	}
}

// forget makes c unknown.
func (e *Endpoint) forget(c *conn) {
	e.greeted(c)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.mu.byID, c.id)
}

// anyPump is a pump that lives, for a connection that has lost its own; nil if
// there is none.
func (e *Endpoint) anyPump() *pump {
	if pumps := e.allPumps(); len(pumps) > 0 {
		return pumps[0]
	}
	return nil
}

// pumpEnded is told by a pump that it takes nothing more.
func (e *Endpoint) pumpEnded(p *pump, err error) {
	e.mu.Lock()
	e.mu.pumps = slices.DeleteFunc(slices.Clone(e.mu.pumps), func(q *pump) bool { return q == p })
	e.dialer.Store(nil)
	if len(e.mu.pumps) > 0 {
		e.dialer.Store(e.mu.pumps[0])
	}
	stopped := e.mu.stopped
	conns := e.connsLocked()
	e.mu.Unlock()
	now := e.cfg.Clock.Now()
	for _, c := range conns {
		c.pumpEnded(now, p, err)
	}
	e.dialSoon(now) // the new dialer has a look
	if !stopped {
		e.cfg.Events(Event{Kind: LinkDown, Link: p.name(), Err: err})
	}
}

// wireConfig is the configuration of one connection.
func (e *Endpoint) wireConfig(c *conn, datagramMax int, shake func(secure.Config) (*secure.Handshake, error), wantNode string) (wire.Config, error) {
	creds := e.creds.Load()
	handshake, err := shake(secure.Config{
		Credentials: creds.Credentials,
		Now:         e.cfg.WallClock(),
		Versions:    []string{alpn},
		WantNode:    wantNode,
	})
	if err != nil {
		return wire.Config{}, err
	}
	cfg := e.cfg.Wire
	cfg.Handshake = handshake
	cfg.LocalID = c.id
	cfg.ResetToken = e.resetToken(c.id)
	_, _ = rand.Read(cfg.Seed[:])
	cfg.Path = 0
	cfg.DatagramMax = clampDatagram(datagramMax)
	cfg.Wake = c.signal
	return cfg, nil
}

func (e *Endpoint) resetToken(id wire.ConnID) [wire.ResetTokenLen]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(id))
	return e.creds.Load().reset.Token(b[:])
}

// clampDatagram fits a link's limit into what paths may have.
func clampDatagram(n int) int { return min(max(n, datagramMin), datagramMax) }

// Limits of a path's datagrams, in bytes: wire refuses others.
const (
	datagramMin = 1200
	datagramMax = 65000
)
