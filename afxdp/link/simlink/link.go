package simlink

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/clock"
)

// Real is a Network in real time, for use by many goroutines.
type Real struct {
	mu struct {
		sync.Mutex
		net   *Network
		links map[netip.AddrPort]*Link
	}
	start time.Time
}

// NewReal returns a network that starts now.
func NewReal(seed uint64) *Real {
	r := &Real{start: time.Now()}
	r.mu.net = New(seed)
	r.mu.links = map[netip.AddrPort]*Link{}
	return r
}

// Change calls f with the network, for which nothing else happens meanwhile.
func (r *Real) Change(f func(n *Network)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r.mu.net)
}

func (r *Real) now() clock.Mono { return clock.Mono(time.Since(r.start)) + 1 }

// Link is one address of a Real network. It implements link.Link.
type Link struct {
	net      *Real
	addr     netip.AddrPort
	datagram atomic.Int64
	wake     chan struct{} // room for one

	mu struct {
		sync.Mutex
		closed bool
		tx     [][]byte // buffers to lend
		lent   int      // by Reserve
		held   int      // by the caller of Recv
		stats  link.Stats
	}
}

// Limits of a Link, small enough for tests to reach.
const (
	txRing    = 256
	rxHoldMax = 256
)

// Link adds addr to the network. datagramMax is in bytes.
func (r *Real) Link(addr netip.AddrPort, datagramMax int) *Link {
	l := &Link{net: r, addr: addr, wake: make(chan struct{}, 1)}
	l.datagram.Store(int64(datagramMax))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.net.Add(addr)
	r.mu.links[addr] = l
	return l
}

var _ link.Link = (*Link)(nil)

// Kind returns link.Sim.
func (l *Link) Kind() link.Kind { return link.Sim }

// LocalAddr is the address that was added.
func (l *Link) LocalAddr() netip.AddrPort { return l.addr }

// MaxDatagram is in bytes; SetMaxDatagram changes it.
func (l *Link) MaxDatagram() int { return int(l.datagram.Load()) }

// SetMaxDatagram changes the interface's limit, in bytes.
func (l *Link) SetMaxDatagram(n int) { l.datagram.Store(int64(n)) }

// Reserve lends buffers.
func (l *Link) Reserve(bufs []link.TxBuf) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(bufs), txRing-l.mu.lent)
	if l.mu.closed {
		n = 0
	}
	if n < len(bufs) {
		l.mu.stats.TxFull++
	}
	size := l.MaxDatagram()
	for i := range n {
		bufs[i] = link.TxBuf{Data: l.bufferLocked(size)}
	}
	l.mu.lent += n
	return n
}

func (l *Link) bufferLocked(size int) []byte {
	for last := len(l.mu.tx) - 1; last >= 0; last-- {
		b := l.mu.tx[last]
		l.mu.tx = l.mu.tx[:last]
		if cap(b) >= size {
			return b
		}
	}
	return make([]byte, 0, size)
}

// Send puts the datagrams on the network.
func (l *Link) Send(bufs []link.TxBuf) error {
	if err := l.take(bufs, true); err != nil {
		return err
	}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	now, limit := l.net.now(), l.MaxDatagram()
	for i := range bufs {
		if len(bufs[i].Data) <= limit {
			l.net.mu.net.Send(now, l.addr, bufs[i].Peer, bufs[i].Data)
		}
		if to := l.net.mu.links[bufs[i].Peer]; to != nil {
			to.Wake()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range bufs {
		l.mu.tx = append(l.mu.tx, bufs[i].Data[:0])
		bufs[i] = link.TxBuf{}
	}
	return nil
}

// take counts buffers back, which are sent or not.
func (l *Link) take(bufs []link.TxBuf, sent bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return fmt.Errorf("%w: %s was closed", link.ErrClosed, l.addr)
	}
	if l.mu.lent -= len(bufs); l.mu.lent < 0 {
		panic("simlink: more buffers came back than Reserve lent")
	}
	for i := range bufs {
		switch {
		case !sent:
		case len(bufs[i].Data) == 0:
			panic("simlink: a datagram of no bytes")
		case len(bufs[i].Data) > l.MaxDatagram():
			l.mu.stats.TxDroppedTooLong++
		default:
			l.mu.stats.TxPackets++
			l.mu.stats.TxBytes += uint64(len(bufs[i].Data))
		}
	}
	return nil
}

// ReleaseTx takes buffers back.
func (l *Link) ReleaseTx(bufs []link.TxBuf) {
	if l.take(bufs, false) != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range bufs {
		l.mu.tx = append(l.mu.tx, bufs[i].Data[:0])
		bufs[i] = link.TxBuf{}
	}
}

// Recv returns what has arrived.
func (l *Link) Recv(bufs []link.RxBuf) (int, error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return 0, fmt.Errorf("%w: %s was closed", link.ErrClosed, l.addr)
	}
	n, now := 0, l.net.now()
	for n < len(bufs) && l.mu.held < rxHoldMax {
		data, from, ok := l.net.mu.net.Receive(now, l.addr)
		if !ok {
			break
		}
		bufs[n] = link.RxBuf{Data: data, Peer: from}
		l.mu.stats.RxPackets++
		l.mu.stats.RxBytes += uint64(len(data))
		l.mu.held++
		n++
	}
	return n, nil
}

// ReleaseRx takes received buffers back.
func (l *Link) ReleaseRx(bufs []link.RxBuf) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.held -= len(bufs); l.mu.held < 0 {
		panic("simlink: more buffers came back than Recv gave")
	}
	for i := range bufs {
		l.net.mu.net.Recycle(bufs[i].Data)
		bufs[i] = link.RxBuf{}
	}
}

// RxHoldMax is 256.
func (l *Link) RxHoldMax() int { return rxHoldMax }

// Wait blocks until a datagram arrives, Wake, or timeout.
func (l *Link) Wait(timeout time.Duration) error {
	arrival, now, err := l.next()
	if err != nil || timeout == 0 || arrival <= now {
		return err
	}
	if arrival != clock.Never {
		if d := arrival.Sub(now); timeout < 0 || d < timeout {
			timeout = d
		}
	}
	var alarm <-chan time.Time // nil: no limit
	if timeout > 0 {
		t := time.NewTimer(timeout)
		defer t.Stop()
		alarm = t.C
	}
	l.mu.Lock()
	l.mu.stats.Waits++
	l.mu.Unlock()
	select {
	case <-l.wake:
	case <-alarm:
	}
	_, _, err = l.next()
	return err
}

func (l *Link) next() (arrival, now clock.Mono, err error) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return 0, 0, fmt.Errorf("%w: %s was closed", link.ErrClosed, l.addr)
	}
	return l.net.mu.net.NextAt(l.addr), l.net.now(), nil
}

// Wake ends a Wait.
func (l *Link) Wake() {
	select {
	case l.wake <- struct{}{}:
	default: // one is enough
	}
}

// Stats returns the counters.
func (l *Link) Stats() link.Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.stats
}

// Close takes the address off the network. A second Close does nothing.
func (l *Link) Close() error {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.mu.closed {
		l.mu.closed = true
		l.net.mu.net.Remove(l.addr)
		delete(l.net.mu.links, l.addr)
		l.Wake()
	}
	return nil
}
