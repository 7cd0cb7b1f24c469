package endpoint

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
)

// receive gives each datagram to whom it is for.
func (p *pump) receive(bufs []link.RxBuf) {
	var last *conn // datagrams of one connection often come together
	var lastID wire.ConnID
	for i := range bufs {
		b := &bufs[i]
		route, err := wire.Inspect(b.Data)
		if err != nil {
			p.count.notOurs.Add(1)
			continue
		}
		var c *conn
		switch route.Kind {
		case wire.Hello:
			p.onHello(b, route)
			continue
		case wire.Reset:
			p.onReset(b, route)
			continue
		case wire.Known, wire.Reply:
			if last == nil || route.Dest != lastID {
				last, lastID = p.find(route.Dest), route.Dest
			}
			c = last
		}
		switch {
		case c != nil:
			c.receive(p.now, p, b.Peer, b.Data)
			p.runSoon(c)
		case route.Kind == wire.Known:
			p.answerStranger(b.Peer, func(dst []byte) []byte {
				return wire.AppendReset(dst, route.Dest, p.e.resetToken(route.Dest))
			})
			p.count.resets.Add(1)
		default:
			p.count.notOurs.Add(1)
		}
	}
}

// find returns the connection that peers call id. Those at home here are found without
// a lock, unless there are many.
func (p *pump) find(id wire.ConnID) *conn {
	for _, c := range p.conns[:min(len(p.conns), nearMax)] {
		if c.id == id {
			return c
		}
	}
	return p.e.find(id)
}

// nearMax is how many comparisons are worth a lock and a map.
const nearMax = 8

// runSoon has c processed in this turn if it is at home here, else by its home.
func (p *pump) runSoon(c *conn) {
	if c.ready.Swap(true) {
		return
	}
	if home := c.home.Load(); home != p {
		home.enqueue(c)
		return
	}
	p.running = append(p.running, c)
}

// onHello deals with a client that wants to connect.
func (p *pump) onHello(b *link.RxBuf, route wire.Route) {
	e := p.e
	key := hello{b.Peer, route.Source}
	e.mu.RLock()
	c := e.mu.hellos[key]
	e.mu.RUnlock()
	if c != nil {
		c.receive(p.now, p, b.Peer, b.Data)
		p.runSoon(c)
		return
	}
	p.count.hellos.Add(1)
	if route.Version != wire.Version {
		p.answerStranger(b.Peer, func(dst []byte) []byte { return wire.AppendRefusal(dst, route) })
		return
	}
	bound := binary.BigEndian.AppendUint64(nil, uint64(route.Source))
	halfOpen := int(e.halfOpen.Load())
	switch {
	case halfOpen >= e.cfg.HalfOpenMax:
		p.count.hellosDropped.Add(1)
	case len(route.Token) > 0 && !e.tokens.Valid(p.now, b.Peer, bound, route.Token):
		p.count.hellosDropped.Add(1)
	case len(route.Token) == 0 && halfOpen >= e.cfg.RetryAbove:
		p.count.retries.Add(1)
		p.answerStranger(b.Peer, func(dst []byte) []byte {
			return wire.AppendRetry(dst, route, e.tokens.Append(nil, p.now, b.Peer, bound))
		})
	default:
		p.accept(b, key)
	}
}

// accept makes the connection of a client's hello.
func (p *pump) accept(b *link.RxBuf, key hello) {
	c := &conn{e: p.e, id: p.e.newID(), hello: key, deadline: p.now}
	c.home.Store(p)
	c.ready.Store(true)
	most := clampDatagram(p.link.MaxDatagram())
	cfg, err := p.e.wireConfig(c, most, secure.NewServer, "")
	if err == nil {
		c.mu.c, err = wire.NewServer(cfg, p.now, b.Data, 0)
	}
	if err != nil {
		p.count.hellosDropped.Add(1)
		return
	}
	c.mu.paths[0] = path{pump: p, local: p.local, remote: b.Peer, datagramMax: most}
	if !p.e.register(c) {
		c.abandon(ErrStopped)
		return
	}
	p.running = append(p.running, c)
}

// onReset gives the word of a node that knows a connection no more to that
// connection, which checks it.
func (p *pump) onReset(b *link.RxBuf, route wire.Route) {
	if !p.mayAnswer() { // looking for it takes a while, and anybody can make us
		return
	}
	for _, c := range p.e.allConns() {
		c.mu.Lock()
		found := c.mu.c.RemoteID() == route.Dest
		c.mu.Unlock()
		if found {
			c.receive(p.now, p, b.Peer, b.Data)
			p.runSoon(c)
		}
	}
}

// answerStranger sends one datagram to an address that has proven nothing.
func (p *pump) answerStranger(to netip.AddrPort, build func([]byte) []byte) {
	if !p.mayAnswer() {
		return
	}
	if buf := p.txBuf(); buf != nil {
		buf.Data = build(buf.Data[:0])
		buf.Peer = to
		p.txUsed++
	}
}

func (p *pump) mayAnswer() bool {
	if p.now.Sub(p.answersAt) > time.Second {
		p.answersAt, p.answers = p.now, 0
	}
	p.answers++
	return p.answers <= answersMax
}

// onUp makes the connection the peer's, now that it is known who that is.
func (c *conn) onUp() {
	c.mu.Lock()
	who, ok := c.mu.c.Peer().(secure.Peer)
	c.mu.Unlock()
	c.e.greeted(c)
	now := c.e.cfg.Clock.Now()
	switch {
	case !ok || who.Node == c.e.self.Node:
		c.close(now, "a node does not connect to itself; check the addresses of its peers")
		return
	case c.peer == nil && !c.e.mayConnect(who.Node):
		c.close(now, fmt.Sprintf("node %q is not accepted here", who.Node))
		return
	case c.peer == nil:
		c.peer = c.e.Peer(who.Node)
	}
	c.peer.connUp(c, now)
}

// mayConnect tells whether a node that was not asked for is welcome.
func (e *Endpoint) mayConnect(node string) bool {
	e.mu.RLock()
	known := e.mu.peers[node] != nil
	e.mu.RUnlock()
	return known || e.cfg.Accept(node)
}
