package wire_test

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
	"go.uber.org/goleak"
)

// tlsPair is two ends with real keys, on a network that loses and damages.
type tlsPair struct {
	net  *simlink.Network
	now  clock.Mono
	addr [2]netip.AddrPort
	conn [2]*wire.Conn
	cfg  [2]wire.Config
	got  [2][]wire.Event
}

func newTLSPair(t *testing.T, seed uint64, f simlink.Faults, clients, servers *securetest.PKI) *tlsPair {
	t.Helper()
	p := &tlsPair{net: simlink.New(seed), now: 1}
	for i, pki := range []*securetest.PKI{clients, servers} {
		make := secure.NewClient
		if i == 1 {
			make = secure.NewServer
		}
		h, err := make(secure.Config{Credentials: pki.Node([]string{"n1", "n2"}[i]), Now: time.Now(), Versions: []string{"blockd/1"}})
		if err != nil {
			t.Fatal(err)
		}
		p.cfg[i] = wire.Config{Handshake: h, LocalID: wire.ConnID(i + 1), DatagramMax: 4500, RekeyPackets: 50}
		p.addr[i] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)
		p.net.Add(p.addr[i])
	}
	p.net.SetAll(f)
	var err error
	if p.conn[0], err = wire.NewClient(p.cfg[0], p.now); err != nil {
		t.Fatal(err)
	}
	return p
}

// run lets virtual time pass until done or for d.
func (p *tlsPair) run(d time.Duration, done func() bool) {
	buf := make([]byte, 0, 9000)
	for end := p.now.Add(d); p.now < end && !done(); {
		for i, c := range p.conn {
			for {
				data, _, ok := p.net.Receive(p.now, p.addr[i])
				if !ok {
					break
				}
				if c == nil {
					c, _ = wire.NewServer(p.cfg[1], p.now, data, 0)
					p.conn[1] = c
					continue
				}
				c.Receive(p.now, 0, data)
			}
			if c == nil {
				continue
			}
			if c.Deadline() <= p.now {
				c.Tick(p.now)
			}
			for e, ok := c.NextEvent(); ok; e, ok = c.NextEvent() {
				p.got[i] = append(p.got[i], e)
			}
			for n := c.Produce(p.now, 0, buf); n > 0; n = c.Produce(p.now, 0, buf) {
				p.net.Send(p.now, p.addr[i], p.addr[1-i], buf[:n])
			}
		}
		next := p.net.Next()
		for _, c := range p.conn {
			if c != nil {
				next = min(next, c.Deadline())
			}
		}
		p.now = min(max(next, p.now+1), end)
	}
}

func (p *tlsPair) find(i int, k wire.EventKind) *wire.Event {
	for j := range p.got[i] {
		if p.got[i][j].Kind == k {
			return &p.got[i][j]
		}
	}
	return nil
}

// With TLS and AES, over a network that is bad, through many changes of key.
func TestConnectionWithRealKeys(t *testing.T) {
	defer goleak.VerifyNone(t)
	pki := securetest.New("c1", "ca")
	for seed := uint64(1); seed <= 20; seed++ {
		p := newTLSPair(t, seed, simlink.Faults{
			Delay: 50 * time.Microsecond, Loss: .05, Corrupt: .05, Duplicate: .05, Reorder: .05, ReorderBy: 100 * time.Microsecond,
		}, pki, pki)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
		for range 3 {
			if _, err := p.conn[0].Send(p.now, wire.Outgoing{Kind: wire.Notice, Channel: 1, Data: [][]byte{data}}); err != nil {
				t.Fatal(err)
			}
		}
		arrived := func() (n int) {
			for _, e := range p.got[1] {
				if e.Kind == wire.EventMessage {
					if !bytes.Equal(e.Message.Data, data) {
						t.Fatalf("seed %d: other content", seed)
					}
					n++
				}
			}
			return n
		}
		p.run(3*time.Second, func() bool { return arrived() == 3 })
		if arrived() != 3 {
			t.Fatalf("seed %d: %d of 3 arrived; %+v; %+v", seed, arrived(), p.conn[0].Stats(), p.got)
		}
		if id, ok := p.conn[1].Peer().(secure.Peer); !ok || id.Node != "n1" || p.conn[0].Stats().Rekeys == 0 {
			t.Errorf("seed %d: the peer is %+v, %d changes of key", seed, p.conn[1].Peer(), p.conn[0].Stats().Rekeys)
		}
		for _, c := range p.conn {
			c.Abandon(p.now, wire.ErrClosed)
		}
	}
}

// A node of another cluster is refused, and both sides say why.
func TestConnectionWithWrongCertificate(t *testing.T) {
	defer goleak.VerifyNone(t)
	p := newTLSPair(t, 1, simlink.Faults{Delay: 50 * time.Microsecond}, securetest.New("c1", "one"), securetest.New("c1", "two"))
	p.run(time.Second, func() bool { return p.find(0, wire.EventDown) != nil && p.find(1, wire.EventDown) != nil })
	for i := range 2 {
		e := p.find(i, wire.EventDown)
		if e == nil || !errors.Is(e.Err, wire.ErrRefused) || p.find(i, wire.EventUp) != nil {
			t.Errorf("node %d: %+v", i, e)
		} else {
			t.Logf("node %d: %v", i, e.Err)
		}
	}
}
