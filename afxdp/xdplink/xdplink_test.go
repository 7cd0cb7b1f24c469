package xdplink

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/linktest"
	"blockd.dev/afxdp/netlab"
	"blockd.dev/blockdev/arena"
	"blockd.dev/bpf"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		child() // does not return
	}
	goleak.VerifyTestMain(m)
}

const port = 7700

// patience is how long something that must happen may take.
const patience = 10 * time.Second

func newLab(t testing.TB, c netlab.Config) *netlab.Lab {
	t.Helper()
	lab, err := netlab.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	return lab
}

// openOn opens a link on the host until the test ends.
func openOn(t testing.TB, h *netlab.Host, c Config) *Link {
	t.Helper()
	c.Interface, c.Port = h.Device, port
	var l *Link
	if err := h.Do(func() (err error) { l, err = Open(c); return }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// openPair opens a link on each host, which know the way to each other.
func openPair(t testing.TB, lab *netlab.Lab, ipv6 bool, c Config) (a, b *Link) {
	t.Helper()
	ca, cb := c, c
	ca.Local, ca.Peers, cb.Local, cb.Peers = lab.A.IPv4, []netip.Addr{lab.B.IPv4}, lab.B.IPv4, []netip.Addr{lab.A.IPv4}
	if ipv6 {
		ca.Local, ca.Peers, cb.Local, cb.Peers = lab.A.IPv6, []netip.Addr{lab.B.IPv6}, lab.B.IPv6, []netip.Addr{lab.A.IPv6}
	}
	a, b = openOn(t, lab.A, ca), openOn(t, lab.B, cb)
	awaitWay(t, a, b.LocalAddr().Addr())
	awaitWay(t, b, a.LocalAddr().Addr())
	return a, b
}

// awaitWay waits until the link knows how to reach the peer.
func awaitWay(t testing.TB, l *Link, peer netip.Addr) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if _, ok := l.lookup(peer); ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no way to %v: %+v", peer, l.Device().Neighbours())
		}
		if err := l.Wait(time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// conformanceCase is a mode and a wire to run the suite of package linktest on.
type conformanceCase struct {
	name string
	lab  netlab.Config
	ipv6 bool
	mode Mode
	kind link.Kind
}

func (c *conformanceCase) run(t *testing.T) {
	linktest.Run(t, linktest.Suite{Open: func(t *testing.T) (link.Link, link.Link) {
		a, b := openPair(t, newLab(t, c.lab), c.ipv6, Config{Mode: c.mode, RxBuffers: 256, TxBuffers: 64})
		if a.Kind() != c.kind {
			t.Fatalf("kind %v, want %v; refused %v", a.Kind(), c.kind, a.Refused())
		}
		return a, b
	}})
}

// TestConformance: an AF_XDP link is a link.Link, with frames in several chunks.
// The other modes, families and wires run in the end-to-end tests.
func TestConformance(t *testing.T) {
	c := conformanceCase{"", netlab.Config{MTU: 9000}, false, Auto, link.XDPCopy}
	c.run(t)
}

// TestEachModeSaysWhyNotABetterOne: auto on a veth gets copy mode, since the
// driver has no zero-copy; asked for alone, that is the error.
func TestEachModeSaysWhyNotABetterOne(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	l := openOn(t, lab.A, Config{RxBuffers: 16, TxBuffers: 16})
	if got := fmt.Sprint(l.Refused()); l.Kind() != link.XDPCopy || !strings.Contains(got, "zero-copy: ") || !strings.Contains(got, "driver") {
		t.Errorf("%v, refused %s", l.Kind(), got)
	}
	err := lab.B.Do(func() error {
		l, err := Open(Config{Interface: lab.B.Device, Port: port, Mode: ZeroCopy})
		if err == nil {
			return l.Close()
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "driver") {
		t.Errorf("zero-copy on a veth: %v", err)
	}
	// A NIC takes one program, and one socket per queue.
	err = lab.A.Do(func() error {
		l, err := Open(Config{Interface: lab.A.Device, Port: port})
		if err == nil {
			return l.Close()
		}
		return err
	})
	if !errors.Is(err, bpf.ErrBusy) {
		t.Errorf("a second program on one NIC: %v", err)
	}
}

// TestRefusedConfigurations name what is wrong and leave nothing.
func TestRefusedConfigurations(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	small, err := arena.New(arena.Config{SizeBytes: 2 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	for name, c := range map[string]struct {
		config Config
		says   string
	}{
		"no interface":      {Config{Port: port}, "Config.Interface"},
		"no port":           {Config{Interface: "eth0"}, "Config.Port"},
		"mode":              {Config{Interface: "eth0", Port: port, Mode: 9}, "Config.Mode"},
		"buffers":           {Config{Interface: "eth0", Port: port, RxBuffers: 15}, "16 to 65536"},
		"unknown interface": {Config{Interface: "eth7", Port: port}, "eth7"},
		"queue":             {Config{Interface: "eth0", Port: port, Queue: 3}, "no queue 3"},
		"not ours":          {Config{Interface: "eth0", Port: port, Local: lab.B.IPv4}, "is not an address of eth0"},
		"bad peer":          {Config{Interface: "eth0", Port: port, Peers: []netip.Addr{{}}}, "unicast"},
		"small arena":       {Config{Interface: "eth0", Port: port, Arena: small}, "arena"},
		"no address":        {Config{Interface: "lo", Port: port}, "no global address"},
	} {
		err := lab.A.Do(func() error {
			l, err := Open(c.config)
			if err == nil {
				return errors.Join(errors.New("was opened"), l.Close())
			}
			return err
		})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors are left, before there were %d", after, before)
	}
	if err := small.Close(); err != nil {
		t.Error(err)
	}
}

// TestFaultAtEachDescriptorLeavesNothing lets the process have one descriptor
// more each time, so that every step which needs one fails in turn: sockets,
// maps, programs, the bpf_link, the eventfd. What was there before is all that is
// there after, and no program is on the NIC.
func TestFaultAtEachDescriptorLeavesNothing(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	var whole unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &whole); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &whole); err != nil {
			t.Fatal(err)
		}
	}
	defer restore()
	open := func() (l *Link, err error) {
		err = lab.A.Do(func() error {
			l, err = Open(Config{Interface: lab.A.Device, Port: port, Peers: []netip.Addr{lab.B.IPv4}, RxBuffers: 16, TxBuffers: 16})
			return err
		})
		return l, err
	}
	// Whatever the runtime and netlink keep for good, they have after this.
	l, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	faults := 0
	for room := 0; ; room++ {
		limited := whole
		limited.Cur = uint64(lowestFree(t) + room)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limited); err != nil {
			t.Fatal(err)
		}
		l, err := open()
		restore()
		if err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		} else {
			faults++
		}
		if after := descriptors(t); after != before {
			t.Fatalf("with room for %d descriptors (%v): %d are left, before there were %d", room, err, after, before)
		}
		if programAttached(t, lab.A) {
			t.Fatalf("with room for %d descriptors (%v): a program is still attached", room, err)
		}
		if err == nil {
			break
		}
	}
	if faults < 10 {
		t.Errorf("only %d faults were seen", faults)
	}
	t.Logf("%d faults", faults)
}

// lowestFree is the number that the next descriptor would get.
func lowestFree(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	return fd
}

func descriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

func TestModesHaveNames(t *testing.T) {
	for m := Auto; m <= Generic; m++ {
		if got, err := ParseMode(m.String()); err != nil || got != m {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	if _, err := ParseMode("turbo"); err == nil {
		t.Error("turbo is a mode")
	}
}
