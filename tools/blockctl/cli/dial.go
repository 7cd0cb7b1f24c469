package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// dialTimeout is how long one address may take to be connected to.
const dialTimeout = 5 * time.Second

// defaultPort is that of the control API.
const defaultPort = "7480"

// link is the way to the nodes that may answer. It is not safe for concurrent use.
type link struct {
	targets []target
	bundle  *bundle // nil: no certificate
	named   bool    // the user has named the bundle, rather than it lying in its usual place
	first   int     // which target is tried first: the one that answered last
}

// target is where a node listens.
type target struct {
	network string // tcp or unix
	address string
}

// String returns t as --api takes it.
func (t target) String() string {
	if t.network == "unix" {
		return "unix:" + t.address
	}
	return t.address
}

func parseTarget(s string) (target, error) {
	s = strings.TrimSpace(s)
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if path == "" {
			return target{}, usageError{fmt.Errorf("--api %s: want the path of a socket, such as unix:data/control.sock", s)}
		}
		return target{"unix", path}, nil
	}
	for _, scheme := range []string{"http://", "https://"} {
		s = strings.TrimPrefix(s, scheme)
	}
	s = strings.TrimSuffix(s, "/")
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), defaultPort
	}
	if host == "" || strings.ContainsAny(host, "/ ") {
		return target{}, usageError{fmt.Errorf("--api %q: want HOST:PORT or unix:PATH", s)}
	}
	return target{"tcp", net.JoinHostPort(host, port)}, nil
}

// link returns the way to the nodes, by the flags, the environment and the
// certificate's file. What the file lacks is an error only when it is needed.
func (a *app) link() (*link, error) {
	if a.way != nil {
		return a.way, nil
	}
	l := &link{named: a.cert != ""}
	remote := len(a.api) == 0
	for _, s := range a.api {
		t, err := parseTarget(s)
		if err != nil {
			return nil, err
		}
		l.targets, remote = append(l.targets, t), remote || t.network == "tcp"
	}
	if remote {
		var err error
		if l.bundle, err = findBundle(a.cert); err != nil {
			return nil, err
		}
	}
	if len(l.targets) == 0 && l.bundle != nil {
		for _, s := range l.bundle.addresses {
			l.targets = append(l.targets, target{"tcp", s})
		}
	}
	if len(l.targets) == 0 {
		l.targets = []target{{"tcp", defaultAPI}}
	}
	a.way = l
	return l, nil
}

// dial connects to the first target that lets it. What it returns speaks
// HTTP/1.1, within TLS when there is a certificate.
func (l *link) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	away := &unreachable{}
	for i := range l.targets {
		n := (l.first + i) % len(l.targets)
		conn, err := l.dialOne(ctx, l.targets[n])
		if err == nil {
			l.first = n
			return conn, nil
		}
		away.tries = append(away.tries, try{l.targets[n].String(), err})
		if ctx.Err() != nil {
			break
		}
	}
	return nil, away
}

func (l *link) dialOne(ctx context.Context, t target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if t.network == "unix" {
		return dialSocket(ctx, t.address)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", t.address)
	if err != nil || l.bundle == nil {
		return conn, err
	}
	if err := l.bundle.check(time.Now()); err != nil {
		conn.Close()
		return nil, err
	}
	secure := tls.Client(conn, l.bundle.creds.ClientConfig("", "http/1.1"))
	err = secure.HandshakeContext(ctx)
	if err == nil {
		return secure, nil
	}
	conn.Close()
	// A node on this machine that is of no cluster speaks no TLS; somebody who has a
	// certificate for another cluster still wants to talk to it.
	if errors.As(err, new(tls.RecordHeaderError)) && !l.named && onLoopback(conn) {
		return new(net.Dialer).DialContext(ctx, "tcp", t.address)
	}
	return nil, err
}

func onLoopback(c net.Conn) bool {
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// dialSocket connects to a socket, or to control.sock in a folder. The path of
// a socket has at most 107 bytes (unix(7)); by way of its folder's descriptor it
// always fits.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, "control.sock")
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
}

// http returns a client that goes by l, whatever the host of a URL says.
func (l *link) http() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: l.dial, DisableKeepAlives: true}}
}

// baseURL is that of every node; link decides which one it is.
const baseURL = "http://blockd"

// WrapUnary implements connect.Interceptor: a node that can't answer now, for
// want of a leader or because it is starting, is not the last to be asked. Doing a call
// again is harmless, see request_id.
func (l *link) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		for i := 1; ; i++ {
			res, err := next(ctx, req)
			if i == len(l.targets) || connect.CodeOf(err) != connect.CodeUnavailable || errors.As(err, new(*unreachable)) || ctx.Err() != nil {
				return res, err
			}
			l.first = (l.first + 1) % len(l.targets)
		}
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (l *link) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor; there are no handlers here.
func (l *link) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// clients are the services of the nodes.
type clients struct {
	volume     blockdv1connect.VolumeServiceClient
	pool       blockdv1connect.PoolServiceClient
	host       blockdv1connect.HostServiceClient
	mapping    blockdv1connect.MappingServiceClient
	node       blockdv1connect.NodeServiceClient
	event      blockdv1connect.EventServiceClient
	cluster    blockdv1connect.ClusterServiceClient
	membership blockdv1connect.MembershipServiceClient
	job        blockdv1connect.JobServiceClient
	lease      blockdv1connect.LeaseServiceClient
	explain    blockdv1connect.ExplainServiceClient
}

// clients returns the services by the link. An error of the link itself is for ask to find.
func (a *app) clients() clients {
	l, err := a.link()
	if err != nil {
		l = &link{}
	}
	h, with := l.http(), connect.WithInterceptors(l)
	return clients{
		volume:     blockdv1connect.NewVolumeServiceClient(h, baseURL, with),
		pool:       blockdv1connect.NewPoolServiceClient(h, baseURL, with),
		host:       blockdv1connect.NewHostServiceClient(h, baseURL, with),
		mapping:    blockdv1connect.NewMappingServiceClient(h, baseURL, with),
		node:       blockdv1connect.NewNodeServiceClient(h, baseURL, with),
		event:      blockdv1connect.NewEventServiceClient(h, baseURL, with),
		cluster:    blockdv1connect.NewClusterServiceClient(h, baseURL, with),
		membership: blockdv1connect.NewMembershipServiceClient(h, baseURL, with),
		job:        blockdv1connect.NewJobServiceClient(h, baseURL, with),
		lease:      blockdv1connect.NewLeaseServiceClient(h, baseURL, with),
		explain:    blockdv1connect.NewExplainServiceClient(h, baseURL, with),
	}
}
