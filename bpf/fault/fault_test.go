package fault

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"blockd.dev/bpf"
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const port = 7700

var (
	near4 = netip.MustParseAddr("10.9.2.1")
	far4  = netip.MustParseAddr("10.9.2.2")
	near6 = netip.MustParseAddr("fd00:9:2::1")
	far6  = netip.MustParseAddr("fd00:9:2::2")
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a wire between two namespaces, with a Fault at the near end and
// UDP sockets at both.
type world struct {
	t         *testing.T
	fault     *Fault
	nic       int
	near, far map[bool]*net.UDPConn // by whether it is IPv6
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loading programs into the kernel needs root; run the tests of this package by sudo")
	}
	if errors.Is(trafficControl(t), bpf.ErrUnsupported) {
		t.Skip("Linux 6.6 is the oldest for package fault") // earned: the kernel is older than the documented minimum
	}
	stayOnOneProcessor(t)
	home, err := netns.Get()
	must(t, err)
	farNS, nearNS := newNetns(t), newNetns(t)
	t.Cleanup(func() {
		must(t, netns.Set(home)) // else the thread dies locked rather than serve another test
		_, _, _ = home.Close(), farNS.Close(), nearNS.Close()
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "fault-a"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "fault-b", PeerNamespace: netlink.NsFd(farNS)}))
	w := &world{t: t, near: map[bool]*net.UDPConn{}, far: map[bool]*net.UDPConn{}}
	must(t, netns.Set(farNS))
	w.setUp("fault-b", far4, far6, w.far)
	must(t, netns.Set(nearNS))
	w.nic = w.setUp("fault-a", near4, near6, w.near)
	for _, v6 := range []bool{false, true} { // the neighbours get to know each other
		w.send(w.near[v6], w.far[v6], 0)
		w.receive(w.far[v6], 1)
		w.send(w.far[v6], w.near[v6], 0)
		w.receive(w.near[v6], 1)
	}
	w.fault, err = Load(Config{Interface: w.nic, Port: port, Seed: 1})
	must(t, err)
	t.Cleanup(func() { must(t, w.fault.Close()) })
	return w
}

// trafficControl is nil when the kernel has what Load needs.
func trafficControl(t *testing.T) error {
	t.Helper()
	for _, f := range bpf.Features() {
		if f.Name == bpf.FeatureTrafficControl {
			return f.Err
		}
	}
	t.Fatal("package bpf knows nothing of traffic control")
	return nil
}

// TestOldKernelIsNamed: before Linux 6.6, Load says what is missing.
func TestOldKernelIsNamed(t *testing.T) {
	want := trafficControl(t)
	f, err := Load(Config{Interface: 1})
	if want == nil {
		must(t, err)
		must(t, f.Close())
	} else if !errors.Is(err, bpf.ErrUnsupported) || !strings.Contains(err.Error(), "Linux 6.6") {
		t.Errorf("without %v: %v", want, err)
	} else {
		t.Log(err)
	}
}

// stayOnOneProcessor binds the test's goroutine to a thread and that to a
// processor, so that what it sends stays in order on the wire.
func stayOnOneProcessor(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &before))
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		must(t, unix.SchedSetaffinity(0, &before))
		runtime.UnlockOSThread()
	})
}

func newNetns(t *testing.T) netns.NsHandle {
	t.Helper()
	ns, err := netns.New()
	must(t, err)
	return ns
}

func (w *world) setUp(name string, v4, v6 netip.Addr, sockets map[bool]*net.UDPConn) int {
	w.t.Helper()
	l, err := netlink.LinkByName(name)
	must(w.t, err)
	for _, cidr := range []string{v4.String() + "/24", v6.String() + "/64"} {
		a, err := netlink.ParseAddr(cidr)
		must(w.t, err)
		a.Flags = 0x02 // IFA_F_NODAD: IPv6 addresses are usable at once
		must(w.t, netlink.AddrAdd(l, a))
	}
	must(w.t, netlink.LinkSetMTU(l, 9000))
	must(w.t, netlink.LinkSetUp(l))
	for isV6, addr := range map[bool]netip.Addr{false: v4, true: v6} {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		must(w.t, err)
		must(w.t, c.SetReadBuffer(4<<20))
		w.t.Cleanup(func() { c.Close() })
		sockets[isV6] = c
	}
	return l.Attrs().Index
}

