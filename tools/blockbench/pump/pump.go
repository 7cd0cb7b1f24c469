package pump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Shape is what goes over the wire for one request, in bytes.
type Shape struct {
	Request int // to the server, headers and data
	Reply   int // back
	Depth   int // requests in flight on each connection
}

func (s Shape) validate() error {
	if s.Request < 1 || s.Reply < 1 || s.Request > 1<<24 || s.Reply > 1<<24 || s.Depth < 1 || s.Depth > 4096 {
		return fmt.Errorf("pump: %+v: give sizes of 1 byte to 16 MiB and a depth of 1 to 4096", s)
	}
	return nil
}

// Result is what a client measured.
type Result struct {
	Ops     int64         `json:"ops"`
	Elapsed time.Duration `json:"elapsed_ns"`
	IOPS    float64       `json:"iops"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
}

// peer is one connection's side: it takes units of in bytes and answers each
// with out bytes.
type peer struct {
	in, out int
	partial int // bytes of the unit that is arriving
}

// took counts n bytes that arrived and returns how many units they complete.
func (p *peer) took(n int) int {
	p.partial += n
	units := p.partial / p.in
	p.partial %= p.in
	return units
}

// buffers are a side's memory: what arrives goes to one place, what is sent
// comes from another.
func (p *peer) buffers() (in, out []byte) {
	return make([]byte, max(p.in, 256<<10)), make([]byte, p.out)
}

// Serve answers on connections that ln accepts until ctx is done.
func Serve(ctx context.Context, ln net.Listener, s Shape, spin bool) error {
	if err := s.validate(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	fresh := make(chan *net.TCPConn, 64)
	if spin {
		wg.Go(func() { serveSpinning(ctx, fresh, s) })
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		tcp := c.(*net.TCPConn)
		_ = tcp.SetNoDelay(true)
		if spin {
			fresh <- tcp
			continue
		}
		wg.Go(func() { serveBlocking(ctx, tcp, s) })
	}
}

func serveBlocking(ctx context.Context, c *net.TCPConn, s Shape) {
	defer func() { _ = c.Close() }() // the peer may have
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	p := peer{in: s.Request, out: s.Reply}
	in, out := p.buffers()
	var list net.Buffers
	for {
		n, err := c.Read(in)
		if err != nil {
			return
		}
		list = list[:0]
		for range p.took(n) {
			list = append(list, out)
		}
		send := list // WriteTo consumes it
		if _, err := send.WriteTo(c); err != nil {
			return
		}
	}
}

// socket is a connection of a spinning side.
type socket struct {
	peer
	conn *net.TCPConn
	raw  syscall.RawConn
	tx   sender
	in   []byte
	gone bool

	n       int
	errno   syscall.Errno
	readFn  func(fd uintptr) bool
	writeFn func(fd uintptr) bool
}

func newSocket(c *net.TCPConn, p peer) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{peer: p, conn: c, raw: raw}
	s.in, s.tx.unit = p.buffers()
	s.readFn = func(fd uintptr) bool {
		s.n, s.errno = readOnce(fd, s.in)
		return true
	}
	s.writeFn = func(fd uintptr) bool {
		s.errno = s.tx.send(fd)
		return true
	}
	return s, nil
}

// poll reads once and returns how many units arrived.
func (s *socket) poll() int {
	err := s.raw.Read(s.readFn)
	switch {
	case err != nil || s.errno != 0 && s.errno != syscall.EAGAIN && s.errno != syscall.EINTR, s.errno == 0 && s.n == 0:
		s.gone = true
		return 0
	case s.errno != 0:
		return 0
	}
	return s.took(s.n)
}

// push sends units more, and what is left of those before, as far as the
// socket takes it.
func (s *socket) push(units int) {
	s.tx.owed += units
	if s.tx.owed == 0 {
		return
	}
	if err := s.raw.Write(s.writeFn); err != nil || s.errno != 0 && s.errno != syscall.EAGAIN && s.errno != syscall.EINTR {
		s.gone = true
	}
}

func serveSpinning(ctx context.Context, fresh <-chan *net.TCPConn, s Shape) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all []*socket
	defer func() {
		for _, k := range all {
			_ = k.conn.Close()
		}
	}()
	for turn := 0; ; turn++ {
		if turn%1024 == 0 || len(all) == 0 {
			select {
			case c := <-fresh:
				if k, err := newSocket(c, peer{in: s.Request, out: s.Reply}); err == nil {
					all = append(all, k)
				}
			case <-ctx.Done():
				return
			default:
				runtime.Gosched()
			}
		}
		for i, k := range all {
			k.push(k.poll())
			if k.gone {
				_ = k.conn.Close()
				all = append(all[:i:i], all[i+1:]...)
				break
			}
		}
	}
}

// Run measures a server for d after a short warm-up, over so many connections.
func Run(ctx context.Context, addr string, s Shape, connections int, d time.Duration, spin bool) (Result, error) {
	if err := s.validate(); err != nil {
		return Result{}, err
	}
	var conns []*net.TCPConn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range connections {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return Result{}, err
		}
		tcp := c.(*net.TCPConn)
		_ = tcp.SetNoDelay(true)
		conns = append(conns, tcp)
	}
	warm := time.Now().Add(d / 10)
	end := warm.Add(d)
	clients := make([]*client, connections)
	for i := range clients {
		clients[i] = newClient(s, warm)
	}
	var err error
	if spin {
		err = runSpinning(ctx, conns, clients, s, end)
	} else {
		err = runBlocking(conns, clients, s, end)
	}
	if err != nil {
		return Result{}, err
	}
	hist := newHistogram()
	for _, c := range clients {
		hist.Merge(c.hist)
	}
	return Result{Ops: hist.TotalCount(), Elapsed: d, IOPS: float64(hist.TotalCount()) / d.Seconds(),
		P50: time.Duration(hist.ValueAtQuantile(50)), P99: time.Duration(hist.ValueAtQuantile(99))}, nil
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(100, int64(time.Minute), 3) }

// client measures one connection: replies come in the order of the requests.
type client struct {
	sent []time.Time // a ring of the requests in flight
	head int
	warm time.Time
	hist *hdrhistogram.Histogram
}

func newClient(s Shape, warm time.Time) *client {
	c := &client{sent: make([]time.Time, s.Depth), warm: warm, hist: newHistogram()}
	now := time.Now()
	for i := range c.sent {
		c.sent[i] = now
	}
	return c
}

// replied takes note of n replies, for each of which a request goes out now.
func (c *client) replied(n int, now time.Time) {
	for range n {
		if at := c.sent[c.head]; at.After(c.warm) {
			_ = c.hist.RecordValue(min(int64(now.Sub(at)), int64(time.Minute))) // in its range
		}
		c.sent[c.head] = now
		c.head = (c.head + 1) % len(c.sent)
	}
}

func runBlocking(conns []*net.TCPConn, clients []*client, s Shape, end time.Time) error {
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { errs[i] = clientBlocking(c, clients[i], s, end) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func clientBlocking(c *net.TCPConn, m *client, s Shape, end time.Time) error {
	_ = c.SetReadDeadline(end.Add(10 * time.Second))
	p := peer{in: s.Reply, out: s.Request}
	in, out := p.buffers()
	var list net.Buffers
	for units := s.Depth; ; {
		list = list[:0]
		for range units {
			list = append(list, out)
		}
		send := list
		if _, err := send.WriteTo(c); err != nil {
			return err
		}
		n, err := c.Read(in)
		if err != nil {
			return err
		}
		now := time.Now()
		units = p.took(n)
		m.replied(units, now)
		if now.After(end) {
			return nil
		}
	}
}

func runSpinning(ctx context.Context, conns []*net.TCPConn, clients []*client, s Shape, end time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := make([]*socket, len(conns))
	for i, c := range conns {
		var err error
		if all[i], err = newSocket(c, peer{in: s.Reply, out: s.Request}); err != nil {
			return err
		}
		all[i].push(s.Depth)
	}
	for ctx.Err() == nil {
		now := time.Now()
		if now.After(end) {
			return nil
		}
		for i, k := range all {
			n := k.poll()
			if n > 0 {
				clients[i].replied(n, time.Now())
			}
			k.push(n)
			if k.gone {
				return fmt.Errorf("pump: %w", io.ErrUnexpectedEOF)
			}
		}
	}
	return ctx.Err()
}
