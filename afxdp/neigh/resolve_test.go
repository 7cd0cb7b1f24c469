package neigh

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

var (
	srcMAC = MAC{2, 0, 0, 0, 0, 1}
	dstMAC = MAC{2, 0, 0, 0, 0, 2}
	start  = time.Unix(1000, 0)
	router = netip.MustParseAddr("10.9.1.254")
)

// aView is of one peer behind a QinQ interface, eth0.5.7.
func aView() *view {
	return &view{
		links: map[int]linkState{
			1: {name: "lo", up: true, mtu: 65536},
			2: {name: "eth0", up: true, mtu: 9000, mac: srcMAC, hasMAC: true},
			3: {name: "eth0.5", up: true, mtu: 8996, mac: srcMAC, hasMAC: true, tag: Tag{0x88a8, 5}, parent: 2},
			4: {name: "eth0.5.7", up: true, mtu: 8992, mac: srcMAC, hasMAC: true, tag: Tag{0x8100, 7}, parent: 3},
		},
		routes: map[netip.Addr]routeState{peer4: {link: 4, nextHop: peer4, source: router}},
		neighs: map[neighKey]neighState{{4, peer4}: {fresh, dstMAC}},
	}
}

func TestResolve(t *testing.T) {
	good := Hop{
		Device: 2, DeviceName: "eth0", Interface: "eth0.5.7", Tags: [TagsMax]Tag{{0x88a8, 5}, {0x8100, 7}},
		Src: srcMAC, Dst: dstMAC, Source: router, NextHop: peer4, MTU: 8992,
	}
	key := neighKey{4, peer4}
	for _, c := range []struct {
		name   string
		change func(v *view)
		want   func(h *Hop)
		err    error
		touch  neighKey
	}{
		{name: "fresh", change: func(*view) {}, want: func(*Hop) {}},
		{name: "one VLAN", change: func(v *view) {
			v.routes[peer4] = routeState{link: 3, nextHop: peer4, source: router}
			v.neighs[neighKey{3, peer4}] = neighState{fresh, dstMAC}
		}, want: func(h *Hop) {
			h.Interface, h.MTU, h.Tags = "eth0.5", 8996, [TagsMax]Tag{{0x88a8, 5}}
		}},
		{name: "the route's MTU is less", change: func(v *view) { v.routes[peer4] = routeState{link: 4, nextHop: peer4, source: router, mtu: 1400} },
			want: func(h *Hop) { h.MTU = 1400 }},
		{name: "the route's MTU is more", change: func(v *view) { v.routes[peer4] = routeState{link: 4, nextHop: peer4, source: router, mtu: 65000} },
			want: func(*Hop) {}},
		{name: "stale", change: func(v *view) { v.neighs[key] = neighState{stale, dstMAC} }, want: func(*Hop) {}, touch: key},
		{name: "absent", change: func(v *view) { clear(v.neighs) }, err: errAsking, touch: key},
		{name: "asking", change: func(v *view) { v.neighs[key] = neighState{condition: asking} }, err: errAsking},
		{name: "failing", change: func(v *view) { v.neighs[key] = neighState{condition: failing} }, err: errNoAnswer, touch: key},
		{name: "no route", change: func(v *view) { v.routes[peer4] = routeState{err: errTest} }, err: errTest},
		{name: "itself", change: func(v *view) { v.routes[peer4] = routeState{link: 1, local: true} }, err: errLocal},
		{name: "down", change: func(v *view) { l := v.links[4]; l.up = false; v.links[4] = l }, err: errDown},
		{name: "down below", change: func(v *view) { l := v.links[2]; l.up = false; v.links[2] = l }, err: errDown},
		{name: "no Ethernet", change: func(v *view) { v.routes[peer4] = routeState{link: 1, nextHop: peer4} }, err: errNoEthernet},
		{name: "three VLANs", change: func(v *view) {
			v.links[5] = linkState{name: "deep", up: true, hasMAC: true, tag: Tag{0x8100, 9}, parent: 4}
			v.routes[peer4] = routeState{link: 5, nextHop: peer4}
		}, err: errTags},
	} {
		v := aView()
		c.change(v)
		got, touch := resolve(v, peer4, peer{}, start)
		if touch != c.touch {
			t.Errorf("%s: touches %+v, want %+v", c.name, touch, c.touch)
		}
		if c.err != nil {
			if got.ok || !errors.Is(got.why, c.err) {
				t.Errorf("%s: %+v, want %v", c.name, got, c.err)
			}
			continue
		}
		want := good
		c.want(&want)
		if !got.ok || got.hop != want {
			t.Errorf("%s: %+v, want %+v", c.name, got, want)
		}
	}
	for name, change := range map[string]func(v *view){
		"multicast":           func(v *view) { v.neighs[key] = neighState{fresh, MAC{1, 0, 0x5e, 0, 0, 1}} },
		"no Ethernet address": func(v *view) { v.neighs[key] = neighState{fresh, MAC{}} },
		"interface gone":      func(v *view) { delete(v.links, 4) },
		"below gone":          func(v *view) { delete(v.links, 2) },
	} {
		v := aView()
		change(v)
		if got, _ := resolve(v, peer4, peer{}, start); got.ok || got.why == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

var errTest = errors.New("no route, for a test")

// TestALostEntryStaysInUse for the grace time, and no longer, and only while it
// is the same neighbour on the same interface.
func TestALostEntryStaysInUse(t *testing.T) {
	before, _ := resolve(aView(), peer4, peer{}, start)
	lost := aView()
	clear(lost.neighs)
	now := start
	for now.Sub(start) < graceTime {
		after, touch := resolve(lost, peer4, before, now)
		if !after.ok || after.hop != before.hop || !after.unsure.Equal(start) || touch != (neighKey{4, peer4}) {
			t.Fatalf("%v after it was lost: %+v, touches %+v; want %+v", now.Sub(start), after, touch, before.hop)
		}
		before = after
		now = now.Add(graceTime / 4)
	}
	if after, _ := resolve(lost, peer4, before, now); after.ok {
		t.Errorf("%v after it was lost: %+v", now.Sub(start), after)
	}
	// Confirmed in time, it is lost anew later.
	confirmed, _ := resolve(aView(), peer4, before, now)
	if again, _ := resolve(lost, peer4, confirmed, now); !again.ok || !again.unsure.Equal(now) {
		t.Errorf("lost again: %+v", again)
	}
	lost.routes[peer4] = routeState{link: 4, nextHop: router}
	if after, _ := resolve(lost, peer4, confirmed, now); after.ok {
		t.Errorf("another neighbour got the old one's address: %+v", after)
	}
	// The kernel says that there is no answer: that is news, not a loss.
	failed := aView()
	failed.neighs[neighKey{4, peer4}] = neighState{condition: failing}
	if after, _ := resolve(failed, peer4, confirmed, now); after.ok {
		t.Errorf("a neighbour that does not answer is %+v", after)
	}
	// The kernel could not be asked: what was known stays.
	if after, _ := resolve(&view{}, peer4, confirmed, now); !after.ok || after.hop != confirmed.hop {
		t.Errorf("without a view: %+v", after)
	}
	if after, _ := resolve(&view{}, peer4, peer{}, now); after.ok || after.why == nil {
		t.Errorf("without a view, at first: %+v", after)
	}
}

func BenchmarkLookup(b *testing.B) {
	t := &Table{}
	hops := map[netip.Addr]Hop{}
	for a, i := netip.MustParseAddr("10.0.0.1"), 0; i < 64; a, i = a.Next(), i+1 {
		hops[a] = Hop{MTU: i}
	}
	t.now.Store(&snapshot{hops: hops})
	dst := netip.MustParseAddr("10.0.0.40")
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := t.Lookup(dst); !ok {
			b.Fatal("not found")
		}
	}
}
