package neigh

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is two network namespaces with a wire between them: here, where the
// test's thread is, and there.
type world struct {
	t     *testing.T
	here  *netlink.Handle
	there *netlink.Handle
	a, b  netlink.Link // the wire's ends, here and there
	ns    netns.NsHandle
}

// newWorld makes the namespaces; they have no names, and go with their users.
func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("network namespaces need root; run the tests of this package by sudo")
	}
	runtime.LockOSThread()
	before, err := netns.Get()
	must(t, err)
	there, err := netns.New()
	must(t, err)
	here, err := netns.New()
	must(t, err)
	t.Cleanup(func() {
		must(t, netns.Set(before)) // else the thread dies locked rather than serve another test
		_, _, _ = before.Close(), there.Close(), here.Close()
		runtime.UnlockOSThread()
	})
	w := &world{t: t, ns: there}
	w.here, err = netlink.NewHandleAt(here, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(w.here.Close)
	w.there, err = netlink.NewHandleAt(there, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(w.there.Close)

	attrs := netlink.NewLinkAttrs()
	attrs.Name = "neigh-a"
	must(t, w.here.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "neigh-b", PeerNamespace: netlink.NsFd(there)}))
	w.a, err = w.here.LinkByName("neigh-a")
	must(t, err)
	w.b, err = w.there.LinkByName("neigh-b")
	must(t, err)
	w.addr(w.here, w.a, "10.9.1.1/24")
	w.addr(w.there, w.b, "10.9.1.2/24")
	w.addr(w.here, w.a, "fd00:9:1::1/64")
	w.addr(w.there, w.b, "fd00:9:1::2/64")
	must(t, w.here.LinkSetUp(w.a))
	must(t, w.there.LinkSetUp(w.b))
	return w
}

// addr gives l an address, for IPv6 without duplicate address detection, which
// takes a second.
func (w *world) addr(h *netlink.Handle, l netlink.Link, cidr string) {
	w.t.Helper()
	a, err := netlink.ParseAddr(cidr)
	must(w.t, err)
	if a.IP.To4() == nil {
		a.Flags = 0x02 // IFA_F_NODAD
	}
	must(w.t, h.AddrReplace(l, a))
}

func (w *world) route(cidr, via string, mtu int) *netlink.Route {
	w.t.Helper()
	_, dst, err := net.ParseCIDR(cidr)
	must(w.t, err)
	return &netlink.Route{LinkIndex: w.a.Attrs().Index, Dst: dst, Gw: net.ParseIP(via), MTU: mtu}
}

// watched is a Table of which a test can await a state.
type watched struct {
	*Table
	t       *testing.T
	changes chan struct{}
}

func open(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, changes: make(chan struct{}, 1)}
	table, err := Open(Config{OnChange: func() {
		select {
		case w.changes <- struct{}{}:
		default:
		}
	}})
	must(t, err)
	t.Cleanup(table.Close)
	w.Table = table
	return w
}

// await waits until what is known of dst is as told by ok, and returns it.
func (w *watched) await(dst netip.Addr, what string, ok func(h Hop, found bool) bool) Hop {
	w.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		h, found := w.Lookup(dst)
		if ok(h, found) {
			return h
		}
		select {
		case <-w.changes:
		case <-deadline.C:
			w.t.Fatalf("%v: not %s after 10 s: %+v, %v; %+v", dst, what, h, found, w.Status())
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
