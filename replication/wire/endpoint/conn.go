package endpoint

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
)

const (
	// eventBatch is how many events are taken from a Conn under one lock.
	eventBatch = 32
	// produceMax is how many datagrams one connection sends per turn before
	// others get theirs.
	produceMax = 64

	retireAfter = 100 * time.Millisecond // both sides know the better connection by then
	retireCheck = 50 * time.Millisecond
	retireMax   = 5 * time.Second
)

// conn is a wire.Conn with its paths and its home.
type conn struct {
	e      *Endpoint
	id     wire.ConnID
	hello  hello // of the client that dialed; zero if this node did
	client bool  // this node dialed
	peer   *Peer // who it is; a client's, whom it dialed. Set before it is up.

	home  atomic.Pointer[pump]
	ready atomic.Bool // in home's list, or being processed

	retiring atomic.Bool // there is a better connection to the peer
	rival    *rival      // where that one has to show first that it is alive; set before retiring

	mu struct {
		sync.Mutex
		c       *wire.Conn
		paths   [wire.PathsMax]path
		active  wire.PathID // preferred
		free    *Request    // to be used again
		backlog backlog     // answers that Send had no room for
		turn    clock.Mono  // when the home's present turn began; 0 between turns
	}

	// The home's own.
	deadline   clock.Mono
	listed     bool // in home's conns
	over       bool
	next       *pump      // that of the preferred path, if it has one
	more       bool       // there is more to send, and the link is full or it is others' turn
	retireAt   clock.Mono // when to look whether it may close; 0 if it need not
	retireLast clock.Mono // when it closes although something is under way
	events     [eventBatch]wire.Event
}

// rival is a connection that is preferred if it is alive.
type rival struct {
	*conn
	asked clock.Mono
}

// path is a pair of a link and a remote address, numbered by its place.
type path struct {
	pump        *pump // nil: not in use
	local       netip.AddrPort
	remote      netip.AddrPort
	datagramMax int
}

// signal makes the home look at the connection soon.
func (c *conn) signal() {
	if !c.ready.Swap(true) {
		c.home.Load().enqueue(c)
	}
}

func (c *conn) cancel(id wire.MessageID) {
	c.mu.Lock()
	c.mu.c.Cancel(c.e.cfg.Clock.Now(), id)
	c.mu.Unlock()
	c.signal()
}

func (c *conn) close(now clock.Mono, reason string) {
	c.mu.Lock()
	c.mu.c.Close(now, reason)
	c.mu.Unlock()
	c.signal()
}

// abandon ends a connection that has no pump any more, on the caller.
func (c *conn) abandon(err error) {
	c.mu.Lock()
	c.mu.c.Abandon(c.e.cfg.Clock.Now(), err)
	c.mu.Unlock()
	for c.dispatch(0) > 0 && !c.over {
	}
}

// nowLocked is the time for what handlers and callbacks do: that of the turn
// in which they run, which is cheaper than the clock's.
func (c *conn) nowLocked() clock.Mono {
	if c.mu.turn != 0 {
		return c.mu.turn
	}
	return c.e.cfg.Clock.Now()
}

// receive gives the Conn a datagram that came from a peer through p. An
// address that is new gets a path, if there is room, once the Conn has found
// that the datagram is the peer's.
func (c *conn) receive(now clock.Mono, p *pump, from netip.AddrPort, datagram []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.pathLocked(now, p, from); ok {
		c.mu.c.Receive(now, id, datagram)
		return
	}
	c.mu.c.ReceiveNew(now, datagram, func() (wire.PathID, bool) { return c.newPathLocked(now, p, from) })
}

// pathLocked finds the path between p and a remote address.
func (c *conn) pathLocked(now clock.Mono, p *pump, remote netip.AddrPort) (wire.PathID, bool) {
	for i := range c.mu.paths {
		if at := &c.mu.paths[i]; at.remote == remote && at.local == p.local {
			if at.pump != p { // another queue of the same address, or the link is back
				c.bindLocked(now, i, p)
			}
			return wire.PathID(i), true
		}
	}
	return 0, false
}

