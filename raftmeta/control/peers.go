package control

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/raftmeta/pki"
)

// OwnHeader marks a request of another node, which wants to know of this one
// alone: it is not asked around again. Its value is the revision of the
// catalog that the answer must take into account, 0 for any.
const OwnHeader = "Blockd-Own"

type revisionKey struct{}

// AtRevision makes requests to peers wait until they have become what the
// catalog says at revision.
func AtRevision(ctx context.Context, revision uint64) context.Context {
	return context.WithValue(ctx, revisionKey{}, revision)
}

// Own reports whether a request is one of another node about this one alone, and
// the revision that it names.
func Own(req connect.AnyRequest) (revision uint64, own bool) {
	v := req.Header().Get(OwnHeader)
	if v == "" {
		return 0, false
	}
	revision, err := strconv.ParseUint(v, 10, 64)
	return revision, err == nil
}

// Peers asks other nodes, in this one's name. Every connection makes sure that it
// reaches the node that is meant. Safe for concurrent use.
type Peers struct {
	creds *pki.Credentials
	mu    sync.Mutex
	byID  map[string]*Peer
}

// NewPeers returns the peers of a node that has creds.
func NewPeers(creds *pki.Credentials) *Peers {
	return &Peers{creds: creds, byID: map[string]*Peer{}}
}

// Peer is how another node is asked: a client of connect for the base URL.
type Peer struct {
	http.Client
	URL string
}

// peerIdle is how long a connection to a peer is kept that nobody uses.
const peerIdle = time.Minute

// At returns the node with the identifier id, whose control port is at address.
func (p *Peers) At(id, address string) *Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	url := "https://" + address
	if have := p.byID[id]; have != nil && have.URL == url {
		return have
	}
	dial := func(ctx context.Context, network, at string) (net.Conn, error) {
		d := tls.Dialer{Config: p.creds.ClientConfig(id, "http/1.1")}
		return d.DialContext(ctx, network, at)
	}
	peer := &Peer{URL: url, Client: http.Client{Transport: ownOnly{&http.Transport{DialTLSContext: dial, IdleConnTimeout: peerIdle, MaxIdleConnsPerHost: 4}}}}
	if have := p.byID[id]; have != nil {
		have.CloseIdleConnections()
	}
	p.byID[id] = peer
	return peer
}

// Close closes the connections that nobody uses.
func (p *Peers) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, peer := range p.byID {
		peer.CloseIdleConnections()
	}
}

// ownOnly sets OwnHeader.
type ownOnly struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (o ownOnly) RoundTrip(r *http.Request) (*http.Response, error) {
	revision, _ := r.Context().Value(revisionKey{}).(uint64)
	r = r.Clone(r.Context())
	r.Header.Set(OwnHeader, strconv.FormatUint(revision, 10))
	return o.Transport.RoundTrip(r)
}
