package neigh

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	peer4 = netip.MustParseAddr("10.9.1.2")
	peer6 = netip.MustParseAddr("fd00:9:1::2")
	far4  = netip.MustParseAddr("10.9.2.7")
)

func found(_ Hop, ok bool) bool { return ok }
func gone(_ Hop, ok bool) bool  { return !ok }

func macOf(t *testing.T, l netlink.Link) MAC {
	t.Helper()
	if len(l.Attrs().HardwareAddr) != 6 {
		t.Fatalf("%s has no Ethernet address", l.Attrs().Name)
	}
	return MAC(l.Attrs().HardwareAddr)
}

// TestAsksForUnknownNeighbours: nobody has ever sent to the peer; Track alone has
// the kernel find it, by ARP and by neighbour discovery.
func TestAsksForUnknownNeighbours(t *testing.T) {
	w := newWorld(t)
	table := open(t)
	for _, c := range []struct {
		peer   netip.Addr
		source string
	}{{peer4, "10.9.1.1"}, {peer6, "fd00:9:1::1"}} {
		if _, ok := table.Lookup(c.peer); ok {
			t.Errorf("%v was found before it was tracked", c.peer)
		}
		must(t, table.Track(c.peer))
		got := table.await(c.peer, "found", found)
		want := Hop{
			Device: w.a.Attrs().Index, DeviceName: "neigh-a", Interface: "neigh-a",
			Src: macOf(t, w.a), Dst: macOf(t, w.b),
			Source: netip.MustParseAddr(c.source), NextHop: c.peer, MTU: 1500,
		}
		if got != want {
			t.Errorf("%v: %+v, want %+v", c.peer, got, want)
		}
	}
	mapped := netip.AddrFrom16(peer4.As16())
	if _, ok := table.Lookup(mapped); !ok {
		t.Errorf("%v is not found, though %v is", mapped, peer4)
	}
}

// TestFollowsChanges changes, one after another, all that a hop is made of.
func TestFollowsChanges(t *testing.T) {
	w := newWorld(t)
	table := open(t)
	must(t, table.Track(peer4))
	must(t, table.Track(far4))
	table.await(peer4, "found", found)

	// The neighbour gets another address and announces it, as a failover would.
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0x99, 1}
	must(t, w.there.LinkSetHardwareAddr(w.b, mac))
	must(t, w.here.NeighSet(&netlink.Neigh{LinkIndex: w.a.Attrs().Index, IP: peer4.AsSlice(), State: netlink.NUD_REACHABLE, HardwareAddr: mac}))
	table.await(peer4, "at its new Ethernet address", func(h Hop, ok bool) bool { return ok && h.Dst == MAC(mac) })

	// The interface's MTU.
	must(t, w.here.LinkSetMTU(w.a, 1400))
	table.await(peer4, "of the new MTU", func(h Hop, ok bool) bool { return ok && h.MTU == 1400 })

	// A router appears, with a smaller MTU of its route, and goes.
	if _, ok := table.Lookup(far4); ok {
		t.Errorf("%v was found without a route to it", far4)
	}
	route := w.route("10.9.2.0/24", "10.9.1.2", 1300)
	must(t, w.here.RouteAdd(route))
	h := table.await(far4, "found", found)
	if h.NextHop != peer4 || h.Dst != MAC(mac) || h.MTU != 1300 {
		t.Errorf("the way by a router is %+v; want it by %v, %x, MTU 1300", h, peer4, mac)
	}
	must(t, w.here.RouteDel(route))
	table.await(far4, "gone with its route", gone)

	// An IPv4 route by an IPv6 router (RFC 5549).
	via := w.route("10.9.2.0/24", "", 0)
	via.Gw, via.Via = nil, &netlink.Via{AddrFamily: unix.AF_INET6, Addr: peer6.AsSlice()}
	must(t, w.here.RouteAdd(via))
	h = table.await(far4, "found", found)
	if h.NextHop != peer6 {
		t.Errorf("the way by an IPv6 router is %+v; want it by %v", h, peer6)
	}

	// The wire breaks, and is mended.
	must(t, w.there.LinkSetDown(w.b))
	table.await(peer4, "gone with the carrier", gone)
	for _, s := range table.Status() {
		if s.Err == nil || !strings.Contains(s.Err.Error(), "neigh-a") {
			t.Errorf("without a carrier, the status of %v is %v; want one that names neigh-a", s.Peer, s.Err)
		}
	}
	must(t, w.there.LinkSetUp(w.b))
	table.await(peer4, "back with the carrier", found)

	table.Untrack(peer4)
	table.await(peer4, "gone when nobody tracks it", gone)
}

