package bpf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	localV4 = netip.MustParseAddr("10.9.0.1")
	localV6 = netip.MustParseAddr("fd00:9::1")
	peerV4  = netip.MustParseAddr("10.9.0.2")
	peerV6  = netip.MustParseAddr("fd00:9::2")
	other   = netip.MustParseAddr("10.9.0.3")
)

const port = 7700

// steerOn loads the program for the interface, for as long as the test runs.
func steerOn(t testing.TB, nic netlink.Link, mode Mode) *Steer {
	t.Helper()
	s, err := LoadSteer(Config{Interface: nic.Attrs().Index, Port: port, Local: []netip.Addr{localV4, localV6}, Mode: mode, PeersMax: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestAttachInEachMode(t *testing.T) {
	enterNetns(t)
	a, _ := vethPair(t, 2)
	frags := haveFrags() == nil
	if frags { // a large MTU needs the multi-buffer variant
		if err := netlink.LinkSetMTU(a, 9000); err != nil {
			t.Fatal(err)
		}
	}
	for _, mode := range []Mode{Auto, Native, Generic} {
		c := Config{Interface: a.Attrs().Index, Port: port, Local: []netip.Addr{localV4}, Mode: mode}
		s, err := LoadSteer(c)
		if err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		want := mode
		if mode == Auto {
			want = Native
		}
		if s.Mode() != want || s.Frags() != frags || s.Queues() != 2 {
			t.Errorf("%v: runs as %v, frags %v, %d queues; want %v, %v, 2", mode, s.Mode(), s.Frags(), s.Queues(), want, frags)
		}
		second, err := LoadSteer(c)
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "steer") {
			t.Errorf("%v: a second program: %v, %v; want ErrBusy, and who is there", mode, second, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%v: close: %v", mode, err)
		}
		if xdpAttached(t, a) {
			t.Errorf("%v: a program is attached after Close", mode)
		}
	}
}

func xdpAttached(t testing.TB, nic netlink.Link) bool {
	t.Helper()
	l, err := netlink.LinkByIndex(nic.Attrs().Index)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
}

// TestDriverWithoutXDP: the loopback interface has no native XDP; Auto takes
// generic, Native says so.
func TestDriverWithoutXDP(t *testing.T) {
	enterNetns(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if s := steerOn(t, lo, Auto); s.Mode() != Generic {
		t.Errorf("on the loopback interface, auto is %v", s.Mode())
	}
	enterNetns(t)
	if lo, err = netlink.LinkByName("lo"); err != nil {
		t.Fatal(err)
	}
	_, err = LoadSteer(Config{Interface: lo.Attrs().Index, Port: port, Local: []netip.Addr{localV4}, Mode: Native})
	if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "generic") {
		t.Errorf("native on the loopback interface: %v; want ErrUnsupported and what to do", err)
	}
}

func TestConfigRefusals(t *testing.T) {
	good := Config{Interface: 1, Port: port, Local: []netip.Addr{localV4}}
	for word, change := range map[string]func(*Config){
		"Interface": func(c *Config) { c.Interface = 0 },
		"Port":      func(c *Config) { c.Port = 0 },
		"Local has": func(c *Config) { c.Local = []netip.Addr{netip.MustParseAddr("224.0.0.1")} },
		"addresses": func(c *Config) { c.Local = nil },
		"Mode":      func(c *Config) { c.Mode = 9 },
		"PeersMax":  func(c *Config) { c.PeersMax = -1 },
	} {
		c := good
		change(&c)
		if _, err := LoadSteer(c); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: %v; want an error about %s", c, err, word)
		}
	}
	enterNetns(t)
	good.Interface = 9999
	if _, err := LoadSteer(good); err == nil || !strings.Contains(err.Error(), "9999") {
		t.Errorf("an interface that is not there: %v", err)
	}
}

// TestAllowlist: what is in it, that counters outlive a second AllowPeer, and
// what a full one says.
func TestAllowlist(t *testing.T) {
	b := newBench(t) // room for 4, two are in
	b.withSocket()
	b.check(t, "plain", frame{}.bytes())
	third, fourth := netip.MustParseAddr("10.9.0.4"), netip.MustParseAddr("::ffff:10.9.0.5")
	for _, p := range []netip.Addr{third, fourth, peerV4} {
		if err := b.steer.AllowPeer(p); err != nil {
			t.Fatalf("%v: %v", p, err)
		}
		b.model.peers[p.Unmap()] = true
	}
	if err := b.steer.AllowPeer(other); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("the fifth peer of four: %v; want that the list is full", err)
	}
	c := b.counters(t)
	var addrs []string
	for _, p := range c.Peers {
		addrs = append(addrs, p.Addr.String())
		if p.Addr == peerV4 && p.Packets != 1 {
			t.Errorf("after a second AllowPeer, %+v; want 1 packet", p)
		}
	}
	if got, want := strings.Join(addrs, " "), "10.9.0.2 10.9.0.4 10.9.0.5 fd00:9::2"; got != want {
		t.Errorf("the peers are %s, want %s", got, want)
	}
	b.last = c
	b.check(t, "plain", frame{from: netip.MustParseAddr("10.9.0.5")}.bytes())

	for range 2 { // the second time it isn't there
		if err := b.steer.RemovePeer(peerV4); err != nil {
			t.Fatal(err)
		}
	}
	delete(b.model.peers, peerV4)
	b.last = b.counters(t)
	b.check(t, "plain", frame{}.bytes())
	for _, a := range []netip.Addr{{}, netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1")} {
		if err := b.steer.AllowPeer(a); err == nil {
			t.Errorf("%v was allowed", a)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	b := newBench(t)
	for _, q := range []int{-1, 1} {
		if err := b.steer.Register(q, 0); err == nil || !strings.Contains(err.Error(), "no queue") {
			t.Errorf("queue %d: %v", q, err)
		}
		if err := b.steer.Unregister(q); err == nil {
			t.Errorf("queue %d was unregistered", q)
		}
	}
	for name, family := range map[string]int{"UDP": unix.AF_INET, "unbound": unix.AF_XDP} {
		kind := unix.SOCK_DGRAM
		if family == unix.AF_XDP {
			kind = unix.SOCK_RAW
		}
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.steer.Register(0, fd); err == nil || !strings.Contains(err.Error(), "bound") {
			t.Errorf("%s socket: %v", name, err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.steer.Unregister(0); err != nil {
		t.Errorf("an empty slot: %v", err)
	}
}

// TestSocketThatClosesLeavesItsSlot: its queue's datagrams pass to the kernel.
func TestSocketThatClosesLeavesItsSlot(t *testing.T) {
	enterNetns(t)
	a, _ := vethPair(t, 1)
	b := newBench(t)
	fd := boundSocket(t, a.Attrs().Index)
	if err := b.steer.Register(0, fd); err != nil {
		t.Fatal(err)
	}
	b.model.socket = true
	b.check(t, "plain", frame{}.bytes())
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	b.model.socket = false
	b.check(t, "plain", frame{}.bytes())
}

// TestFeatures: a kernel has what its version says, and what it lacks is named.
func TestFeatures(t *testing.T) {
	needRoot(t)
	version, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	since := map[string]uint32{"XDP multi-buffer": linux(5, 18), FeatureTrafficControl: linux(6, 6)}
	for _, f := range Features() {
		switch {
		case version >= since[f.Name] && f.Err != nil:
			t.Errorf("%s: %v", f.Name, f.Err)
		case version < since[f.Name] && !errors.Is(f.Err, ErrUnsupported):
			t.Errorf("%s on Linux %d.%d: %v, want ErrUnsupported", f.Name, version>>16, version>>8&0xff, f.Err)
		}
		t.Logf("%s: %v", f.Name, f.Err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	nic := &netlink.LinkAttrs{Name: "eth9", Index: 9999}
	for _, c := range []struct {
		err  error
		kind error
		text string
	}{
		{explainFeature("XSKMAP", "4.18", ebpf.ErrNotSupported), ErrUnsupported, "Linux 4.18 or later"},
		{explainFeature("XSKMAP", "4.18", unix.EPERM), ErrPermission, "CAP_BPF"},
		{explainFeature("XSKMAP", "4.18", unix.EIO), unix.EIO, "XSKMAP"},
		{explainLoad(unix.EPERM), ErrPermission, "CAP_NET_ADMIN"},
		{explainLoad(unix.EIO), unix.EIO, "load"},
		{explainAttach(unix.EBUSY, nic, Native), ErrBusy, "eth9"},
		{explainAttach(unix.EEXIST, nic, Generic), ErrBusy, "UDP sockets"},
		{explainAttach(unix.EPERM, nic, Native), ErrPermission, "CAP_NET_ADMIN"},
		{explainAttach(unix.EOPNOTSUPP, nic, Native), ErrUnsupported, "mode generic"},
		{explainAttach(unix.ERANGE, nic, Native), ErrUnsupported, "MTU"},
	} {
		if !errors.Is(c.err, c.kind) || !strings.Contains(c.err.Error(), c.text) {
			t.Errorf("%q; want one that is %q and says %q", c.err, c.kind, c.text)
		}
	}
}
