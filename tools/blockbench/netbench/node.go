package netbench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/afxdp/xdplink"
	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
	"blockd.dev/replication/wire/secure/securetest"
)

// openLink opens the Link of a node kind.
func openLink(s Shape, peers []netip.Addr) (link.Link, error) {
	if s.Kind == "udp" {
		cfg := udplink.Config{Local: s.Local}
		if s.NoOffload {
			cfg.Offload = udplink.OffloadOff
		}
		return udplink.Open(cfg)
	}
	mode := xdplink.Auto
	if s.Kind != "xdp" {
		var err error
		if mode, err = xdplink.ParseMode(s.Kind[len("xdp-"):]); err != nil {
			return nil, err
		}
	}
	return xdplink.Open(xdplink.Config{
		Interface: s.Interface, Local: s.Local.Addr(), Port: s.Local.Port(), Mode: mode, Peers: peers,
	})
}

// openNode makes an Endpoint with one link.
func openNode(s Shape, id string, peers []netip.Addr, handler func(*endpoint.Request)) (*endpoint.Endpoint, link.Link, error) {
	l, err := openLink(s, peers)
	if err != nil {
		return nil, nil, err
	}
	e, err := endpoint.Open(endpoint.Config{
		Credentials: securetest.New("blockbench", s.Key).Node(id),
		Handler:     handler,
		Poll:        adaptive.Config{Mode: s.Poll},
		Wire:        wire.Config{Alloc: newPool().alloc},
	})
	if err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	return e, l, e.AddLink(l)
}

// serveNode answers until ctx ends. An xdp Link has to know who may send to it.
func serveNode(ctx context.Context, s Shape, peers []netip.Addr, ready func(netip.AddrPort)) error {
	reply := [][]byte{make([]byte, s.Reply)}
	e, l, err := openNode(s, "server", peers, func(r *endpoint.Request) {
		if len(r.Message.Data) == 0 { // which no Shape has: see peerCPU
			_ = r.Reply([][]byte{binary.LittleEndian.AppendUint64(nil, uint64(cpuTime()))})
			return
		}
		_ = r.Reply(reply)
	})
	if err != nil {
		return err
	}
	ready(l.LocalAddr())
	<-ctx.Done()
	return e.Close()
}

// asker keeps requests in flight. Its callbacks run on the one pump.
type asker struct {
	peer  *endpoint.Peer
	meter *meter
	calls []question
	left  int
	done  chan error
}

// question is one request in flight.
type question struct {
	endpoint.Call
	sent time.Time
}

func runNode(ctx context.Context, s Shape, l Load) (r Result, err error) {
	e, link, err := openNode(s, "client", []netip.Addr{l.Peer.Addr()}, nil)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	peer := e.Peer("server", l.Peer)
	connect, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	m, err := peer.Call(connect, 0, make([]byte, s.Request))
	if err != nil {
		return Result{}, fmt.Errorf("connect: %w", err)
	}
	m.Release()
	if l.Idle {
		r, err = idle(ctx, l, func() (time.Duration, error) { return peerCPU(ctx, peer) })
	} else {
		r, err = ask(ctx, peer, s, l)
	}
	r.Kind, r.Carrier, r.Poll, r.Wire = s.Kind, link.Kind().String(), s.Poll.String(), peer.Stats().Wire
	for _, l := range e.Stats().Links {
		r.Polling.Add(l.Poll)
	}
	return r, err
}

func ask(ctx context.Context, peer *endpoint.Peer, s Shape, l Load) (Result, error) {
	a := &asker{peer: peer, meter: newMeter(l), calls: make([]question, l.Depth), left: l.Depth, done: make(chan error, l.Depth+1)}
	data := [][]byte{make([]byte, s.Request)}
	// The first calls are made on the pump, too, from the answer to one of them.
	start := &endpoint.Call{Data: data}
	start.Done = func(c *endpoint.Call) {
		if c.Err != nil {
			a.done <- c.Err
			return
		}
		c.Response.Release()
		for i := range a.calls {
			q := &a.calls[i]
			q.Data, q.Context, q.Done = data, q, a.answered
			q.sent = time.Now()
			if err := peer.Go(&q.Call); err != nil {
				a.done <- err
				return
			}
		}
	}
	if err := peer.Go(start); err != nil {
		return Result{}, err
	}
	select {
	case err := <-a.done:
		return a.meter.result(s, l), err
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// answered is called for every answer.
func (a *asker) answered(c *endpoint.Call) {
	q := c.Context.(*question)
	if c.Err != nil {
		a.done <- c.Err
		return
	}
	c.Response.Release()
	now, goOn := a.meter.done(q.sent)
	if goOn {
		q.sent = now
		if err := a.peer.Go(c); err != nil {
			a.done <- err
		}
		return
	}
	if a.left--; a.left == 0 {
		a.done <- nil
	}
}

// notAsked is for servers of the kernel's kinds.
func notAsked() (time.Duration, error) { return 0, nil }

// peerCPU asks the server how much processor time it has used.
func peerCPU(ctx context.Context, peer *endpoint.Peer) (time.Duration, error) {
	m, err := peer.Call(ctx, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the server's processor time: %w", err)
	}
	defer m.Release()
	if len(m.Data) != 8 {
		return 0, fmt.Errorf("the server does not tell its processor time: is it of another version?")
	}
	return time.Duration(binary.LittleEndian.Uint64(m.Data)), nil
}

// idle does nothing and measures what that costs: this side, and the other, if
// there is a way to ask it for its processor time. The last question is among it.
func idle(ctx context.Context, l Load, peerCPU func() (time.Duration, error)) (Result, error) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	wait(l.Warmup)
	theirs, err := peerCPU()
	if err != nil {
		return Result{}, err
	}
	ours, start := cpuTime(), time.Now()
	wait(l.Runtime)
	elapsed := time.Since(start)
	ours = cpuTime() - ours
	now, err := peerCPU()
	if err != nil {
		return Result{}, err
	}
	return Result{Elapsed: elapsed, CPU: ours.Seconds() / elapsed.Seconds(), PeerCPU: (now - theirs).Seconds() / elapsed.Seconds()}, ctx.Err()
}

// pool is memory for messages, used again. A node would use its arena.
type pool struct {
	mu   sync.Mutex
	free map[int][]*pooled // by length
}

type pooled struct {
	pool *pool
	b    []byte
}

func newPool() *pool { return &pool{free: map[int][]*pooled{}} }

func (p *pool) alloc(n int) wire.Buffer {
	size := (n + 4095) &^ 4095
	p.mu.Lock()
	defer p.mu.Unlock()
	if free := p.free[size]; len(free) > 0 {
		p.free[size] = free[:len(free)-1]
		return free[len(free)-1]
	}
	return &pooled{p, make([]byte, size)}
}

func (b *pooled) Bytes() []byte { return b.b }

func (b *pooled) Release() {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	b.pool.free[len(b.b)] = append(b.pool.free[len(b.b)], b)
}
