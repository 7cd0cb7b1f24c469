package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	namespacesDir = "/run/netns" // where ip-netns(8) keeps them
	device        = "eth0"       // of every place
	bridgeName    = "bridge"
)

// macStart is what the MAC addresses of all places begin with: locally
// administered, of one station. The number of the place follows.
var macStart = [5]byte{0x02, 'b', 'l', 'k', 0}

func macOf(number int) net.HardwareAddr { return append(macStart[:], byte(number)) }

// port is the switch's interface to a place.
func (p *Place) port() string { return fmt.Sprintf("port%d", p.Number) }

// inNamespace runs f on a thread in the namespace. Goroutines that f starts do
// not run there; sockets stay where they were made.
func inNamespace(name string, f func() error) error {
	return onOwnThread(func() error {
		ns, err := netns.GetFromPath(filepath.Join(namespacesDir, name))
		if err != nil {
			return fmt.Errorf("cluster: network namespace %s: %w", name, err)
		}
		defer func() { _ = ns.Close() }()
		if err := netns.Set(ns); err != nil {
			return fmt.Errorf("cluster: enter network namespace %s: %w", name, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that nobody uses after it. The thread goes
// back where it was all the same: the first thread of a process doesn't end with its
// goroutine, and would hold the namespace that f put it in.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		origin, err := netns.Get()
		if err != nil {
			done <- fmt.Errorf("cluster: own network namespace: %w", err)
			return
		}
		err = f()
		done <- errors.Join(err, netns.Set(origin), origin.Close())
	}()
	return <-done
}

// makeNetwork makes the switch and a place for everyone.
func (s *state) makeNetwork() error {
	if err := os.MkdirAll(namespacesDir, 0o755); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	sw := s.namespace(switchName)
	if err := addNamespace(sw); err != nil {
		return err
	}
	if err := inNamespace(sw, s.makeBridge); err != nil {
		return err
	}
	for _, p := range s.Places {
		if err := addNamespace(p.Namespace); err != nil {
			return err
		}
		if err := inNamespace(sw, func() error { return s.plug(p) }); err != nil {
			return fmt.Errorf("cluster: wire from the switch to %s: %w", p.Name, err)
		}
		if err := inNamespace(p.Namespace, p.configure); err != nil {
			return fmt.Errorf("cluster: interface of %s: %w", p.Name, err)
		}
		if err := inNamespace(sw, func() error { return attachFilter(p.port()) }); err != nil {
			return fmt.Errorf("cluster: %s: %w", p.port(), err)
		}
	}
	return nil
}

func addNamespace(name string) error {
	return onOwnThread(func() error {
		ns, err := netns.NewNamed(name)
		if err != nil {
			return fmt.Errorf("cluster: network namespace %s: %w", name, err)
		}
		return ns.Close()
	})
}

// deleteNamespace removes the name, and with it all that is in the namespace
// once no process is there. A namespace that is gone is no error.
func deleteNamespace(name string) error {
	path := filepath.Join(namespacesDir, name)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// A name whose mount failed has nothing to unmount.
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cluster: network namespace %s: %w", name, err)
	}
	return os.Remove(path)
}

func (s *state) makeBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridgeName, s.Config.MTU
	snooping := false // it needs a querier, and there is none
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("cluster: bridge: %w", err)
	}
	return errors.Join(unfiltered(), netlink.LinkSetUp(bridge))
}

// unfiltered keeps the frames of bridges from the rules for routed packets: a switch has
// none, and looking for them took some hundredths of the processors. A kernel that does
// not know how to do that has nothing to turn off.
func unfiltered() error {
	for _, rules := range []string{"iptables", "ip6tables", "arptables"} {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+rules, []byte("0"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cluster: bridge: %w", err)
		}
	}
	return nil
}

// plug makes the wire from the switch, in whose namespace it runs, to p.
func (s *state) plug(p *Place) error {
	ns, err := netns.GetFromPath(filepath.Join(namespacesDir, p.Namespace))
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = p.port(), s.Config.MTU
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: device, PeerNamespace: netlink.NsFd(ns),
		PeerHardwareAddr: macOf(p.Number), PeerMTU: uint32(s.Config.MTU)})
	if err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	port, err := netlink.LinkByName(p.port())
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetMaster(port, bridge), netlink.LinkSetUp(port))
}

// configure brings the interface of p up, in whose namespace it runs.
func (p *Place) configure() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// Else the IPv6 addresses would be of no use for a second or two. The
	// directory is of this thread's namespace: /proc/sys/net follows it.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+device+"/accept_dad", []byte("0"), 0); err != nil {
		return err
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	for _, a := range []netip.Prefix{netip.PrefixFrom(p.IPv4, 24), netip.PrefixFrom(p.IPv6, 64)} {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())}}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("address %v: %w", a, err)
		}
	}
	return nil
}
