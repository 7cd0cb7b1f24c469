package group

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// raftAddress is what the Raft library calls an address: ID@HOST:PORT. With the
// id in it, no connection can end at another member that has taken over the
// address, and answer, or vote, in its place.
func raftAddress(id, address string) raft.ServerAddress {
	return raft.ServerAddress(id + "@" + address)
}

func splitRaftAddress(a raft.ServerAddress) (id, address string) {
	id, address, _ = strings.Cut(string(a), "@")
	return id, address
}

// The first bytes of a connection between members, from who made it, and the answer:
//
//	| 4 magic | 4 incarnation | 1 length | id of who should answer |
//	| 1 code | 2 length | text of the refusal |
//
// Numbers are big-endian. Who each is has been proven by TLS.
const helloMagic = "BDG1"

func sayHello(c net.Conn, incarnation uint32, to string) error {
	b := binary.BigEndian.AppendUint32([]byte(helloMagic), incarnation)
	b = append(append(b, byte(len(to))), to...)
	if _, err := c.Write(b); err != nil {
		return err
	}
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		// An alert comes after the handshake when it is about the client's
		// certificate (RFC 8446, section 4.4.3).
		if alert := new(net.OpError); errors.As(err, &alert) && alert.Op == "remote error" {
			return fmt.Errorf("node %s refuses this node's certificate; compare the clocks of both: %w", to, err)
		}
		return fmt.Errorf("node %s has hung up; its blockd may just be starting: %w", to, err)
	}
	text := make([]byte, binary.BigEndian.Uint16(head[1:]))
	if _, err := io.ReadFull(c, text); err != nil {
		return err
	}
	return code(head[0]).err(to, string(text))
}

// acceptHello answers a hello. It returns an error when it refused.
func acceptHello(c net.Conn, g *Group, from string) error {
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	var head [9]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return err
	}
	to := make([]byte, head[8])
	if _, err := io.ReadFull(c, to); err != nil {
		return err
	}
	refusal := g.refuse(from, string(to), string(head[:4]), binary.BigEndian.Uint32(head[4:]))
	text := ""
	if refusal != nil {
		text = refusal.Error()
	}
	b := binary.BigEndian.AppendUint16([]byte{byte(codeOf(refusal))}, uint16(len(text)))
	if _, err := c.Write(append(b, text...)); err != nil {
		return err
	}
	if refusal != nil {
		return refusal
	}
	return c.SetDeadline(time.Time{})
}

// refuse says why this member won't talk to another node, if so.
func (g *Group) refuse(from, to, magic string, incarnation uint32) error {
	switch {
	case magic != helloMagic:
		return fmt.Errorf("%w: node %s speaks another protocol", ErrRefused, from)
	case to != g.cfg.NodeID:
		return fmt.Errorf("%w: this is node %s, not %s; check the address", ErrRefused, g.cfg.NodeID, to)
	case incarnation > g.id.Incarnation:
		return fmt.Errorf("%w: node %s is of incarnation %d, and node %s is left over from %d; wipe its data folder", ErrRefused, from, incarnation, to, g.id.Incarnation)
	case incarnation < g.id.Incarnation:
		return fmt.Errorf("%w: node %s is of incarnation %d, and this is %d", ErrIncarnation, from, incarnation, g.id.Incarnation)
	case g.machine.removed(from):
		return fmt.Errorf("%w: node %s", ErrRemoved, from)
	}
	return nil
}

// dial connects to a member, proves who it is, and says hello.
func (g *Group) dial(ctx context.Context, proto, id, address string) (net.Conn, error) {
	if !g.cfg.secure() {
		return nil, errors.New("this node has no certificates, and talks to no other; make a cluster first (blockctl cluster init)")
	}
	c, err := g.cfg.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if proto == protoMember {
		dropUnsent(c)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	t := tls.Client(c, g.cfg.Listener.creds.ClientConfig(id, proto))
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("node %s at %s: %w", id, address, err)
	}
	deadline, _ := ctx.Deadline()
	err = t.SetDeadline(deadline)
	if err == nil {
		err = sayHello(t, g.id.Incarnation, id)
	}
	if err == nil {
		err = t.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

// dropUnsent has the kernel forget what it has not delivered when a connection is
// closed, also by the end of the process. Else a command whose sender gave up in a
// partition would arrive when that is over, and take effect long after the
// client was told by another node that it was refused.
func dropUnsent(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // without it, it only comes late
	}
}

// stream is the raft.StreamLayer: connections that the Listener delivers, and dial.
type stream struct {
	g        *Group
	addr     raft.ServerAddress
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func newStream(g *Group) *stream {
	return &stream{g: g, addr: raftAddress(g.cfg.NodeID, g.cfg.Address), accepted: make(chan net.Conn), closed: make(chan struct{})}
}

func (s *stream) deliver(c net.Conn) {
	select {
	case s.accepted <- c:
	case <-s.closed:
		c.Close()
	}
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.accepted:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (s *stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr implements net.Listener; it is the address that others use.
func (s *stream) Addr() net.Addr { return streamAddr(s.addr) }

type streamAddr string

func (a streamAddr) Network() string { return "tcp" }
func (a streamAddr) String() string  { return string(a) }

// Dial implements raft.StreamLayer.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.g.ctx, timeout)
	defer cancel()
	id, hostport := splitRaftAddress(address)
	return s.g.dial(ctx, protoRaft, id, hostport)
}
