package pump

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
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

// inputLen is how much a side reads at once.
const inputLen = 256 << 10

// Serve answers on connections that ln accepts until ctx is done. With memory,
// in bytes, replies come from random places of that much memory, as a target's
// data does; with 0 each is the same bytes, which the processor has at hand.
// It calls ready when the memory is there.
func Serve(ctx context.Context, ln net.Listener, s Shape, memory int64, spin bool, ready func()) error {
	if err := s.validate(); err != nil {
		return err
	}
	mem, err := newMemory(max(memory, int64(s.Reply)))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(mem) }() // the process ends
	ready()
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	fresh := make(chan *net.TCPConn, 64)
	if spin {
		wg.Go(func() { serveSpinning(ctx, fresh, s, mem) })
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
		wg.Go(func() { serveBlocking(ctx, tcp, s, mem) })
	}
}

func serveBlocking(ctx context.Context, c *net.TCPConn, s Shape, mem []byte) {
	defer func() { _ = c.Close() }() // the peer may have
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	p := peer{in: s.Request, out: s.Reply}
	from := newSource(mem, s.Reply)
	in := make([]byte, inputLen)
	var list net.Buffers
	for {
		n, err := c.Read(in)
		if err != nil {
			return
		}
		list = list[:0]
		for range p.took(n) {
			list = append(list, from.next())
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

func newSocket(c *net.TCPConn, p peer, mem []byte) (*socket, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s := &socket{peer: p, conn: c, raw: raw, in: make([]byte, inputLen), tx: sender{from: newSource(mem, p.out)}}
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
	s.tx.add(units)
	if s.tx.empty() {
		return
	}
	if err := s.raw.Write(s.writeFn); err != nil || s.errno != 0 && s.errno != syscall.EAGAIN && s.errno != syscall.EINTR {
		s.gone = true
	}
}

func serveSpinning(ctx context.Context, fresh <-chan *net.TCPConn, s Shape, mem []byte) {
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
				if k, err := newSocket(c, peer{in: s.Request, out: s.Reply}, mem); err == nil {
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
