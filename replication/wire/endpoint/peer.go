package endpoint

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
)

// Peer is another node. Its methods may be called from any goroutine.
type Peer struct {
	e      *Endpoint
	node   string
	active atomic.Pointer[conn] // what is sent goes there; nil while there is none

	mu struct {
		sync.Mutex
		addrs    []netip.AddrPort
		dialing  *conn
		spare    *conn         // has come up beside the active one, which may be dead
		attempts int           // that failed in a row
		next     clock.Mono    // of the next attempt; Never while none is due
		changed  chan struct{} // closed when a connection comes, or room in it
		err      error         // of the last attempt, or of the last connection
	}
}

func newPeer(e *Endpoint, node string) *Peer {
	p := &Peer{e: e, node: node}
	p.mu.next = clock.Never
	p.mu.changed = make(chan struct{})
	return p
}

// Node is the peer's ID, as its certificate says it.
func (p *Peer) Node() string { return p.node }

// Up tells whether there is a connection now.
func (p *Peer) Up() bool { return p.active.Load() != nil }

// Err is why there is no connection, or what ended the one before.
func (p *Peer) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.err
}

func (p *Peer) setAddrs(now clock.Mono, addrs []netip.AddrPort) {
	p.mu.Lock()
	p.mu.addrs = slices.Clone(addrs)
	p.mu.attempts = 0
	p.mu.next = now
	p.mu.Unlock()
	p.e.dialSoon(now)
}

// linkAdded tries the peer through a new link: at once if there is no
// connection, and else as another path.
func (p *Peer) linkAdded(now clock.Mono) {
	p.mu.Lock()
	wanted := len(p.mu.addrs) > 0
	if wanted {
		p.mu.next = now
	}
	p.mu.Unlock()
	if !wanted {
		return
	}
	if c := p.active.Load(); c != nil {
		c.addPaths(now, p.ways())
	}
	p.e.dialSoon(now)
}

// way is one pair of a link and an address of the peer.
type way struct {
	pump *pump
	addr netip.AddrPort
}

// ways lists the pairs of the same family. The first address goes with the
// first link, the second with the second, before any other pairs: so several
// networks are usually configured.
func (p *Peer) ways() []way {
	p.mu.Lock()
	addrs := p.mu.addrs
	p.mu.Unlock()
	var pumps []*pump
	for _, q := range p.e.allPumps() {
		sameAddr := func(o *pump) bool { return o.local == q.local }
		if !slices.ContainsFunc(pumps, sameAddr) { // of the queues of one address any will do
			pumps = append(pumps, q)
		}
	}
	var ways []way
	for shift := range pumps {
		for i, a := range addrs {
			q := pumps[(i+shift)%len(pumps)]
			if q.local.Addr().Is4() == a.Addr().Is4() {
				ways = append(ways, way{q, a})
			}
		}
	}
	return ways
}

// dial starts an attempt to connect, if one is due. An error is one of this
// node's own, such as a certificate that can't be used.
func (p *Peer) dial(now clock.Mono) error {
	ways := p.ways()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.next > now || p.mu.dialing != nil {
		return nil
	}
	p.mu.next = clock.Never
	if p.active.Load() != nil || len(ways) == 0 { // AddLink and setAddrs come back to it
		return nil
	}
	w := ways[p.mu.attempts%len(ways)]
	c := &conn{e: p.e, id: p.e.newID(), client: true, peer: p, deadline: now}
	c.home.Store(w.pump)
	most := clampDatagram(w.pump.link.MaxDatagram())
	cfg, err := p.e.wireConfig(c, most, secure.NewClient, p.node)
	if err == nil {
		c.mu.c, err = wire.NewClient(cfg, now)
	}
	if err != nil {
		p.attemptFailedLocked(now, err)
		return err
	}
	c.mu.paths[0] = path{pump: w.pump, local: w.pump.local, remote: w.addr, datagramMax: most}
	p.mu.dialing = c
	if !p.e.register(c) {
		p.mu.dialing = nil
		c.mu.c.Abandon(now, ErrStopped)
		return nil
	}
	c.signal()
	return nil
}

// attemptFailedLocked sets the time of the next attempt.
func (p *Peer) attemptFailedLocked(now clock.Mono, err error) {
	p.mu.err = err
	pause := p.e.cfg.RedialMax
	if p.mu.attempts < 20 {
		pause = min(pause, p.e.cfg.RedialMin<<p.mu.attempts)
	}
	p.mu.attempts++
	if len(p.mu.addrs) > 0 {
		// A quarter more or less, so that two nodes don't go on in step.
		p.mu.next = now.Add(pause*3/4 + time.Duration(rand.Int64N(int64(pause)/2+1)))
	}
}

