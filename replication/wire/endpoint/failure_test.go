package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/packet"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
)

// kill ends a node as kill -9 does: nobody is told.
func (n *node) kill() {
	for _, p := range n.allPumps() {
		n.RemoveLink(p.local)
	}
	n.pumps.Wait()
}

// A node that dies takes the calls to it down within DeadAfter, and they say so.
func TestDeadPeerFailsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		a, b := simulatedPair(t, func(c *Config) { c.Handler, c.Wire.DeadAfter = k.handle, 100*time.Millisecond })
		a.await(t, 0, PeerUp)
		result := make(chan error, 1)
		go func() {
			_, err := a.Peer("b").Call(context.Background(), 0, []byte("x"))
			result <- err
		}()
		<-k.came
		start := time.Now()
		b.kill()
		if err := <-result; !errors.Is(err, wire.ErrPeerSilent) {
			t.Errorf("a call to a node that died: %v", err)
		}
		if d := time.Since(start); d > 101*time.Millisecond {
			t.Errorf("noticed after %v", d)
		}
		if e, _ := a.await(t, 0, PeerDown); !errors.Is(e.Err, wire.ErrPeerSilent) {
			t.Errorf("the event says %v", e.Err)
		}
		a.Close()
		b.Close()
	})
}

// A node that restarts is known to have as soon as anything is sent to it, and
// is connected again without anybody's doing. The side that dialed notices by
// a reset, the other by a second connection.
func TestRestartedPeerIsNoticedAtOnce(t *testing.T) {
	for name, dialer := range map[string]string{"dialed by the survivor": "a", "dialed by the restarted": "b"} {
		t.Run(name, func(t *testing.T) {
			slowToNotice := func(c *Config) { c.Wire.DeadAfter, c.Wire.KeepAlive = time.Hour, time.Hour }
			a := open(t, "a", slowToNotice, udp(t, "127.0.0.1:0"))
			b := open(t, "b", slowToNotice, udp(t, "127.0.0.1:0"))
			connect := func() {
				if dialer == "a" {
					a.Peer("b", b.addr)
				} else {
					b.Peer("a", a.addr)
				}
			}
			connect()
			ask(t, a.Peer("b"), 4096)
			b.kill()
			b = open(t, "b", slowToNotice, udp(t, b.addr.String()))
			connect()
			result := make(chan error, 1)
			if err := a.Peer("b").Go(&Call{Done: func(c *Call) {
				c.Response.Release()
				result <- c.Err
			}}); err == nil { // it may know already
				if err := <-result; err != nil && !errors.Is(err, wire.ErrPeerRestart) {
					t.Errorf("a call to a node that has restarted: %v", err)
				}
			}
			if e, _ := a.await(t, 0, PeerDown); !errors.Is(e.Err, wire.ErrPeerRestart) {
				t.Errorf("the event says %v", e.Err)
			}
			ask(t, a.Peer("b"), 4096)
		})
	}
}

// A node that restarts and dials keeps its connection, though the one that it had
// before is the preferred one, and idle at the other side.
func TestRestartedPeerStaysConnected(t *testing.T) {
	for name, k := range map[string]struct {
		forgets bool // it has not the secret by which the restarted node could say that it knows the old one no more
		is      error
	}{
		"it answers for the old one": {false, wire.ErrPeerRestart},
		"it can't":                   {true, wire.ErrPeerSilent},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net, simulate := goodNetwork(), simulated()
				change := func(c *Config) {
					simulate(c)
					c.Wire.DeadAfter, c.Wire.KeepAlive = 500*time.Millisecond, time.Hour
				}
				a := open(t, "a", change, net.Link(at("10.0.0.1:1"), 1472))
				b := open(t, "b", change, net.Link(at("10.0.0.2:1"), 1472))
				a.Peer("b", b.addr)
				ask(t, a.Peer("b"), 4096)
				b.kill()
				b = open(t, "b", change, net.Link(b.addr, 1472))
				if k.forgets {
					another, err := secure.NewResetSecret(&pki.Node("c").Certificate)
					if err != nil {
						t.Fatal(err)
					}
					b.creds.Store(&credentials{b.creds.Load().Credentials, another})
				}
				b.Peer("a", a.addr)
				b.await(t, 0, PeerUp)
				// What was still on its way to the old one may have been answered before b forgot.
				early := func(err error) bool { return k.forgets && errors.Is(err, wire.ErrPeerRestart) }
				if e, _ := a.await(t, 0, PeerDown); !errors.Is(e.Err, k.is) && !early(e.Err) {
					t.Errorf("the event says %v, want %v", e.Err, k.is)
				}
				for deadline := time.Now().Add(patience); len(a.allConns()) != 1 || len(b.allConns()) != 1; {
					if time.Now().After(deadline) {
						t.Fatalf("%d and %d connections", len(a.allConns()), len(b.allConns()))
					}
					ask(t, a.Peer("b"), 10)
					ask(t, b.Peer("a"), 10)
				}
				if n := b.countEvents(PeerDown); n != 0 {
					t.Errorf("the restarted node has lost its connection %d times", n)
				}
				a.Close()
				b.Close()
			})
		})
	}
}

