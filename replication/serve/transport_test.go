package serve

import (
	"net/netip"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
	"blockd.dev/replication/wire/secure/securetest"
)

// openEndpoint makes a node whose pump sleeps as soon as it has nothing to do.
func openEndpoint(t *testing.T, id string, handler func(*endpoint.Request), up chan<- struct{}) (*endpoint.Endpoint, netip.AddrPort) {
	t.Helper()
	e, err := endpoint.Open(endpoint.Config{
		Credentials: nodes.Node(id), Handler: handler, Wire: wire.Config{Alloc: message.Alloc},
		Poll: adaptive.Config{Mode: adaptive.Interrupt},
		Events: func(e endpoint.Event) {
			if e.Kind == endpoint.PeerUp {
				close(up)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	l, err := udplink.Open(udplink.Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
	if err != nil {
		t.Fatal(err)
	}
	addr := l.LocalAddr()
	if err := e.AddLink(l); err != nil {
		t.Fatal(err)
	}
	return e, addr
}

var nodes = securetest.New("east", "1")

// TestLastIsDoneByThePump: what says Last is done by the pump that sends what came before it,
// if that slept; what doesn't is done at once, by the caller.
func TestLastIsDoneByThePump(t *testing.T) {
	h, there := newHost(t), newHost(t)
	up, upThere := make(chan struct{}), make(chan struct{})
	a, _ := openEndpoint(t, "a", nil, up)
	_, addr := openEndpoint(t, "b", there.svc.Handle, upThere)
	b := a.Peer("b", addr)
	<-up
	const other = 5 // a disk of b that is not open: each request gets an answer
	tr := NewTransport(TransportConfig{
		Service: h.svc,
		Local:   func(d uint16) bool { return d == target.Disk },
		NodeOf:  func(uint16) string { return "b" },
		Peer:    func(string) *endpoint.Peer { return b },
	})
	send := func(disk uint16, last bool) <-chan bool {
		byPump := make(chan bool, 1)
		tr.Send(&message.Sent{
			Target: message.Target{Volume: target.Volume, Disk: disk}, Last: last,
			Request: replica.Request{ID: 1, Kind: replica.Write}, // of no session: refused at once
			Done:    func(*message.Sent) { byPump <- strings.Contains(string(debug.Stack()), "doTasks") },
		})
		return byPump
	}
	for end := time.Now().Add(10 * time.Second); ; {
		away := send(other, false)
		pump := <-send(target.Disk, true)
		<-away
		if pump {
			break
		}
		if time.Now().After(end) {
			t.Fatal("in 10s the pump, which sleeps between requests, has not done one that says Last")
		}
	}
	for range 20 {
		away := send(other, false)
		if <-send(target.Disk, false) {
			t.Fatal("a request that doesn't say Last was left to the pump")
		}
		<-away
	}
}

// TestPatience: who sends a request says for how long it may go without an answer, if that is longer than usual.
func TestPatience(t *testing.T) {
	up, upThere := make(chan struct{}), make(chan struct{})
	held := make(chan *endpoint.Request, 2)
	a, _ := openEndpoint(t, "a", nil, up)
	_, addr := openEndpoint(t, "b", func(r *endpoint.Request) { held <- r }, upThere)
	b := a.Peer("b", addr)
	<-up
	tr := NewTransport(TransportConfig{
		Local:   func(uint16) bool { return false },
		NodeOf:  func(uint16) string { return "b" },
		Peer:    func(string) *endpoint.Peer { return b },
		Timeout: 50 * time.Millisecond,
	})
	send := func(patience time.Duration) <-chan bool {
		lost := make(chan bool, 1)
		tr.Send(&message.Sent{
			Target: target, Patience: patience, Request: replica.Request{ID: 1, Kind: replica.Stable},
			Done: func(s *message.Sent) {
				lost <- s.Lost
				s.Release()
			},
		})
		return lost
	}
	patient, usual := send(time.Minute), send(0)
	if !<-usual {
		t.Error("an answer that nobody has given has come")
	}
	answer := replica.Response{ID: 1, Status: replica.OK}
	for range 2 {
		if err := (<-held).Reply([][]byte{message.AppendResponse(nil, replica.Stable, &answer)}); err != nil {
			t.Fatal(err)
		}
	}
	if <-patient {
		t.Error("a request was lost that has more time")
	}
}