// Datagrams are numbers, with a pattern behind them that tells damage.
const datagramLen = 333

func datagram(n int) []byte {
	b := bytes.Repeat([]byte{0xa5}, datagramLen)
	binary.BigEndian.PutUint64(b, uint64(n))
	return b
}

func (w *world) send(from, to *net.UDPConn, n int) {
	w.t.Helper()
	_, err := from.WriteToUDPAddrPort(datagram(n), to.LocalAddr().(*net.UDPAddr).AddrPort())
	must(w.t, err)
}

// receive waits for as many datagrams, and returns them.
func (w *world) receive(c *net.UDPConn, count uint64) [][]byte {
	w.t.Helper()
	must(w.t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	var all [][]byte
	for uint64(len(all)) < count {
		b := make([]byte, datagramLen+1)
		n, err := c.Read(b)
		if err != nil {
			w.t.Fatalf("%d of %d datagrams arrived: %v", len(all), count, err)
		}
		all = append(all, b[:n])
	}
	return all
}

// nothingMore fails if another datagram is there.
func (w *world) nothingMore(c *net.UDPConn) {
	w.t.Helper()
	must(w.t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if n, err := c.Read(make([]byte, datagramLen)); !errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("one datagram more than expected, of %d bytes, %v", n, err)
	}
}

func (w *world) counts(m Match) Counts {
	w.t.Helper()
	c, err := w.fault.Counts(m)
	must(w.t, err)
	return c
}

// about fails unless got is what a rate of n gives, within 5 standard deviations.
func about(t *testing.T, what string, got uint64, n int, rate float64) {
	t.Helper()
	mean := float64(n) * rate
	if math.Abs(float64(got)-mean) > 5*math.Sqrt(mean*(1-rate))+1 {
		t.Errorf("%s: %d of %d, at a rate of %v", what, got, n, rate)
	}
}

// TestRatesOnTraffic sends real datagrams both ways, by IPv4 and IPv6: what arrives
// is what the counters say, and the counters are what the rates say.
func TestRatesOnTraffic(t *testing.T) {
	w := newWorld(t)
	const n = 2000
	for _, v6 := range []bool{false, true} {
		for _, c := range []struct {
			direction Direction
			from, to  *net.UDPConn
			rates     Rates
		}{
			{Leaving, w.near[v6], w.far[v6], Rates{Drop: 0.3, Duplicate: 0.2, Corrupt: 0.1}},
			{Arriving, w.far[v6], w.near[v6], Rates{Drop: 0.1, Duplicate: 0.3, Corrupt: 0.2}},
		} {
			m := Match{Direction: c.direction, Source: c.from.LocalAddr().(*net.UDPAddr).AddrPort().Addr()}
			must(t, w.fault.Set(m, c.rates))
			for i := range n {
				w.send(c.from, c.to, i)
			}
			// When another datagram has arrived, all before it are through.
			w.send(other(c.from, w, v6), other(c.to, w, v6), 0)
			w.receive(other(c.to, w, v6), 1)
			got := w.counts(m)
			arrived := w.receive(c.to, got.Seen-got.Dropped+got.Duplicated)
			w.nothingMore(c.to)
			var damaged uint64
			for _, b := range arrived {
				if len(b) != datagramLen {
					t.Fatalf("%d bytes arrived, want %d", len(b), datagramLen)
				}
				if number := binary.BigEndian.Uint64(b); number >= n || !bytes.Equal(b, datagram(int(number))) {
					damaged++
				}
			}
			about(t, "dropped", got.Dropped, n, c.rates.Drop)
			about(t, "duplicated", got.Duplicated, n-int(got.Dropped), c.rates.Duplicate)
			about(t, "corrupted", got.Corrupted, n-int(got.Dropped), c.rates.Corrupt)
			// A corrupted datagram may have been duplicated as well; the kernel
			// accepted each, so their checksums were right. A bit of the number
			// may have made it another datagram's first byte, never its own.
			if got.Seen != n || damaged < got.Corrupted || damaged > got.Corrupted+got.Duplicated {
				t.Errorf("%v: counted %+v; %d arrived damaged", c.direction, got, damaged)
			}
			must(t, w.fault.Clear(m))
			w.send(c.from, c.to, 1)
			w.receive(c.to, 1)
			if again := w.counts(m); again != got {
				t.Errorf("after Clear, counts went on from %+v to %+v", got, again)
			}
		}
	}
}

// other returns the socket of the other address family, at the same end.
func other(c *net.UDPConn, w *world, v6 bool) *net.UDPConn {
	if c == w.near[v6] {
		return w.near[!v6]
	}
	return w.far[!v6]
}

// TestDelayReorders: late datagrams all arrive, none early, in another order.
func TestDelayReorders(t *testing.T) {
	w := newWorld(t)
	const n, delayMin, delayMax = 300, 5 * time.Millisecond, 30 * time.Millisecond
	for _, v6 := range []bool{false, true} {
		m := Match{Direction: Leaving, Destination: far4}
		if v6 {
			m.Destination = far6
		}
		must(t, w.fault.Set(m, Rates{Delay: 0.5, DelayMin: delayMin, DelayMax: delayMax}))
		start := time.Now()
		for i := range n {
			w.send(w.near[v6], w.far[v6], i)
		}
		arrived := w.receive(w.far[v6], n)
		got := w.counts(m)
		if took := time.Since(start); took < delayMin {
			t.Errorf("all arrived after %v, want some later than %v", took, delayMin)
		}
		about(t, "delayed", got.Delayed, n, 0.5)
		if got.Overrun != 0 {
			t.Errorf("counted %+v", got)
		}
		seen, reordered := map[uint64]bool{}, 0
		for i, b := range arrived {
			number := binary.BigEndian.Uint64(b)
			if seen[number] || !bytes.Equal(b, datagram(int(number))) {
				t.Fatalf("datagram %d arrived twice, or damaged", number)
			}
			seen[number] = true
			if i > 0 && number < binary.BigEndian.Uint64(arrived[i-1]) {
				reordered++
			}
		}
		if reordered == 0 {
			t.Error("all arrived in order")
		}
		w.nothingMore(w.far[v6])
	}
}

// TestPartitionIsOfOneDirection: one direction is dead, the other lives, other
// ports live, and Close ends it.
func TestPartitionIsOfOneDirection(t *testing.T) {
	w := newWorld(t)
	m := Match{Direction: Leaving, Source: near4, Destination: far4}
	must(t, w.fault.Set(m, Rates{Drop: 1}))
	const n = 100
	for i := range n {
		w.send(w.near[false], w.far[false], i)
		w.send(w.far[false], w.near[false], i)
		w.send(w.near[true], w.far[true], i)
	}
	w.receive(w.near[false], n)
	w.receive(w.far[true], n)
	w.nothingMore(w.far[false])
	if got, want := w.counts(m), (Counts{Seen: n, Dropped: n}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	must(t, w.fault.Close())
	w.send(w.near[false], w.far[false], 1)
	w.receive(w.far[false], 1)
}

// TestTheMostParticularRuleCounts adds rules from the most general on: each
// takes over from those before.
func TestTheMostParticularRuleCounts(t *testing.T) {
	w := newWorld(t)
	rules := []Match{
		{Direction: Leaving},
		{Direction: Leaving, Source: near4},
		{Direction: Leaving, Destination: far4},
		{Direction: Leaving, Source: near4, Destination: far4},
	}
	must(t, w.fault.Set(Match{Direction: Arriving}, Rates{Drop: 1}))
	for i, m := range rules {
		must(t, w.fault.Set(m, Rates{}))
		w.send(w.near[false], w.far[false], 1)
		w.receive(w.far[false], 1)
		for j, rule := range rules {
			want := uint64(0)
			if j <= i {
				want = 1
			}
			if got := w.counts(rule).Seen; got != want {
				t.Errorf("with rules to %+v: %+v has seen %d, want %d", m, rule, got, want)
			}
		}
	}
}

// craft makes a frame from near4 to far4, with a right UDP checksum.
func craft(payload []byte) []byte {
	be := binary.BigEndian
	f := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0}
	f = be.AppendUint16(f, uint16(28+len(payload)))
	f = append(f, 0, 0, 0, 0, 64, 17, 0, 0)
	f = append(append(f, near4.AsSlice()...), far4.AsSlice()...)
	udp := be.AppendUint16(be.AppendUint16(nil, port), port)
	udp = append(be.AppendUint16(udp, uint16(8+len(payload))), 0, 0)
	udp = append(udp, payload...)
	be.PutUint16(udp[6:], sum(uint64(17+len(udp)), f[26:34])) // as the kernel leaves it to the NIC
	f = append(f, udp...)
	finishChecksum(f)
	return f
}

func checksumIsRight(f []byte) bool {
	return sum(uint64(17+len(f)-34), append(bytes.Clone(f[26:34]), f[34:]...)) == 0xffff
}

// TestFaultsAreAFunctionOfTheSeed runs the program on single frames: it does to
// the n-th what a second implementation of its random numbers says, and flips
// just one bit, whatever the length.
func TestFaultsAreAFunctionOfTheSeed(t *testing.T) {
	w := newWorld(t)
	m := Match{Direction: Arriving, Source: near4}
	rates := Rates{Drop: 0.25, Corrupt: 0.5}
	must(t, w.fault.Set(m, rates))
	seed := m.seed(1)
	random := func(nth, which uint64) uint64 { return mix(seed + (nth*6+which+1)*golden) }
	happens := func(nth, which uint64, rate float64) bool {
		return float64(random(nth, which)>>32) < rate*(1<<32)
	}
	for nth := range uint64(500) {
		f := craft(bytes.Repeat([]byte{byte(nth)}, int(nth%70)))
		if !checksumIsRight(f) {
			t.Fatalf("crafted a frame with a wrong checksum: %x", f)
		}
		out := make([]byte, len(f)+64)
		options := &ebpf.RunOptions{Data: f, DataOut: out}
		verdict, err := w.fault.objects.FaultArriving.Run(options)
		must(t, err)
		if dropped := verdict == 2; dropped != happens(nth, 0, rates.Drop) {
			t.Fatalf("frame %d: dropped %v, want %v", nth, dropped, !dropped)
		} else if dropped {
			continue
		}
		flipped := 0
		for i, b := range options.DataOut {
			if i != 40 && i != 41 { // but for the checksum
				flipped += bits.OnesCount8(b ^ f[i])
			}
		}
		want := 0
		if len(f) > 42 && happens(nth, 1, rates.Corrupt) {
			want = 1
		}
		if flipped != want || !checksumIsRight(options.DataOut) {
			t.Errorf("frame %d of %d bytes: %d bits are inverted, want %d; checksum right: %v", nth, len(f), flipped, want, checksumIsRight(options.DataOut))
		}
	}
}

func TestFinishChecksumLeavesOthersAlone(t *testing.T) {
	right := craft([]byte("payload"))
	for name, f := range map[string][]byte{
		"right": right,
		"none":  append(append(bytes.Clone(right[:40]), 0, 0), right[42:]...),
		"wrong": append(append(bytes.Clone(right[:40]), 1, 2), right[42:]...),
		"ARP":   append(append(bytes.Clone(right[:12]), 8, 6), right[14:]...),
	} {
		got := bytes.Clone(f)
		finishChecksum(got)
		if !bytes.Equal(got, f) {
			t.Errorf("%s: changed to %x from %x", name, got, f)
		}
	}
	for n := 14; n < len(right); n++ {
		finishChecksum(bytes.Clone(right[:n])) // must not panic
	}
}

// TestDecodeLatePutsTheTagBack, and refuses what is no record.
func TestDecodeLatePutsTheTagBack(t *testing.T) {
	frame := craft([]byte("x"))
	record := binary.NativeEndian.AppendUint64(nil, 77)
	record = binary.NativeEndian.AppendUint32(record, uint32(len(frame)))
	record = binary.NativeEndian.AppendUint16(record, 5)
	record = binary.NativeEndian.AppendUint16(record, 0x8100)
	record = append(record, frame...)
	got, ok := decodeLate(append(record, 0, 0, 0))
	want := append(append(bytes.Clone(frame[:12]), 0x81, 0, 0, 5), frame[12:]...)
	if !ok || got.dueNs != 77 || !bytes.Equal(got.frame, want) {
		t.Errorf("decoded %+v, %v; want %x", got, ok, want)
	}
	for n := range record {
		if _, ok := decodeLate(record[:n]); ok {
			t.Errorf("%d bytes of %d were decoded", n, len(record))
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		m Match
		r Rates
	}{
		{Match{}, Rates{Drop: 1.1}},
		{Match{}, Rates{Corrupt: -0.1}},
		{Match{}, Rates{Duplicate: math.NaN()}},
		{Match{Direction: Arriving}, Rates{Delay: 0.1, DelayMin: time.Millisecond}},
		{Match{Direction: Leaving}, Rates{Delay: 0.1, DelayMin: 2 * time.Hour}},
		{Match{Direction: 7}, Rates{}},
	} {
		if err := w.fault.Set(c.m, c.r); err == nil {
			t.Errorf("%+v, %+v was accepted", c.m, c.r)
		}
	}
	for _, index := range []int{0, 99999} {
		if f, err := Load(Config{Interface: index}); err == nil {
			t.Errorf("loaded on interface %d: %v", index, f.Close())
		}
	}
}

// TestCloseTakesTheProgramsOff, and a second Close is nothing.
func TestCloseTakesTheProgramsOff(t *testing.T) {
	w := newWorld(t)
	for round, want := range []int{1, 0, 0} {
		for _, place := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			got, err := link.QueryPrograms(link.QueryOptions{Target: w.nic, Attach: place})
			must(t, err)
			if len(got.Programs) != want {
				t.Errorf("round %d: %d programs at %v, want %d", round, len(got.Programs), place, want)
			}
		}
		must(t, w.fault.Close())
	}
}

// TestLargeFramesCanBeLate, up to a jumbo frame.
func TestLargeFramesCanBeLate(t *testing.T) {
	w := newWorld(t)
	must(t, w.fault.Set(Match{Direction: Leaving}, Rates{Delay: 1, DelayMin: time.Millisecond}))
	payload := bytes.Repeat([]byte{7}, 8900)
	socket := w.near[false]
	_, err := socket.WriteToUDPAddrPort(payload, w.far[false].LocalAddr().(*net.UDPAddr).AddrPort())
	must(t, err)
	if got := w.counts(Match{Direction: Leaving}); got.Delayed != 1 || got.Overrun != 0 {
		t.Fatalf("counted %+v, want one late", got)
	}
	must(t, w.far[false].SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 10000)
	n, err := w.far[false].Read(b)
	must(t, err)
	if !bytes.Equal(b[:n], payload) {
		t.Errorf("%d bytes arrived, want %d", n, len(payload))
	}
}

// TestUncutPacketsAreNotLate: what the kernel has still to cut into datagrams
// (UDP_SEGMENT) counts as one, and passes at once.
func TestUncutPacketsAreNotLate(t *testing.T) {
	w := newWorld(t)
	m := Match{Direction: Leaving}
	must(t, w.fault.Set(m, Rates{Delay: 1, DelayMin: time.Minute}))
	raw, err := w.near[false].SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, datagramLen)
	}))
	must(t, err)
	_, err = w.near[false].WriteToUDPAddrPort(append(append(datagram(1), datagram(2)...), datagram(3)...),
		w.far[false].LocalAddr().(*net.UDPAddr).AddrPort())
	must(t, err)
	for i, b := range w.receive(w.far[false], 3) {
		if !bytes.Equal(b, datagram(i+1)) {
			t.Errorf("datagram %d arrived as %x", i+1, b)
		}
	}
	if got, want := w.counts(m), (Counts{Seen: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}