// Who waits for room in a connection hears of it when a preferred one takes its place, also
// if the peer has lost the first, in which there never is any.
func TestPreferredConnectionHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, simulate := goodNetwork(), simulated()
		change := func(c *Config) {
			simulate(c)
			c.Wire.DeadAfter, c.Wire.KeepAlive, c.Wire.SendMessages = 500*time.Millisecond, time.Hour, 1
		}
		a := open(t, "a", change, net.Link(at("10.0.0.1:1"), 1472))
		b := open(t, "b", change, net.Link(at("10.0.0.2:1"), 1472))
		p := b.Peer("a", a.addr)
		ask(t, p, 10)
		old := p.active.Load()
		a.kill()
		a = open(t, "a", change, net.Link(a.addr, 1472))
		another, err := secure.NewResetSecret(&pki.Node("c").Certificate)
		if err != nil {
			t.Fatal(err)
		}
		a.creds.Store(&credentials{a.creds.Load().Credentials, another}) // it can't say that it knows the old one no more

		result := make(chan error, 1)
		if err := p.Go(&Call{Data: [][]byte{{1}}, Done: func(c *Call) { result <- c.Err }}); err != nil {
			t.Fatal(err)
		}
		waits := &Call{Data: [][]byte{{2}}, Done: func(c *Call) {
			if c.Err == nil {
				c.Response.Release()
			}
			result <- c.Err
		}}
		if err := p.Go(waits); !errors.Is(err, wire.ErrQueueFull) {
			t.Fatalf("a call more than the queue holds: %v", err)
		}
		a.Peer("b", b.addr)
		b.await(t, 0, PeerRoom)
		if p.active.Load() == old || b.countEvents(PeerDown) != 0 {
			t.Error("the connection was not replaced by a preferred one")
		}
		if err := p.Go(waits); err != nil {
			t.Fatalf("the call that waited: %v", err)
		}
		if err := <-result; err != nil {
			t.Errorf("the call that waited: %v", err)
		}
		if err := <-result; !errors.Is(err, wire.ErrPeerSilent) {
			t.Errorf("the call to the peer that had died: %v", err)
		}
		a.Close()
		b.Close()
	})
}

// Two nodes that dial each other end with one connection, the same on both
// sides, and no call fails meanwhile.
func TestSimultaneousOpenEndsWithOneConnection(t *testing.T) {
	for range 3 {
		a := open(t, "a", nil, udp(t, "127.0.0.1:0"))
		b := open(t, "b", nil, udp(t, "127.0.0.1:0"))
		a.Peer("b", b.addr)
		b.Peer("a", a.addr)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 20 {
					ask(t, a.Peer("b"), 3000)
					ask(t, b.Peer("a"), 3000)
				}
			})
		}
		all.Wait()
		for deadline := time.Now().Add(patience); len(a.allConns()) != 1 || len(b.allConns()) != 1; {
			if time.Now().After(deadline) {
				t.Fatalf("%d and %d connections", len(a.allConns()), len(b.allConns()))
			}
			ask(t, a.Peer("b"), 10)
		}
		x, y := a.allConns()[0], b.allConns()[0]
		if a.Peer("b").active.Load() != x || b.Peer("a").active.Load() != y {
			t.Error("the connection that is left is not the one in use")
		}
		x.mu.Lock()
		same := x.mu.c.RemoteID() == y.id
		x.mu.Unlock()
		if !same {
			t.Error("the two sides have different connections left")
		}
		a.Close()
		b.Close()
	}
}

