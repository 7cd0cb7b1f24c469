// Package netlab makes small networks for tests: hosts, each a network
// namespace without a name, joined by veth pairs or a bridge, with IPv4 and
// IPv6 addresses. It needs root. What it makes goes with the Lab, or with the
// process, however that ends, since nothing but file descriptors holds it.
//
// A namespace belongs to a thread, so what is to happen on a host is run by
// Host.Do. Sockets stay on the host on which they were made.
package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Config says what kind of wire joins the hosts.
type Config struct {
	MTU    int  // of all interfaces; 0 means 1500
	Queues int  // receive and transmit queues of each host's interface; 0 means 1
	Bridge bool // host, veth, bridge in a namespace of its own, veth, host; else one veth pair
	// Cut makes the kernel cut what TCP, or a UDP socket with UDP_SEGMENT, hands
	// over into packets of the MTU before the hosts' interfaces send it, as on a
	// wire. A veth takes up to 64 KiB as one packet otherwise.
	Cut bool
}

// Lab is a network of two hosts.
type Lab struct {
	A, B *Host
	// Switch is where the bridge is, if Config.Bridge is set; its Device is the
	// port of A. It has no addresses.
	Switch *Host

	namespaces []netns.NsHandle
	handles    []*netlink.Handle
}

// Host is one end.
type Host struct {
	Device     string // its only interface, but for lo
	Index      int    // of Device
	MAC        net.HardwareAddr
	IPv4, IPv6 netip.Addr
	// Netlink speaks to the host's kernel from any thread.
	Netlink *netlink.Handle

	namespace netns.NsHandle
}

// New makes a lab; Close takes it down. On an error nothing stays.
func New(c Config) (_ *Lab, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("netlab: making network namespaces needs root; run the tests of this package by sudo")
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.Queues == 0 {
		c.Queues = 1
	}
	l := &Lab{}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	for i, h := range []**Host{&l.A, &l.B} {
		ns, handle, err := l.namespace()
		if err != nil {
			return nil, err
		}
		*h = &Host{
			Device: "eth0", Netlink: handle, namespace: ns,
			IPv4: netip.AddrFrom4([4]byte{10, 77, 0, byte(i + 1)}),
			IPv6: netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x77, 15: byte(i + 1)}),
		}
	}
	if c.Bridge {
		err = l.bridge(c)
	} else {
		err = l.pair(l.A, l.B, c)
	}
	if err != nil {
		return nil, err
	}
	for _, h := range []*Host{l.A, l.B} {
		if err := h.configure(); err != nil {
			return nil, err
		}
		if c.Cut {
			if err := h.cut(); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// Close takes the network down. Sockets that are still open keep their own
// namespace alive without it.
func (l *Lab) Close() {
	for _, h := range l.handles {
		h.Close()
	}
	for _, ns := range l.namespaces {
		_ = ns.Close()
	}
}

// namespace makes one that nothing but the descriptor holds.
func (l *Lab) namespace() (netns.NsHandle, *netlink.Handle, error) {
	var ns netns.NsHandle
	if err := onOwnThread(func() (err error) { ns, err = netns.New(); return }); err != nil {
		return 0, nil, fmt.Errorf("netlab: new namespace: %w", err)
	}
	l.namespaces = append(l.namespaces, ns)
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, nil, fmt.Errorf("netlab: netlink: %w", err)
	}
	l.handles = append(l.handles, h)
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	return ns, h, err
}

// onOwnThread runs f on a thread that ends with it, whatever it did to itself.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Do runs f on the host, on a goroutine and thread of its own, and waits for
// it. Goroutines that f starts do not run there.
func (h *Host) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(h.namespace); err != nil {
			return fmt.Errorf("netlab: enter a namespace: %w", err)
		}
		return f()
	})
}

// pair joins two hosts by a veth pair.
func (l *Lab) pair(a, b *Host, c Config) error {
	return addVeth(a.Netlink, a.Device, b.namespace, b.Device, c)
}

// addVeth makes one end called name where h is, the other called peer in ns.
func addVeth(h *netlink.Handle, name string, ns netns.NsHandle, peer string, c Config) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.NumRxQueues, attrs.NumTxQueues = name, c.MTU, c.Queues, c.Queues
	err := h.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(ns), PeerMTU: uint32(c.MTU),
		PeerNumRxQueues: uint32(c.Queues), PeerNumTxQueues: uint32(c.Queues),
	})
	if err != nil {
		return fmt.Errorf("netlab: veth pair %s, %s: %w", name, peer, err)
	}
	return nil
}

// bridge joins them by a bridge.
func (l *Lab) bridge(c Config) error {
	ns, h, err := l.namespace()
	if err != nil {
		return err
	}
	l.Switch = &Host{Device: "port0", Netlink: h, namespace: ns}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "bridge", c.MTU
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := h.LinkAdd(bridge); err != nil {
		return fmt.Errorf("netlab: bridge: %w", err)
	}
	for i, host := range []*Host{l.A, l.B} {
		port := fmt.Sprintf("port%d", i)
		if err := addVeth(h, port, host.namespace, host.Device, c); err != nil {
			return err
		}
		p, err := h.LinkByName(port)
		if err == nil {
			err = errors.Join(h.LinkSetMaster(p, bridge), h.LinkSetUp(p))
		}
		if err != nil {
			return fmt.Errorf("netlab: bridge port: %w", err)
		}
		if port == l.Switch.Device {
			l.Switch.Index, l.Switch.MAC = p.Attrs().Index, p.Attrs().HardwareAddr
		}
	}
	return h.LinkSetUp(bridge)
}

// cut sees to Config.Cut.
func (h *Host) cut() error {
	device, err := h.Netlink.LinkByName(h.Device)
	if err == nil {
		// The package's function works in the namespace of the thread.
		err = h.Do(func() error { return netlink.LinkSetGSOMaxSegs(device, 1) })
	}
	if err != nil {
		return fmt.Errorf("netlab: one segment per packet on %s: %w", h.Device, err)
	}
	return nil
}

// configure brings the host's interface up and gives it addresses.
func (h *Host) configure() error {
	device, err := h.Netlink.LinkByName(h.Device)
	if err != nil {
		return fmt.Errorf("netlab: %s: %w", h.Device, err)
	}
	h.Index, h.MAC = device.Attrs().Index, device.Attrs().HardwareAddr
	// Else addresses, the link-local one too, would be of no use for a second or two.
	if err := h.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/"+h.Device+"/accept_dad", []byte("0"), 0)
	}); err != nil {
		return fmt.Errorf("netlab: duplicate address detection of %s: %w", h.Device, err)
	}
	if err := h.Netlink.LinkSetUp(device); err != nil {
		return fmt.Errorf("netlab: %s: up: %w", h.Device, err)
	}
	for _, p := range []netip.Prefix{netip.PrefixFrom(h.IPv4, 24), netip.PrefixFrom(h.IPv6, 64)} {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if err := h.Netlink.AddrAdd(device, addr); err != nil {
			return fmt.Errorf("netlab: address %v: %w", p, err)
		}
	}
	return nil
}