// newPathLocked makes the path, if there is a place.
func (c *conn) newPathLocked(now clock.Mono, p *pump, remote netip.AddrPort) (wire.PathID, bool) {
	for i := range c.mu.paths {
		if !c.mu.paths[i].remote.IsValid() {
			return wire.PathID(i), c.addPathLocked(now, i, p, remote)
		}
	}
	return 0, false
}

func (c *conn) addPathLocked(now clock.Mono, i int, p *pump, remote netip.AddrPort) bool {
	most := clampDatagram(p.link.MaxDatagram())
	if err := c.mu.c.AddPath(now, wire.PathID(i), most); err != nil {
		return false
	}
	c.mu.paths[i] = path{pump: p, local: p.local, remote: remote, datagramMax: most}
	return true
}

// bindLocked makes p the pump of path i. If it is the preferred one, the home
// moves there with its next turn.
func (c *conn) bindLocked(now clock.Mono, i int, p *pump) {
	at := &c.mu.paths[i]
	if at.pump == nil {
		_ = c.mu.c.AddPath(now, wire.PathID(i), at.datagramMax) // the length was good before
	}
	at.pump = p
}

// pumpEnded takes the paths of p away.
func (c *conn) pumpEnded(now clock.Mono, p *pump, err error) {
	c.mu.Lock()
	for i := range c.mu.paths {
		if at := &c.mu.paths[i]; at.pump == p {
			at.pump = nil
			c.mu.c.PathDown(now, wire.PathID(i))
		}
	}
	c.mu.Unlock()
	if c.home.Load() != p || c.over {
		return
	}
	if next := c.anotherHome(); next != nil {
		c.moveTo(next)
		return
	}
	c.abandon(fmt.Errorf("no link is left: %w", err))
}

// anotherHome is the pump of any path, or any pump at all.
func (c *conn) anotherHome() *pump {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.mu.paths {
		if p := c.mu.paths[i].pump; p != nil {
			return p
		}
	}
	return c.e.anyPump()
}

// moveTo makes p the home. The caller is the home, or the home has ended.
func (c *conn) moveTo(p *pump) {
	c.listed = false
	c.home.Store(p)
	c.ready.Store(true)
	p.enqueue(c)
}

// process is one turn of the connection on its home, up to where what it has
// to say is ready to be sent; settle is the rest. It reports whether there is
// one.
func (c *conn) process(p *pump, now clock.Mono) bool {
	for c.dispatch(now) == eventBatch {
	}
	if c.over {
		p.disown(c)
		return false
	}
	if next := c.next; next != nil && next != p {
		p.disown(c)
		c.moveTo(next)
		return false
	}
	if c.retiring.Load() {
		c.retire(now)
	} else {
		c.retireAt = 0
	}
	// From here on, who sends queues the connection again. What they sent
	// before is there when the lock is taken.
	c.ready.Store(false)
	c.mu.Lock()
	if c.mu.c.Deadline() <= now {
		c.mu.c.Tick(now)
	}
	c.more = c.produceLocked(p, now)
	c.mu.Unlock()
	return true
}

// settle finds out when the next turn must be.
func (c *conn) settle(p *pump) {
	c.mu.Lock()
	c.deadline = c.mu.c.Deadline()
	event, ok := c.nextEventLocked()
	c.mu.turn = 0
	c.mu.Unlock()
	if c.retireAt != 0 {
		c.deadline = min(c.deadline, c.retireAt)
	}
	p.nextTimer = min(p.nextTimer, c.deadline)
	if ok {
		c.handle(&event)
	}
	if ok || c.more {
		c.signal()
	}
}

// dispatch takes a batch of events, in a turn that began at now, and handles
// them. It returns how many there were. What comes of the handlers themselves
// is left.
func (c *conn) dispatch(now clock.Mono) (n int) {
	c.mu.Lock()
	c.mu.turn = now
	for n < eventBatch {
		event, ok := c.nextEventLocked()
		if !ok {
			break
		}
		c.events[n] = event
		n++
	}
	c.next = c.mu.paths[c.mu.active].pump
	c.mu.Unlock()
	for i := range n {
		c.handle(&c.events[i])
		c.events[i] = wire.Event{}
	}
	return n
}