// Who may not connect is refused in words.
func TestStrangersAreRefused(t *testing.T) {
	b := open(t, "b", func(c *Config) { c.Accept = func(node string) bool { return node == "a" } }, udp(t, "127.0.0.1:0"))
	for name, k := range map[string]struct {
		id     string
		change func(*Config)
		is     error
		says   string
	}{
		"of another CA":   {"a", func(c *Config) { c.Credentials = securetest.New("east", "2").Node("a") }, nil, "CA"},
		"not accepted":    {"c", nil, wire.ErrClosed, "not accepted"},
		"expired":         {"a", func(c *Config) { c.WallClock = func() time.Time { return time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC) } }, nil, "valid until"},
		"expects another": {"a", nil, nil, `"z" was expected`},
	} {
		t.Run(name, func(t *testing.T) {
			n := open(t, k.id, k.change, udp(t, "127.0.0.1:0"))
			to := "b"
			if name == "expects another" {
				to = "z"
			}
			n.Peer(to, b.addr)
			kind := DialFailed
			if k.is == wire.ErrClosed {
				kind = PeerDown // the handshake was done before the name was known
			}
			e, _ := n.await(t, 0, kind)
			if k.is != nil && !errors.Is(e.Err, k.is) || !strings.Contains(e.Err.Error(), k.says) {
				t.Errorf("refused by: %v", e.Err)
			}
		})
	}
	self := open(t, "a", nil, udp(t, "127.0.0.1:0"))
	self.Peer("a", self.addr)
	if e, _ := self.await(t, 0, DialFailed); !strings.Contains(e.Err.Error(), "itself") {
		t.Errorf("a node that dials itself: %v", e.Err)
	}
}

// A flood of hellos is answered by retries, which cost nothing, and a node
// that is really there gets in all the same.
func TestFloodOfHellosKeepsNobodyOut(t *testing.T) {
	b := open(t, "b", func(c *Config) {
		c.RetryAbove, c.HalfOpenMax = 4, 8
		c.Wire.HandshakeTimeout = time.Hour // the flood's handshakes stay open
	}, udp(t, "127.0.0.1:0"))
	flood := udp(t, "127.0.0.1:0")
	defer flood.Close()
	for i := range 200 {
		bufs := make([]link.TxBuf, 1)
		if flood.Reserve(bufs) != 1 {
			t.Fatal("no buffer")
		}
		bufs[0].Data, bufs[0].Peer = hello200(bufs[0].Data, uint64(i+1)), b.addr
		if err := flood.Send(bufs); err != nil {
			t.Fatal(err)
		}
	}
	a := open(t, "a", nil, udp(t, "127.0.0.1:0"))
	a.Peer("b", b.addr)
	ask(t, a.Peer("b"), 4096)
	s := b.Stats()
	if s.HalfOpen != 4 {
		t.Errorf("%d handshakes are half open, want 4", s.HalfOpen)
	}
	if got := s.Links[0].Retries; got < 190 {
		t.Errorf("%d hellos of 201 were asked for a retry", got)
	}
}

// hello200 is the first datagram of a client that never goes on.
func hello200(b []byte, source uint64) []byte {
	h := packet.Header{Type: packet.TypeInitial}
	b = h.Append(b)
	in := packet.InitialHead{Version: packet.Version, Source: packet.ConnID(source)}
	b = in.Append(b)
	b = append(b, make([]byte, packet.DatagramMin-len(b)-4)...)
	return packet.AppendChecksum(b)
}

// What is not ours is counted, and nothing else comes of it.
func TestNoiseIsIgnored(t *testing.T) {
	a, b := udpPair(t, nil)
	ask(t, a.Peer("b"), 10)
	noise := udp(t, "127.0.0.1:0")
	defer noise.Close()
	for i := range 500 {
		bufs := make([]link.TxBuf, 1)
		if noise.Reserve(bufs) != 1 {
			t.Fatal("no buffer")
		}
		bufs[0].Peer = b.addr
		bufs[0].Data = bufs[0].Data[:1+(i*37)%1400]
		for j := range bufs[0].Data {
			bufs[0].Data[j] = byte(i * (j + 1))
		}
		if i%3 == 0 && len(bufs[0].Data) > 16 {
			binary.BigEndian.PutUint64(bufs[0].Data, uint64(4+i%6)<<60|uint64(i))
		}
		if err := noise.Send(bufs); err != nil {
			t.Fatal(err)
		}
	}
	ask(t, a.Peer("b"), 4096)
	if got := b.Stats().Links[0].NotOurs; got == 0 {
		t.Error("noise was not counted")
	}
}

