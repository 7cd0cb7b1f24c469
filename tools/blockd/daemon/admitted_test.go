package daemon

import (
	"net/netip"
	"testing"

	"blockd.dev/raftmeta/catalog"
)

// gates is a frontier that keeps what it was told.
type gates map[netip.Addr]bool

func (g gates) AllowPeer(a netip.Addr) error  { g[a] = true; return nil }
func (g gates) RemovePeer(a netip.Addr) error { delete(g, a); return nil }

// TestNodeInThePlaceOfAnother: a node that was made anew has the address of the one that it was. When that is removed
// what comes from there is let in as before, until nobody has the address.
func TestNodeInThePlaceOfAnother(t *testing.T) {
	addr, moved := netip.MustParseAddrPort("192.0.2.3:7481"), netip.MustParseAddrPort("192.0.2.4:7481")
	before, anew := catalog.ID{1}, catalog.ID{2}
	nodes, open, a := map[catalog.ID]networkPeer{}, gates{}, admitted{}
	has := func(id catalog.ID, addrs ...netip.AddrPort) {
		if err := a.admit(open, addrs); err != nil {
			t.Fatal(err)
		}
		nodes[id] = networkPeer{addrs: addrs}
		if err := a.only(open, nodes); err != nil {
			t.Fatal(err)
		}
	}
	has(before, addr)
	has(anew, addr)
	delete(nodes, before)
	if err := a.only(open, nodes); err != nil || !open[addr.Addr()] {
		t.Errorf("what comes from a node is dropped since another one is removed that had its address: %v", err)
	}
	has(anew, moved)
	if open[addr.Addr()] || !open[moved.Addr()] {
		t.Errorf("a node has moved to %v, and these are let in: %v", moved, open)
	}
	has(before, addr)
	if !open[addr.Addr()] {
		t.Error("an address that is used again is not let in")
	}
}