// nextEventLocked takes an event, and notes which path is preferred.
func (c *conn) nextEventLocked() (wire.Event, bool) {
	event, ok := c.mu.c.NextEvent()
	if ok && (event.Kind == wire.EventUp || event.Kind == wire.EventPath) {
		c.mu.active = event.Path
	}
	return event, ok
}

// handle is one event.
func (c *conn) handle(e *wire.Event) {
	switch e.Kind {
	case wire.EventUp:
		c.onUp()
	case wire.EventMessage:
		c.onMessage(&e.Message)
	case wire.EventResponse, wire.EventSent, wire.EventFailed:
		switch tag := e.Tag.(type) {
		case *Call:
			tag.on(e)
		case *Request:
			tag.replied(e.Err)
		}
	case wire.EventCanceled:
		// Its handler answers all the same, which is harmless.
	case wire.EventRoom:
		c.sendBacklog()
		c.peer.room()
	case wire.EventPath:
		// nextEventLocked has noted it.
	case wire.EventDown:
		c.over = true
		c.e.forget(c)
		c.dropBacklog(e.Err)
		if c.peer != nil {
			c.peer.connDown(c, e.Err)
		}
	}
}

// produceLocked sends what the Conn has to say; more tells that there is
// more, and that the link is full or it is others' turn.
func (c *conn) produceLocked(p *pump, now clock.Mono) (more bool) {
	for i := range c.mu.paths {
		at := &c.mu.paths[i]
		if at.pump == nil {
			continue
		}
		if most := clampDatagram(at.pump.link.MaxDatagram()); most != at.datagramMax {
			at.datagramMax = most
			c.mu.c.SetPathMTU(now, wire.PathID(i), most)
		}
		if at.pump == p {
			more = c.produceHereLocked(p, now, wire.PathID(i), at.remote) || more
			continue
		}
		for range produceMax {
			n := c.mu.c.Produce(now, wire.PathID(i), p.scratch)
			if n == 0 {
				break
			}
			at.pump.sendFor(p.scratch[:n], at.remote)
		}
	}
	return more
}

func (c *conn) produceHereLocked(p *pump, now clock.Mono, id wire.PathID, remote netip.AddrPort) (more bool) {
	for range produceMax {
		buf := p.txBuf()
		if buf == nil {
			return true
		}
		n := c.mu.c.Produce(now, id, buf.Data)
		if n == 0 {
			return false
		}
		buf.Data = buf.Data[:n]
		buf.Peer = remote
		p.txUsed++
	}
	return true
}

// retire closes the connection once nothing is under way on it, and the better one
// is known to be alive.
func (c *conn) retire(now clock.Mono) {
	if c.retireAt == 0 {
		c.retireAt, c.retireLast = now.Add(retireAfter), now.Add(retireMax)
	}
	if now < c.retireAt {
		return
	}
	if c.rival.open() || !c.peer.forgo(c) {
		c.retireAt = now.Add(retireCheck)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.mu.c.Stats()
	if now < c.retireLast && s.Unanswered+s.Queued+s.HeldMessages > 0 {
		c.retireAt = now.Add(retireCheck)
		return
	}
	c.retireAt = clock.Never
	c.mu.c.Close(now, "replaced by another connection of the same nodes")
}

// ask makes the peer show that the connection is alive, or it ends.
func (c *conn) ask(now clock.Mono) {
	c.mu.Lock()
	c.mu.c.Ask(now)
	c.mu.Unlock()
	c.signal()
}

// open reports whether it is not known yet if the rival is alive.
func (r *rival) open() bool {
	if r == nil || r.peer.active.Load() != r.conn {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.c.Heard() <= r.asked
}

// wireStats are the counters of the Conn.
func (c *conn) wireStats() wire.Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.c.Stats()
}

// gone tells whether err of a Send means that the connection is no more.
func gone(err error) bool {
	return !errors.Is(err, wire.ErrQueueFull) && !errors.Is(err, wire.ErrTooLong)
}