// TestKeepsNeighboursFresh: the kernel lets an entry go stale that we use; the
// Table has it checked, so it becomes reachable without any packet of ours.
func TestKeepsNeighboursFresh(t *testing.T) {
	w := newWorld(t)
	table := open(t)
	index := w.a.Attrs().Index
	must(t, os.WriteFile("/proc/sys/net/ipv4/neigh/neigh-a/delay_first_probe_time", []byte("1"), 0))
	must(t, table.Track(peer4))
	table.await(peer4, "found", found)

	events := make(chan netlink.NeighUpdate, 100)
	done := make(chan struct{})
	must(t, netlink.NeighSubscribe(events, done))
	defer func() {
		close(done)
		for range events { // until the subscription has ended
		}
	}()
	must(t, w.here.NeighSet(&netlink.Neigh{LinkIndex: index, IP: peer4.AsSlice(), State: netlink.NUD_STALE, HardwareAddr: w.b.Attrs().HardwareAddr}))
	// The kernel's own course: delay, for the second set above, probe, reachable.
	probed := false
	for e := range events {
		if e.LinkIndex != index || !e.IP.Equal(net.IP(peer4.AsSlice())) {
			continue
		}
		if h, ok := table.Lookup(peer4); !ok || h.Dst != macOf(t, w.b) {
			t.Errorf("in state %#x, the neighbour is %+v, %v", e.State, h, ok)
		}
		if sent := e.State == netlink.NUD_PROBE; sent {
			probed = true
		}
		if probed && e.State == netlink.NUD_REACHABLE {
			break
		}
	}

	// The kernel collects the entry: the Ethernet address stays in use, and
	// the kernel is made to ask anew.
	must(t, w.here.NeighDel(&netlink.Neigh{LinkIndex: index, IP: peer4.AsSlice()}))
	for e := range events {
		if e.LinkIndex == index && e.IP.Equal(net.IP(peer4.AsSlice())) && e.State == netlink.NUD_REACHABLE {
			break
		}
		if _, ok := table.Lookup(peer4); !ok {
			t.Error("the neighbour was lost when the kernel collected its entry")
		}
	}
}

// TestEntriesSetByHandStay: they must not become learned ones by our touch.
func TestEntriesSetByHandStay(t *testing.T) {
	w := newWorld(t)
	mac := net.HardwareAddr{0x02, 0, 0, 0, 0x99, 2}
	entry := &netlink.Neigh{LinkIndex: w.a.Attrs().Index, IP: peer4.AsSlice(), State: netlink.NUD_PERMANENT, HardwareAddr: mac}
	must(t, w.here.NeighSet(entry))
	table := open(t)
	must(t, table.Track(peer4))
	if h := table.await(peer4, "found", found); h.Dst != MAC(mac) {
		t.Errorf("the neighbour is %+v, want %v", h, mac)
	}
	must(t, table.Track(peer6)) // another look
	table.await(peer6, "found", found)
	all, err := w.here.NeighList(w.a.Attrs().Index, netlink.FAMILY_V4)
	must(t, err)
	for _, n := range all {
		if n.IP.Equal(entry.IP) && n.State != netlink.NUD_PERMANENT {
			t.Errorf("the entry set by hand is in state %#x now", n.State)
		}
	}
}

func TestTrackRefuses(t *testing.T) {
	newWorld(t)
	table := open(t)
	for _, a := range []netip.Addr{{}, netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("ff02::1"), netip.IPv4Unspecified()} {
		if err := table.Track(a); err == nil {
			t.Errorf("%v is tracked", a)
		}
	}
	at := netip.MustParseAddr("10.0.0.1")
	for range PeersMax {
		must(t, table.Track(at))
		at = at.Next()
	}
	if err := table.Track(at); err == nil {
		t.Errorf("peer %d is tracked", PeersMax+1)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	newWorld(t)
	table := open(t)
	must(t, table.Track(peer4))
	table.await(peer4, "found", found)
	if n := testing.AllocsPerRun(100, func() { table.Lookup(peer4) }); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}

// TestVLANInterfaces: the route is on an interface with two tags, the device is
// the wire. A kernel without 802.1Q has no such routes; testenv/kernels runs this
// test on those that have.
func TestVLANInterfaces(t *testing.T) {
	w := newWorld(t)
	for _, end := range []struct {
		h    *netlink.Handle
		wire netlink.Link
		addr string
	}{{w.here, w.a, "10.9.3.1/24"}, {w.there, w.b, "10.9.3.2/24"}} {
		outer := &netlink.Vlan{LinkAttrs: netlink.NewLinkAttrs(), VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021AD}
		outer.Name, outer.ParentIndex = "neigh.5", end.wire.Attrs().Index
		err := end.h.LinkAdd(outer)
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Log("this kernel has no 802.1Q")
			return
		}
		must(t, err)
		inner := &netlink.Vlan{LinkAttrs: netlink.NewLinkAttrs(), VlanId: 7, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}
		inner.Name, inner.ParentIndex = "neigh.5.7", outer.Index
		must(t, end.h.LinkAdd(inner))
		must(t, end.h.LinkSetUp(outer))
		must(t, end.h.LinkSetUp(inner))
		w.addr(end.h, inner, end.addr)
	}
	table := open(t)
	peer := netip.MustParseAddr("10.9.3.2")
	must(t, table.Track(peer))
	got := table.await(peer, "found", found)
	want := Hop{
		Device: w.a.Attrs().Index, DeviceName: "neigh-a", Interface: "neigh.5.7",
		Tags: [TagsMax]Tag{{0x88a8, 5}, {0x8100, 7}},
		Src:  macOf(t, w.a), Dst: macOf(t, w.b),
		Source: netip.MustParseAddr("10.9.3.1"), NextHop: peer, MTU: 1500,
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	t.Log("found by two VLANs")
}
