package daemon

import (
	"errors"
	"net/netip"

	"blockd.dev/raftmeta/catalog"
)

// frontier lets in what comes from an address, or drops it: an xdplink.Device.
type frontier interface {
	AllowPeer(netip.Addr) error
	RemovePeer(netip.Addr) error
}

// admitted are the addresses that are let in. Two nodes may have the same one: the one that is made anew after its disks were
// lost, and the one that it was, which is removed later.
type admitted map[netip.Addr]bool

// admit lets more in.
func (a admitted) admit(g frontier, addrs []netip.AddrPort) error {
	var errs []error
	for _, p := range addrs {
		if !a[p.Addr()] {
			a[p.Addr()] = true
			errs = append(errs, g.AllowPeer(p.Addr()))
		}
	}
	return errors.Join(errs...)
}

// only drops from now on what comes from others than these nodes.
func (a admitted) only(g frontier, nodes map[catalog.ID]networkPeer) error {
	used := map[netip.Addr]bool{}
	for _, p := range nodes {
		for _, addr := range p.addrs {
			used[addr.Addr()] = true
		}
	}
	var errs []error
	for addr := range a {
		if !used[addr] {
			delete(a, addr)
			errs = append(errs, g.RemovePeer(addr))
		}
	}
	return errors.Join(errs...)
}