// connUp decides what becomes of c, which has just come up: see the package
// comment.
func (p *Peer) connUp(c *conn, now clock.Mono) {
	p.mu.Lock()
	if p.mu.dialing == c {
		p.mu.dialing = nil
	}
	old := p.active.Load()
	var stale, loser *conn
	switch {
	case old == nil:
	case old.client == c.client:
		stale = old
	case c.client == (p.e.self.Node < p.node):
		loser = old
	default: // who dials has no connection, as far as it knows: old may be one that it has lost
		loser = c
		p.mu.spare = c
		c.rival = &rival{old, now}
	}
	if loser != c {
		p.active.Store(c)
		p.mu.attempts, p.mu.next = 0, clock.Never
		p.changedLocked()
	}
	if stale != nil {
		p.mu.err = errRestarted
	}
	p.mu.Unlock()

	if loser != nil {
		loser.retiring.Store(true)
		loser.signal()
	}
	if stale != nil {
		stale.mu.Lock()
		stale.mu.c.Abandon(now, errRestarted)
		stale.mu.Unlock()
		stale.signal()
		p.e.cfg.Events(Event{Kind: PeerDown, Peer: p, Err: errRestarted})
	}
	if loser == c {
		old.ask(now)
		return
	}
	c.addPaths(now, p.ways())
	if loser == nil {
		p.e.cfg.Events(Event{Kind: PeerUp, Peer: p})
		return
	}
	// Who was refused by old waits for room, and old may be one that the peer has lost: its end
	// is told to nobody.
	p.e.cfg.Events(Event{Kind: PeerRoom, Peer: p})
}

var errRestarted = fmt.Errorf("%w: it has connected anew", wire.ErrPeerRestart)

// addPaths gives a connection that this node has dialed the other ways to
// the peer. The peer learns of them by the datagrams that come from there.
func (c *conn) addPaths(now clock.Mono, ways []way) {
	if !c.client {
		return
	}
	c.mu.Lock()
	for _, w := range ways {
		if _, ok := c.pathLocked(now, w.pump, w.addr); !ok {
			_, _ = c.newPathLocked(now, w.pump, w.addr) // there may be more ways than paths
		}
	}
	c.mu.Unlock()
	c.signal()
}

// connDown notes the end of a connection or of an attempt, and dials again if
// there is none left.
func (p *Peer) connDown(c *conn, err error) {
	now := p.e.cfg.Clock.Now()
	p.mu.Lock()
	attempt := p.mu.dialing == c
	if attempt {
		p.mu.dialing = nil
		p.attemptFailedLocked(now, err)
	}
	spare := p.mu.spare
	if spare == c {
		spare, p.mu.spare = nil, nil
	}
	lost := p.active.CompareAndSwap(c, nil)
	switch {
	case lost && spare != nil:
		p.mu.err, p.mu.spare = err, nil
		p.active.Store(spare)
		spare.retiring.Store(false)
		p.changedLocked()
	case lost:
		p.mu.err = err
		if len(p.mu.addrs) > 0 {
			p.mu.attempts, p.mu.next = 0, now
		}
	}
	next := p.mu.next
	p.mu.Unlock()
	if lost {
		p.e.cfg.Events(Event{Kind: PeerDown, Peer: p, Err: err})
	}
	if lost && spare != nil {
		spare.addPaths(now, p.ways())
		p.e.cfg.Events(Event{Kind: PeerUp, Peer: p})
	}
	if attempt && !errors.Is(err, ErrStopped) {
		p.e.cfg.Events(Event{Kind: DialFailed, Peer: p, Err: err})
	}
	p.e.dialSoon(next)
}

// forgo reports whether c may close since there is a better connection; it does
// not take that one's place any more.
func (p *Peer) forgo(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active.Load() == c {
		return false
	}
	if p.mu.spare == c {
		p.mu.spare = nil
	}
	return true
}

// wake makes callers that wait look again.
func (p *Peer) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changedLocked()
}

// room tells callers that the connection takes requests again.
func (p *Peer) room() {
	p.wake()
	p.e.cfg.Events(Event{Kind: PeerRoom, Peer: p})
}

func (p *Peer) changedLocked() {
	close(p.mu.changed)
	p.mu.changed = make(chan struct{})
}

// change is closed when it is worth trying again.
func (p *Peer) change() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.changed
}

// nextDialFor is when p should call dialDue; only one pump does.
func (e *Endpoint) nextDialFor(p *pump) clock.Mono {
	if e.dialer.Load() != p {
		return clock.Never
	}
	return clock.Mono(e.nextDial.Load())
}

// dialSoon makes the dialer look at the given time, or earlier.
func (e *Endpoint) dialSoon(at clock.Mono) {
	for {
		old := e.nextDial.Load()
		if clock.Mono(old) <= at {
			break
		}
		if e.nextDial.CompareAndSwap(old, int64(at)) {
			break
		}
	}
	if p := e.dialer.Load(); p != nil && at != clock.Never {
		p.call()
	}
}

// dialDue starts the attempts that are due.
func (e *Endpoint) dialDue(now clock.Mono) {
	e.nextDial.Store(int64(clock.Never)) // before looking: what comes later sets it again
	e.mu.RLock()
	peers := e.peersLocked()
	stopped := e.mu.stopped
	e.mu.RUnlock()
	if stopped {
		return
	}
	next := clock.Never
	for _, p := range peers {
		if err := p.dial(now); err != nil {
			e.cfg.Events(Event{Kind: DialFailed, Peer: p, Err: err})
		}
		p.mu.Lock()
		if p.mu.dialing == nil { // else its end comes back to it
			next = min(next, p.mu.next)
		}
		p.mu.Unlock()
	}
	e.dialSoon(next)
}
