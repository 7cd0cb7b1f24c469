package control

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"golang.org/x/sys/unix"

	"blockd.dev/raftmeta/pki"
)

// Caller is who asks.
type Caller struct {
	// Actor is who it is, for the audit log: local:UID, a certificate's name,
	// node:ID, or the address when that is all there is.
	Actor  string
	Source string   // the address that it comes from, or "local"
	Role   pki.Role // RoleNone for nodes, and for who showed nothing
	Node   string   // id of the node that asks, or ""
	Serial string   // of that node's certificate, in hexadecimal
	Local  bool     // it came through the socket in the data directory
	proven bool     // Actor is from the kernel or a certificate
}

// ActorHeader carries who a client says it acts for. It is for the audit log
// and proves nothing, so what does prove something wins over it.
const ActorHeader = "Blockd-Actor"

// actorMax bounds what a client says in ActorHeader, in bytes.
const actorMax = 128

// Says returns the caller with the name that the request's header gives it, if
// nothing better is known.
func (c Caller) Says(h http.Header) Caller {
	who := h.Get(ActorHeader)
	if who == "" || c.proven {
		return c
	}
	c.Actor = fmt.Sprintf("%s (%s)", who[:min(len(who), actorMax)], c.Actor)
	return c
}

type callerKey struct{}

// ConnContext is for http.Server.ConnContext: it notes who is at the other end
// of c. TLS connections have their handshake behind them.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, callerKey{}, callerOf(c))
}

// From returns who asks, by the context of a request. Without one it is nobody.
func From(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

func callerOf(c net.Conn) Caller {
	switch c := c.(type) {
	case *net.UnixConn:
		return socketCaller(c)
	case *tls.Conn:
		state := c.ConnectionState()
		source := c.RemoteAddr().String()
		switch id, ok := pki.PeerIdentity(&state); {
		case !ok:
			return Caller{Actor: source, Source: source}
		case id.IsNode():
			return Caller{Actor: "node:" + id.Node, Source: source, Node: id.Node, Serial: pki.Serial(state.PeerCertificates[0]), proven: true}
		default:
			return Caller{Actor: id.Name, Source: source, Role: id.Role, proven: true}
		}
	case *net.TCPConn:
		if a, ok := c.LocalAddr().(*net.TCPAddr); ok && a.IP.IsLoopback() {
			source := c.RemoteAddr().String()
			return Caller{Actor: source, Source: source, Role: pki.RoleAdmin}
		}
	}
	return Caller{}
}

// socketCaller asks the kernel which user has opened the socket (unix(7),
// SO_PEERCRED).
func socketCaller(c *net.UnixConn) Caller {
	out := Caller{Actor: "local", Source: "local", Role: pki.RoleAdmin, Local: true, proven: true}
	raw, err := c.SyscallConn()
	if err != nil {
		return Caller{} // it is closed already
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			out.Actor = fmt.Sprintf("local:%d", cred.Uid)
		}
	})
	return out
}
