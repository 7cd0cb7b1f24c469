package endpoint

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/afxdp/link/simlink"
	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/clock"
)

// bubbleClock is a clock of a synctest bubble: its time starts with it.
type bubbleClock struct{ start time.Time }

func (c bubbleClock) Now() clock.Mono { return clock.Mono(time.Since(c.start)) + 1 }

// simulated makes nodes live in a bubble's time. They must sleep, since no
// time passes while somebody polls; so nobody is late for a handshake.
func simulated() func(*Config) {
	c := bubbleClock{time.Now()}
	return func(cfg *Config) {
		cfg.Clock = c
		cfg.Poll.Mode = adaptive.Interrupt
		cfg.Wire.HandshakeTimeout = 0
	}
}

// goodNetwork is one for simulated nodes that loses nothing.
func goodNetwork() *simlink.Real {
	net := simlink.NewReal(1)
	net.Change(func(n *simlink.Network) { n.SetAll(simlink.Faults{Delay: 50 * time.Microsecond}) })
	return net
}

// simulatedPair makes two simulated nodes, a having b's address.
func simulatedPair(t *testing.T, change func(*Config)) (a, b *node) {
	t.Helper()
	net, simulate := goodNetwork(), simulated()
	both := func(c *Config) {
		simulate(c)
		change(c)
	}
	a = open(t, "a", both, net.Link(at("10.0.0.1:1"), 1472))
	b = open(t, "b", both, net.Link(at("10.0.0.2:1"), 1472))
	a.Peer("b", b.addr)
	return a, b
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// askMany has several goroutines ask one after the other.
func askMany(t *testing.T, p *Peer, goroutines, each, size int) {
	t.Helper()
	var all sync.WaitGroup
	for range goroutines {
		all.Go(func() {
			for range each {
				ask(t, p, size)
			}
		})
	}
	all.Wait()
}

// A bad network costs time, but no request.
func TestRequestsSurviveABadNetwork(t *testing.T) {
	for name, faults := range map[string]simlink.Faults{
		"loss":        {Delay: 50 * time.Microsecond, Loss: 0.1},
		"duplication": {Delay: 50 * time.Microsecond, Duplicate: 0.3},
		"reordering":  {Delay: 50 * time.Microsecond, Jitter: 200 * time.Microsecond, Reorder: 0.2, ReorderBy: time.Millisecond},
		"corruption":  {Delay: 50 * time.Microsecond, Corrupt: 0.1},
		"all":         {Delay: 50 * time.Microsecond, Loss: 0.05, Duplicate: 0.05, Reorder: 0.05, ReorderBy: time.Millisecond, Corrupt: 0.05},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := simlink.NewReal(1)
				net.Change(func(n *simlink.Network) { n.SetAll(faults) })
				a := open(t, "a", simulated(), net.Link(at("10.0.0.1:1"), 1472))
				b := open(t, "b", simulated(), net.Link(at("10.0.0.2:1"), 1472))
				a.Peer("b", b.addr)
				askMany(t, a.Peer("b"), 8, 20, 9000)
				ask(t, a.Peer("b"), 300_000)
				a.Close()
				b.Close()
			})
		})
	}
}

// Two networks: when one is cut, the other takes over, and no request fails.
func TestSecondPathTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := simlink.NewReal(1)
		one := [2]netip.AddrPort{at("10.1.0.1:1"), at("10.1.0.2:1")}
		two := [2]netip.AddrPort{at("10.2.0.1:1"), at("10.2.0.2:1")}
		set := func(f simlink.Faults, ends [2]netip.AddrPort) {
			net.Change(func(n *simlink.Network) {
				n.Set(ends[0], ends[1], f)
				n.Set(ends[1], ends[0], f)
			})
		}
		good, cut := simlink.Faults{Delay: 50 * time.Microsecond}, simlink.Faults{Cut: true}
		net.Change(func(n *simlink.Network) { n.SetAll(cut) }) // the two networks don't meet
		set(good, one)
		set(good, two)
		a := open(t, "a", simulated(), net.Link(one[0], 8900), net.Link(two[0], 8900))
		b := open(t, "b", simulated(), net.Link(one[1], 8900), net.Link(two[1], 8900))
		a.Peer("b", one[1], two[1])
		askMany(t, a.Peer("b"), 4, 50, 4096)
		for range 3 {
			set(cut, one)
			start := time.Now()
			askMany(t, a.Peer("b"), 4, 50, 4096)
			if d := time.Since(start); d > 2*time.Second {
				t.Errorf("200 requests over a cut took %v", d)
			}
			set(good, one)
			askMany(t, a.Peer("b"), 4, 50, 4096)
			set(cut, two)
			askMany(t, a.Peer("b"), 4, 50, 4096)
			set(good, two)
			askMany(t, a.Peer("b"), 4, 50, 4096)
		}
		if n := a.countEvents(PeerDown); n != 0 {
			t.Errorf("the connection was lost %d times", n)
		}
		a.Close()
		b.Close()
	})
}

// However long nobody asked anything, the next request is answered by the
// same connection.
func TestRequestsAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := simulatedPair(t, func(*Config) {})
		peer := a.Peer("b")
		ask(t, peer, 100)
		for _, idle := range []time.Duration{150 * time.Millisecond, 450 * time.Millisecond, 3 * time.Second, time.Minute} {
			time.Sleep(idle) // sleep: virtual time, which passes at once
			ask(t, peer, 100)
		}
		if n := a.countEvents(PeerDown); n != 0 {
			t.Errorf("the peer was down %d times", n)
		}
		a.Close()
		b.Close()
	})
}

// A peer that is away is dialed again and again, with growing pauses.
func TestDialingBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := simlink.NewReal(1)
		a := open(t, "a", simulated(), net.Link(at("10.0.0.1:1"), 1472))
		a.Peer("b", at("10.0.0.2:1"))
		time.Sleep(time.Minute) // sleep: virtual time, which passes at once
		tries := a.countEvents(DialFailed)
		// Each attempt takes its 3 s, and then a pause of 2 s.
		if tries < 10 || tries > 21 {
			t.Errorf("%d attempts in a minute", tries)
		}
		b := open(t, "b", simulated(), net.Link(at("10.0.0.2:1"), 1472))
		ask(t, a.Peer("b"), 100)
		a.Close()
		b.Close()
	})
}
