package netbench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"blockd.dev/replication/wire/secure/securetest"
)

const bufferBytes = 256 << 10 // of a TCP connection's reader

func (s *Shape) tlsConfig(id string) *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{securetest.New("blockbench", s.Key).Node(id).Certificate},
		MinVersion:   tls.VersionTLS13,
		// What is measured is what sealing costs. Who is at the other end is the
		// node wire's business.
		InsecureSkipVerify: true,
	}
}

// serveTCP answers on one port until ctx ends, one connection after the other.
func serveTCP(ctx context.Context, s Shape, ready func(netip.AddrPort)) error {
	ln, err := net.Listen("tcp", s.Local.String())
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	ready(ln.Addr().(*net.TCPAddr).AddrPort())
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		err = answerTCP(conn, s)
		stop()
		conn.Close()
		// A client that is done closes, with answers still on their way.
		if ctx.Err() == nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			return err
		}
	}
}

// sizes is what a server begins a connection with: a stream does not show where
// requests end, so ends with other sizes would wait for each other for ever.
func (s *Shape) sizes() []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(s.Request)), uint32(s.Reply))
}

// greetPatience is how long a server may take to say its sizes.
const greetPatience = 10 * time.Second

// compareSizes reads the server's sizes, and refuses others than this side's.
func compareSizes(conn net.Conn, s Shape) error {
	theirs := make([]byte, len(s.sizes()))
	if err := conn.SetReadDeadline(time.Now().Add(greetPatience)); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, theirs); err != nil {
		return fmt.Errorf("%v does not say the sizes of its requests and replies: %w; is it a blockbench net serve --kind %s of this version?", conn.RemoteAddr(), err, s.Kind)
	}
	if !bytes.Equal(theirs, s.sizes()) {
		return fmt.Errorf("%v takes requests of %d bytes and replies with %d, this side has %d and %d: give both the same --request and --reply", conn.RemoteAddr(),
			binary.BigEndian.Uint32(theirs), binary.BigEndian.Uint32(theirs[4:]), s.Request, s.Reply)
	}
	return conn.SetReadDeadline(time.Time{})
}

// answerTCP answers all requests that are complete with one write.
func answerTCP(conn net.Conn, s Shape) error {
	if s.Kind == "tls" {
		conn = tls.Server(conn, s.tlsConfig("server"))
	}
	if _, err := conn.Write(s.sizes()); err != nil {
		return err
	}
	r := bufio.NewReaderSize(conn, max(bufferBytes, s.Request))
	var replies []byte
	for {
		n := 0
		for n == 0 || r.Buffered() >= s.Request {
			if _, err := r.Discard(s.Request); err != nil {
				return err
			}
			n++
		}
		for len(replies) < n*s.Reply {
			replies = append(replies, make([]byte, s.Reply)...)
		}
		if _, err := conn.Write(replies[:n*s.Reply]); err != nil {
			return err
		}
	}
}

func runTCP(ctx context.Context, s Shape, l Load) (Result, error) {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Local.Addr(), 0))}
	conn, err := dialer.DialContext(ctx, "tcp", l.Peer.String())
	if err != nil {
		return Result{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if s.Kind == "tls" {
		conn = tls.Client(conn, s.tlsConfig("client"))
	}
	if err := compareSizes(conn, s); err != nil {
		return Result{}, err
	}
	if l.Idle {
		return idle(ctx, l, notAsked)
	}
	var (
		r        = bufio.NewReaderSize(conn, max(bufferBytes, s.Reply))
		requests = bytes.Repeat([]byte{1}, s.Request*min(l.Depth, max(1, 1<<20/s.Request)))
		sent     = make([]time.Time, 0, l.Depth) // of those in flight, in order
		m        = newMeter(l)
	)
	write := func(n int) error {
		for n > 0 {
			k := min(n, len(requests)/s.Request)
			if _, err := conn.Write(requests[:k*s.Request]); err != nil {
				return err
			}
			n -= k
		}
		return nil
	}
	now := time.Now()
	for range l.Depth {
		sent = append(sent, now)
	}
	if err := write(l.Depth); err != nil {
		return Result{}, err
	}
	for goOn := true; goOn; {
		n := 0
		for n == 0 || r.Buffered() >= s.Reply && n < l.Depth {
			if _, err := r.Discard(s.Reply); err != nil {
				return Result{}, err
			}
			now, goOn = m.done(sent[n])
			n++
		}
		copy(sent, sent[n:])
		for i := range n {
			sent[l.Depth-n+i] = now
		}
		if err := write(n); err != nil {
			return Result{}, err
		}
	}
	return m.result(s, l), nil
}

// serveUDP answers single datagrams until ctx ends.
func serveUDP(ctx context.Context, s Shape, ready func(netip.AddrPort)) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.Local))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	ready(conn.LocalAddr().(*net.UDPAddr).AddrPort())
	request, reply := make([]byte, s.Request), make([]byte, s.Reply)
	for {
		_, from, err := conn.ReadFromUDPAddrPort(request)
		if err == nil {
			_, err = conn.WriteToUDPAddrPort(reply, from)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// runUDP asks by single datagrams, one at a time. What is lost ends it.
func runUDP(ctx context.Context, s Shape, l Load) (Result, error) {
	if l.Depth != 1 {
		return Result{}, fmt.Errorf("kind udp-bare has one request in flight, not %d: nothing would notice loss", l.Depth)
	}
	local := net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.Local.Addr(), 0))
	conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(l.Peer))
	if err != nil {
		return Result{}, err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(l.Warmup + l.Runtime + 5*time.Second)); err != nil {
		return Result{}, err
	}
	if l.Idle {
		return idle(ctx, l, notAsked)
	}
	request, reply := make([]byte, s.Request), make([]byte, s.Reply)
	m := newMeter(l)
	for now, goOn := time.Now(), true; goOn && ctx.Err() == nil; {
		if _, err := conn.Write(request); err != nil {
			return Result{}, err
		}
		if _, err := conn.Read(reply); err != nil {
			return Result{}, err
		}
		now, goOn = m.done(now)
	}
	return m.result(s, l), ctx.Err()
}

// Serve answers until ctx ends; ready is told the address. peers may send to
// an xdp Link.
func Serve(ctx context.Context, s Shape, peers []netip.Addr, ready func(netip.AddrPort)) error {
	if err := s.Validate(); err != nil {
		return err
	}
	switch {
	case s.isNode():
		return serveNode(ctx, s, peers, ready)
	case s.Kind == "udp-bare":
		return serveUDP(ctx, s, ready)
	}
	return serveTCP(ctx, s, ready)
}

// Run asks a server of the same Shape.
func Run(ctx context.Context, s Shape, l Load) (Result, error) {
	if err := s.Validate(); err != nil {
		return Result{}, err
	}
	if l.Depth < 1 || l.Depth > 1024 {
		return Result{}, fmt.Errorf("%d requests in flight: give 1 to 1024", l.Depth)
	}
	switch {
	case s.isNode():
		return runNode(ctx, s, l)
	case s.Kind == "udp-bare":
		return runUDP(ctx, s, l)
	}
	return runTCP(ctx, s, l)
}
