package endpoint

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure/securetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var pki = securetest.New("east", "1")

// patience is how long something that must happen may take here.
const patience = 20 * time.Second

// node is an Endpoint with what it has told.
type node struct {
	*Endpoint
	addr netip.AddrPort

	mu     sync.Mutex
	events []Event
	news   chan struct{} // closed and replaced with every event
}

// open makes a node with its links. change may be nil.
func open(t testing.TB, id string, change func(*Config), links ...link.Link) *node {
	t.Helper()
	n := &node{news: make(chan struct{})}
	cfg := Config{Credentials: pki.Node(id), Events: n.note, Handler: echo}
	// A machine that runs other tests beside can keep a pump from its processor
	// for longer than a peer may be silent, or a handshake may take, by default.
	cfg.Wire.DeadAfter, cfg.Wire.HandshakeTimeout = patience/2, patience/2
	if change != nil {
		change(&cfg)
	}
	e, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Endpoint = e
	t.Cleanup(func() { e.Close() })
	for _, l := range links {
		if err := e.AddLink(l); err != nil {
			t.Fatal(err)
		}
		n.addr = l.LocalAddr()
	}
	return n
}

func (n *node) note(e Event) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, e)
	close(n.news)
	n.news = make(chan struct{})
}

// await waits for an event of the kind from the from-th on, and returns where
// to go on from.
func (n *node) await(t testing.TB, from int, kind EventKind) (Event, int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		n.mu.Lock()
		for i := from; i < len(n.events); i++ {
			if n.events[i].Kind == kind {
				e := n.events[i]
				n.mu.Unlock()
				return e, i + 1
			}
		}
		from = len(n.events)
		news := n.news
		n.mu.Unlock()
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("node %s: no event of kind %d in %v; there were %v", n.Self().Node, kind, patience, n.events)
		}
	}
}

// echo answers with what was asked.
func echo(r *Request) {
	if r.Message.Kind == wire.Notice {
		r.Release()
		return
	}
	_ = r.Reply([][]byte{r.Message.Data})
}

func udp(t testing.TB, addr string) link.Link {
	t.Helper()
	l, err := udplink.Open(udplink.Config{Local: netip.MustParseAddrPort(addr)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// udpPair makes two nodes on loopback, a having b's address.
func udpPair(t testing.TB, change func(*Config)) (a, b *node) {
	t.Helper()
	a = open(t, "a", change, udp(t, "127.0.0.1:0"))
	b = open(t, "b", change, udp(t, "127.0.0.1:0"))
	a.Peer("b", b.addr)
	return a, b
}

// ask makes one request and checks that its echo comes back.
func ask(t testing.TB, p *Peer, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i*7 + size)
	}
	m, err := p.Call(ctx, 0, want[:size/3], want[size/3:])
	if err != nil {
		t.Fatalf("request of %d bytes: %v", size, err)
	}
	if string(m.Data) != string(want) {
		t.Fatalf("request of %d bytes: an answer of %d, and not the same", size, len(m.Data))
	}
	m.Release()
}

var modes = map[string]adaptive.Config{
	"adaptive":  {Mode: adaptive.Adaptive},
	"interrupt": {Mode: adaptive.Interrupt},
	"busy":      {Mode: adaptive.Busy},
}
