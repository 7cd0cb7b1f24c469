package neigh

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernel asks the kernel, in the network namespace where it was opened.
type kernel struct {
	requests *netlink.Handle
	changes  *nl.NetlinkSocket
}

// What is listened to: whatever may change a Hop.
var groups = []uint{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
	unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
	unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
}

func openKernel() (*kernel, error) {
	requests, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("neigh: netlink: %w", err)
	}
	changes, err := nl.Subscribe(unix.NETLINK_ROUTE, groups...)
	if err != nil {
		requests.Close()
		return nil, fmt.Errorf("neigh: netlink notifications: %w", err)
	}
	return &kernel{requests, changes}, nil
}

// wait blocks until something may have changed. An overrun (ENOBUFS) is such a
// time too. Any other error is the end: changes was closed.
func (k *kernel) wait() error {
	if _, _, err := k.changes.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
		return err
	}
	return nil
}

// look asks for all that has to do with peers. A dump that was interrupted
// by changes is good enough: the change is notified, and another look follows.
func (k *kernel) look(peers []netip.Addr) (*view, error) {
	v := &view{
		links:  map[int]linkState{},
		routes: make(map[netip.Addr]routeState, len(peers)),
		neighs: map[neighKey]neighState{},
	}
	links, err := k.requests.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("neigh: list interfaces: %w", err)
	}
	for _, l := range links {
		v.links[l.Attrs().Index] = linkOf(l)
	}
	neighs, err := k.requests.NeighList(0, unix.AF_UNSPEC)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("neigh: list neighbours: %w", err)
	}
	for _, n := range neighs {
		if addr, ok := netip.AddrFromSlice(n.IP); ok && (n.Family == unix.AF_INET || n.Family == unix.AF_INET6) {
			v.neighs[neighKey{n.LinkIndex, addr.Unmap()}] = neighOf(&n)
		}
	}
	for _, p := range peers {
		v.routes[p] = k.route(p, v)
	}
	return v, nil
}

func linkOf(l netlink.Link) linkState {
	a := l.Attrs()
	s := linkState{
		name: a.Name,
		mtu:  a.MTU,
		up:   a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
	}
	if s.hasMAC = len(a.HardwareAddr) == len(s.mac) && a.RawFlags&unix.IFF_LOOPBACK == 0; s.hasMAC {
		s.mac = MAC(a.HardwareAddr)
	}
	if vlan, ok := l.(*netlink.Vlan); ok {
		s.parent = a.ParentIndex
		s.tag = Tag{Protocol: uint16(vlan.VlanProtocol), ID: uint16(vlan.VlanId)}
		if vlan.VlanProtocol == netlink.VLAN_PROTOCOL_UNKNOWN {
			s.tag.Protocol = uint16(netlink.VLAN_PROTOCOL_8021Q)
		}
	}
	return s
}

func neighOf(n *netlink.Neigh) neighState {
	var s neighState
	if len(n.HardwareAddr) == len(s.mac) {
		s.mac = MAC(n.HardwareAddr)
	}
	switch {
	case n.State&(unix.NUD_REACHABLE|unix.NUD_DELAY|unix.NUD_PROBE|unix.NUD_PERMANENT|unix.NUD_NOARP) != 0:
		s.condition = fresh
	case n.State&unix.NUD_STALE != 0:
		s.condition = stale
	case n.State&unix.NUD_INCOMPLETE != 0:
		s.condition = asking
	case n.State&unix.NUD_FAILED != 0:
		s.condition = failing
	}
	return s
}

// route asks which way the kernel would send to dst.
func (k *kernel) route(dst netip.Addr, v *view) routeState {
	var options *netlink.RouteGetOptions
	if zone := dst.Zone(); zone != "" {
		options = &netlink.RouteGetOptions{Oif: zone}
	}
	routes, err := k.requests.RouteGetWithOptions(net.IP(dst.AsSlice()), options)
	if err == nil && len(routes) == 0 {
		err = errors.New("the kernel names none")
	}
	if err != nil {
		return routeState{err: err}
	}
	r := routes[0]
	s := routeState{link: r.LinkIndex, nextHop: dst.WithZone(""), local: r.Type == unix.RTN_LOCAL, mtu: r.MTU}
	s.source, _ = netip.AddrFromSlice(r.Src)
	s.source = s.source.Unmap()
	gateway := r.Gw
	if via, ok := r.Via.(*netlink.Via); ok {
		gateway = via.Addr // an IPv4 route by an IPv6 router
	}
	if g, ok := netip.AddrFromSlice(gateway); ok && !g.IsUnspecified() {
		s.nextHop = g.Unmap()
	}
	return s
}

// touch has the kernel treat the entry as a packet would: one that is absent is
// asked for, one that is stale is checked. An entry set by hand must not be
// touched, since the kernel would take it for one that it learned.
func (k *kernel) touch(key neighKey) error {
	err := k.requests.NeighSet(&netlink.Neigh{
		LinkIndex: key.link,
		State:     unix.NUD_NONE,
		Flags:     unix.NTF_USE,
		IP:        net.IP(key.addr.AsSlice()),
	})
	if err != nil {
		return fmt.Errorf("neigh: have the kernel ask for %v: %w; this needs CAP_NET_ADMIN", key.addr, err)
	}
	return nil
}