// Links may be added and removed while messages flow: paths follow.
func TestLinksComeAndGo(t *testing.T) {
	a, _ := udpPair(t, nil) // b does not dial: such a connection, with what it has under way, would end with a's first link
	first := a.addr
	ask(t, a.Peer("b"), 4096)
	stop := make(chan struct{})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ask(t, a.Peer("b"), 6000)
				}
			}
		})
	}
	from := 0
	for range 3 {
		second := udp(t, "127.0.0.1:0")
		addr := second.LocalAddr()
		if err := a.AddLink(second); err != nil {
			t.Fatal(err)
		}
		waitPaths(t, a, addr)
		a.RemoveLink(first)
		_, from = a.await(t, from, LinkDown)
		first = addr
		ask(t, a.Peer("b"), 100_000)
	}
	close(stop)
	all.Wait()
	if n := a.countEvents(PeerDown); n != 0 {
		t.Errorf("the connection was lost %d times", n)
	}
}

// waitPaths waits until the path through the link with the address works: the peer's answer
// may come with its own question, in one datagram, and then nothing more has to come.
func waitPaths(t *testing.T, n *node, local netip.AddrPort) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		ask(t, n.Peer("b"), 100)
		for _, l := range n.Stats().Links {
			if l.Local == local && l.Link.RxPackets > 0 {
				return
			}
		}
	}
	t.Fatalf("nothing comes through %v", local)
}

func (n *node) countEvents(kind EventKind) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.events {
		if e.Kind == kind {
			count++
		}
	}
	return count
}

// Without any link a node has no connections, and gets them back with one.
func TestLastLinkGoesAndReturns(t *testing.T) {
	a, b := udpPair(t, nil)
	ask(t, a.Peer("b"), 4096)
	a.RemoveLink(a.addr)
	if _, next := a.await(t, 0, PeerDown); next == 0 {
		t.Fatal("no event")
	}
	if err := a.Peer("b").Go(&Call{}); !errors.Is(err, ErrNotConnected) {
		t.Errorf("without a link: %v", err)
	}
	if err := a.AddLink(udp(t, "127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	ask(t, a.Peer("b"), 4096)
	_ = b
}

func TestCredentialsAreRenewed(t *testing.T) {
	a, b := udpPair(t, nil)
	ask(t, a.Peer("b"), 10)
	if err := a.SetCredentials(pki.Node("c")); err == nil {
		t.Error("node a goes on as node c")
	}
	if err := b.SetCredentials(pki.Node("b", securetest.Valid(securetest.Epoch.AddDate(-1, 0, 0), securetest.Epoch.AddDate(50, 0, 0)))); err != nil {
		t.Error(err)
	}
	ask(t, a.Peer("b"), 10)
	c := open(t, "c", nil, udp(t, "127.0.0.1:0"))
	c.Peer("b", b.addr)
	ask(t, c.Peer("b"), 10)
}

// A node whose own settings don't work says so, and tries again.
func TestOwnFaultsShowAsFailedAttempts(t *testing.T) {
	a, _ := udpPair(t, func(c *Config) { c.Wire.DeadAfter = 1 })
	e, next := a.await(t, 0, DialFailed)
	if !strings.Contains(e.Err.Error(), "DeadAfter") {
		t.Errorf("the event says %v", e.Err)
	}
	a.await(t, next, DialFailed)
	if a.Peer("b").Up() || a.Peer("b").Err() == nil {
		t.Error("the peer does not say why it is down")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, cfg := range map[string]Config{
		"no credentials": {},
		"redial":         {Credentials: pki.Node("a"), RedialMin: time.Minute},
		"a short redial": {Credentials: pki.Node("a"), RedialMin: 1},
	} {
		if e, err := Open(cfg); err == nil {
			t.Errorf("%s: opened", name)
			e.Close()
		}
	}
}

// A node that is told of addresses of a peer while it tries to connect there waits for what comes of
// that: it does not ask itself all the time whether another attempt is due.
func TestAddressesDuringAnAttempt(t *testing.T) {
	a := open(t, "a", func(c *Config) { c.Wire.HandshakeTimeout = time.Hour }, udp(t, "127.0.0.1:0"))
	silent := udp(t, "127.0.0.1:0") // nobody receives there
	defer func() { _ = silent.Close() }()
	p := a.Peer("b", silent.LocalAddr())
	attempt := func() *conn {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.mu.dialing
	}
	for attempt() == nil {
		runtime.Gosched()
	}
	first := attempt()
	a.Peer("b", silent.LocalAddr())
	before := a.Stats().Links[0].Turns
	time.Sleep(50 * time.Millisecond) // sleep: that little is done in that time is what is tested
	turns := a.Stats().Links[0].Turns - before
	if attempt() != first {
		t.Fatal("the attempt has ended")
	}
	if turns > 200 {
		t.Errorf("%d turns in 50 ms, with nothing to do", turns)
	}
}
