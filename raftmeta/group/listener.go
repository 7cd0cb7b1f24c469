package group

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"blockd.dev/raftmeta/pki"
)

// The protocols of a node's control port, chosen by ALPN (RFC 7301). The API
// may be spoken without a certificate, by a node that wants to join; what it
// then may do is for the API to say.
const (
	protoRaft   = "blockd-raft/1"   // the Raft library's own, between nodes
	protoMember = "blockd-member/1" // requests of this package, between nodes
)

var protoAPI = []string{"h2", "http/1.1"}

const (
	handshakeTimeout = 5 * time.Second
	handshakesMax    = 256 // at a time; more wait in the kernel's backlog
)

// Listener is a node's one control port: members of the group and clients of
// the API come in here. A Group is attached to it while it is open; before and
// after, only the API is answered.
type Listener struct {
	inner net.Listener
	creds *pki.Credentials // nil: plain, for the API alone
	tls   *tls.Config
	api   chan net.Conn

	ctx   context.Context // ends with Close
	close context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex
	group *Group
	conns map[net.Conn]struct{} // of members
}

// NewListener splits inner, which it owns from now on. creds nil is for a node
// that is in no cluster yet: it speaks plain HTTP, so inner must be on the loopback.
func NewListener(inner net.Listener, creds *pki.Credentials) (*Listener, error) {
	l := &Listener{inner: inner, creds: creds, api: make(chan net.Conn), conns: make(map[net.Conn]struct{})}
	if creds != nil {
		l.tls = creds.ServerConfig(append([]string{protoRaft, protoMember}, protoAPI...), protoAPI)
	} else if tcp, ok := inner.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		inner.Close()
		return nil, fmt.Errorf("the control port would be open to the network at %s without certificates; make a cluster first (blockctl cluster init), or listen on 127.0.0.1", tcp)
	}
	l.ctx, l.close = context.WithCancel(context.Background())
	l.wg.Go(l.accept)
	return l, nil
}

// Addr is the address that it listens on.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Close closes the port and every connection of members, and waits for its
// goroutines. Connections that the API has accepted stay with it.
func (l *Listener) Close() error {
	l.close()
	err := l.inner.Close()
	l.hangUp()
	l.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// API returns the connections of clients; those that come with TLS are *tls.Conn
// with a finished handshake, see pki.PeerIdentity. Closing it ends its Accept and leaves the port open.
func (l *Listener) API() net.Listener {
	a := &apiListener{l: l}
	a.ctx, a.close = context.WithCancel(l.ctx)
	return a
}

type apiListener struct {
	l     *Listener
	ctx   context.Context
	close context.CancelFunc
}

func (a *apiListener) Accept() (net.Conn, error) {
	select {
	case c := <-a.l.api:
		return c, nil
	case <-a.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (a *apiListener) Addr() net.Addr { return a.l.inner.Addr() }

func (a *apiListener) Close() error {
	a.close()
	return nil
}

func (l *Listener) accept() {
	slots := make(chan struct{}, handshakesMax)
	for {
		c, err := l.inner.Accept()
		if err != nil {
			if l.ctx.Err() != nil {
				return
			}
			select { // out of descriptors, most likely: they come back
			case <-time.After(50 * time.Millisecond):
			case <-l.ctx.Done():
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			c.Close()
			return
		}
		l.wg.Go(func() {
			free := sync.OnceFunc(func() { <-slots })
			defer free()
			l.welcome(c, free)
		})
	}
}

// welcome finds out who comes, and hands the connection on. established frees
// the slot for handshakes.
func (l *Listener) welcome(c net.Conn, established func()) {
	if l.tls == nil {
		l.toAPI(c)
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	t := tls.Server(c, l.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return
	}
	state := t.ConnectionState()
	if state.NegotiatedProtocol != protoRaft && state.NegotiatedProtocol != protoMember {
		l.toAPI(t)
		return
	}
	peer, _ := pki.PeerIdentity(&state) // ServerConfig lets only nodes get here
	m, g := l.track(t)
	if g == nil {
		_ = t.Close() // no group yet, or no more: the other side tries again
		return
	}
	if err := acceptHello(m, g, peer.Node); err != nil {
		_ = m.Close()
		return
	}
	established()
	if state.NegotiatedProtocol == protoRaft {
		g.stream.deliver(&watchedConn{m, func() { g.hungUp(peer.Node) }})
		return
	}
	defer func() { _ = m.Close() }()
	g.serve(m, peer.Node)
}

func (l *Listener) toAPI(c net.Conn) {
	select {
	case l.api <- c:
	case <-time.After(handshakeTimeout): // nobody accepts
		c.Close()
	case <-l.ctx.Done():
		c.Close()
	}
}

// attach lets members in to g.
func (l *Listener) attach(g *Group) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.group != nil {
		return errors.New("another group is open on this listener")
	}
	l.group = g
	return nil
}

// detach closes the connections of members, and takes no more.
func (l *Listener) detach() {
	l.mu.Lock()
	l.group = nil
	l.mu.Unlock()
	l.hangUp()
}

func (l *Listener) hangUp() {
	l.mu.Lock()
	conns := l.conns
	l.conns = make(map[net.Conn]struct{})
	l.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// track makes c one that detach closes. The group is nil when there is none.
func (l *Listener) track(c net.Conn) (*memberConn, *Group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.group == nil || l.ctx.Err() != nil {
		return nil, nil
	}
	l.conns[c] = struct{}{}
	return &memberConn{c, l}, l.group
}

// memberConn is a connection that the Listener forgets when it is closed.
type memberConn struct {
	net.Conn
	l *Listener
}

// Close closes the connection.
func (m *memberConn) Close() error {
	m.l.mu.Lock()
	delete(m.l.conns, m.Conn)
	m.l.mu.Unlock()
	return m.Conn.Close()
}
