package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// bench holds both variants of the program, loaded and attached to nothing, to
// be run on single frames (BPF_PROG_TEST_RUN).
type bench struct {
	t        testing.TB
	steer    *Steer
	programs map[string]*ebpf.Program
	model    model
	last     Counters
}

func newBench(t testing.TB) *bench {
	t.Helper()
	needRoot(t)
	c := Config{Interface: 1, Port: port, Local: []netip.Addr{localV4, localV6, trap}, PeersMax: 4, CountExtents: true, ExtentsMax: 1 << 16}
	s, programs, err := c.load(1)
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, steer: s, programs: map[string]*ebpf.Program{"plain": programs.plain}}
	if programs.frags != nil {
		b.programs["frags"] = programs.frags
	} else if haveFrags() == nil {
		t.Fatal("the program for multi-buffer frames was not loaded")
	}
	t.Cleanup(func() {
		if err := programs.close(); err != nil {
			t.Error(err)
		}
		if err := s.maps.Close(); err != nil {
			t.Error(err)
		}
	})
	b.model = model{locals: map[netip.Addr]bool{localV4: true, localV6: true, trap: true}, peers: map[netip.Addr]bool{}}
	for _, p := range []netip.Addr{peerV4, peerV6} {
		if err := s.AllowPeer(p); err != nil {
			t.Fatal(err)
		}
		b.model.peers[p] = true
	}
	b.last = b.counters(t)
	return b
}

func (b *bench) counters(t errorer) Counters {
	c, err := b.steer.Counters()
	if err != nil {
		t.Fatalf("%v", err)
	}
	return c
}

// withSocket puts an AF_XDP socket into the slot, for as long as the test runs.
// It needn't be bound: BPF_PROG_TEST_RUN ends where a frame would be delivered.
func (b *bench) withSocket() {
	b.t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = unix.Close(fd) })
	if err := b.steer.maps.Sockets.Put(uint32(0), uint32(fd)); err != nil {
		b.t.Fatal(err)
	}
	b.model.socket = true
}

// errorer is testing.TB or rapid.T.
type errorer interface {
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// check runs the frame through one variant, and compares the verdict and all
// counters with the model's.
func (b *bench) check(t errorer, variant string, f []byte) outcome {
	want := b.model.decide(f)
	out := make([]byte, len(f)+256)
	verdict, err := b.programs[variant].Run(&ebpf.RunOptions{Data: f, DataOut: out})
	if err != nil {
		t.Fatalf("run on %d bytes %x: %v", len(f), f, err)
	}
	if verdict != want.verdict {
		t.Errorf("%s: verdict %d on %x, want %d", variant, verdict, f, want.verdict)
	}
	now := b.counters(t)
	got := now.Queues[0].since(b.last.Queues[0])
	if got != want.queue {
		t.Errorf("%s: counted %+v on %x, want %+v", variant, got, f, want.queue)
	}
	for i, p := range now.Peers {
		before := b.last.Peers[i]
		delta := PeerCounters{Addr: p.Addr, Packets: p.Packets - before.Packets, Bytes: p.Bytes - before.Bytes}
		expected := PeerCounters{Addr: p.Addr}
		if want.peer.Addr == p.Addr {
			expected = want.peer
		}
		if delta != expected {
			t.Errorf("%s: counted %+v on %x, want %+v", variant, delta, f, expected)
		}
	}
	b.last = now
	return want
}

func (q QueueCounters) since(before QueueCounters) QueueCounters {
	q.Redirected -= before.Redirected
	q.NoSocket -= before.NoSocket
	q.UnknownPeer -= before.UnknownPeer
	q.Malformed -= before.Malformed
	q.Fragments -= before.Fragments
	q.Other -= before.Other
	return q
}

// crafted are frames of every kind, each with what must become of it while a
// socket is registered.
var crafted = []struct {
	name string
	f    frame
	want outcome
}{
	{"IPv4", frame{}, redirected},
	{"IPv4 with options", frame{options: 4}, redirected},
	{"IPv4 with all options there can be", frame{options: 40}, redirected},
	{"IPv4 with don't fragment", frame{fragment: 0x4000}, redirected},
	{"IPv6", frame{from: peerV6, to: localV6}, redirected},
	{"VLAN", frame{tags: []uint16{0x8100}}, redirected},
	{"service VLAN", frame{tags: []uint16{0x88a8}}, redirected},
	{"QinQ", frame{tags: []uint16{0x88a8, 0x8100}}, redirected},
	{"QinQ, IPv6", frame{tags: []uint16{0x8100, 0x8100}, from: peerV6, to: localV6}, redirected},
	{"no payload", frame{payload: []byte{}}, redirected},
	{"large", frame{payload: make([]byte, 3000)}, redirected},

	{"three VLAN tags", frame{tags: []uint16{0x88a8, 0x8100, 0x8100}}, otherwise},
	{"another port", frame{toPort: port + 1}, otherwise},
	{"the port with its bytes swapped", frame{toPort: port>>8 | port&0xff<<8}, otherwise},
	{"another destination", frame{to: other}, otherwise},
	{"another destination, IPv6", frame{from: peerV6, to: netip.MustParseAddr("fd00:9::3")}, otherwise},
	{"broadcast", frame{to: netip.MustParseAddr("255.255.255.255")}, otherwise},
	{"TCP", frame{protocol: 6}, otherwise},
	{"TCP, IPv6", frame{protocol: 6, from: peerV6, to: localV6}, otherwise},
	{"hop-by-hop options", frame{protocol: 0xff, from: peerV6, to: localV6}, otherwise}, // set to 0 below
	{"a header length too small for IPv4", frame{to: trap, headWords: 4}, otherwise},
	{"no header length", frame{headWords: -1}, otherwise},
	{"a fragment to another", frame{fragment: 0x2000, to: other}, otherwise},

	{"first fragment", frame{fragment: 0x2000}, fragment},
	{"middle fragment", frame{fragment: 0x2010}, fragment},
	{"last fragment", frame{fragment: 0x0010}, fragment},
	{"fragment of a stranger", frame{fragment: 0x0010, from: other}, fragment},
	{"fragment, IPv6", frame{protocol: 44, from: peerV6, to: localV6}, fragment},

	{"unknown peer", frame{from: other}, stranger},
	{"unknown peer, IPv6", frame{from: netip.MustParseAddr("fd00:9::3"), to: localV6}, stranger},
	{"unknown peer, UDP length 0", frame{from: other, udpLen: 1}, stranger},
	{"UDP length 7", frame{udpLen: 7}, malformed},
	{"UDP length 1, IPv6", frame{udpLen: 1, from: peerV6, to: localV6}, malformed},
}

// trap is a local address that looks like the ports of a datagram to us, to who
// looks for the UDP header 4 bytes too early.
var trap = netip.AddrFrom4([4]byte{10, 9, port >> 8, port & 0xff})

var (
	redirected = outcome{verdict: xdpRedirect, queue: QueueCounters{Redirected: 1}}
	otherwise  = outcome{verdict: xdpPass, queue: QueueCounters{Other: 1}}
	fragment   = outcome{verdict: xdpPass, queue: QueueCounters{Fragments: 1}}
	stranger   = outcome{verdict: xdpDrop, queue: QueueCounters{UnknownPeer: 1}}
	malformed  = outcome{verdict: xdpDrop, queue: QueueCounters{Malformed: 1}}
)

func (f frame) crafted() []byte {
	b := f.bytes()
	if f.protocol == 0xff {
		b[14+6] = 0 // hop-by-hop options
	}
	return b
}

// TestDecisions checks frames of every kind with both variants, with and without
// a socket; the expectations stand above, and the model is checked against them.
func TestDecisions(t *testing.T) {
	b := newBench(t)
	for _, socket := range []bool{false, true} {
		if socket {
			b.withSocket()
		}
		for _, c := range crafted {
			want := c.want
			if !socket && want.verdict == xdpRedirect {
				want = outcome{verdict: xdpPass, queue: QueueCounters{NoSocket: 1}}
			}
			for variant := range b.programs {
				got := b.check(t, variant, c.f.crafted())
				if got.verdict != want.verdict || got.queue != want.queue {
					t.Errorf("%s: the model says %+v, want %+v", c.name, got, want)
				}
			}
		}
	}
	if b.programs["frags"] != nil {
		b.check(t, "frags", frame{payload: make([]byte, 8900)}.bytes())
	}
}

// TestTruncated cuts frames at each length that the kernel lets through.
func TestTruncated(t *testing.T) {
	b := newBench(t)
	b.withSocket()
	for _, f := range []frame{
		{payload: hinted(HintFlag, 7)},
		{options: 40, payload: hinted(HintFlag, 8)},
		{tags: []uint16{0x88a8, 0x8100}, from: peerV6, to: localV6, payload: hinted(HintFlag, 9)},
		{fragment: 0x2000},
	} {
		whole := f.bytes()
		for n := 14; n <= len(whole); n++ {
			for variant := range b.programs {
				b.check(t, variant, whole[:n])
			}
		}
	}
}

// TestHotExtents: only packets with the flag count, and the most come first.
func TestHotExtents(t *testing.T) {
	b := newBench(t)
	b.withSocket()
	for range 3 {
		b.check(t, "plain", frame{payload: hinted(0x60|HintFlag, 0x0102030405060708)}.bytes())
	}
	b.check(t, "plain", frame{payload: hinted(HintFlag, 42), from: peerV6, to: localV6}.bytes())
	b.check(t, "plain", frame{payload: hinted(0xff&^HintFlag, 43)}.bytes())
	b.check(t, "plain", frame{payload: hinted(HintFlag, 44), from: other}.bytes())
	b.check(t, "plain", frame{payload: hinted(HintFlag, 45)[:HintOffset+HintSize-1]}.bytes())
	got, err := b.steer.HotExtents(10)
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(len(hinted(0, 0)))
	want := []ExtentCounters{{0x0102030405060708, 3, 3 * size}, {42, 1, size}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("hot extents %+v, want %+v", got, want)
	}
	if got, err := b.steer.HotExtents(1); err != nil || len(got) != 1 || got[0] != want[0] {
		t.Errorf("the hottest extent is %+v, %v; want %+v", got, err, want[0])
	}
}

// drawFrame makes a frame that is mostly right: random bytes alone would hardly
// ever get as far as the peers.
func drawFrame(t *rapid.T) []byte {
	v6 := rapid.Bool().Draw(t, "v6")
	pick := func(name string, four, six netip.Addr) netip.Addr {
		switch a := four; rapid.IntRange(0, 5).Draw(t, name) {
		case 0:
			if v6 {
				return netip.MustParseAddr("fd00:9::3")
			}
			return other
		default:
			if v6 {
				a = six
			}
			return a
		}
	}
	b := frame{
		tags:     rapid.SliceOfN(rapid.SampledFrom([]uint16{0x8100, 0x88a8}), 0, 3).Draw(t, "tags"),
		from:     pick("from", peerV4, peerV6),
		to:       pick("to", localV4, localV6),
		options:  4 * rapid.IntRange(0, 10).Draw(t, "options"),
		fragment: rapid.SampledFrom([]uint16{0, 0, 0, 0x4000, 0x2000, 1}).Draw(t, "fragment"),
		payload:  rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "payload"),
	}.bytes()
	for range rapid.IntRange(0, 2).Draw(t, "flips") {
		b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.Byte().Draw(t, "byte")
	}
	return b[:rapid.IntRange(14, len(b)).Draw(t, "length")]
}

// TestDecidesAsTheModel compares program and model on frames that are mostly
// right.
func TestDecidesAsTheModel(t *testing.T) {
	b := newBench(t)
	b.withSocket()
	rapid.Check(t, func(t *rapid.T) {
		for range 20 {
			f := drawFrame(t)
			for variant := range b.programs {
				b.check(t, variant, f)
			}
		}
	})
}

// FuzzSteer compares program and model on any bytes.
func FuzzSteer(f *testing.F) {
	b := newBench(f)
	b.withSocket()
	for _, c := range crafted {
		f.Add(c.f.crafted())
	}
	f.Add(frame{payload: hinted(HintFlag, 1)}.bytes())
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 14 || len(frame) > 3000 {
			return // the kernel runs nothing on less than a header, or more than a page
		}
		for variant := range b.programs {
			b.check(t, variant, frame)
		}
	})
}

// BenchmarkSteer measures the program alone, on frames for AF_XDP and others.
func BenchmarkSteer(b *testing.B) {
	bench := newBench(b)
	bench.withSocket()
	tcp := frame{protocol: 6}.bytes()
	for _, c := range []struct {
		name string
		f    []byte
	}{{"cluster", frame{}.bytes()}, {"hinted", frame{payload: hinted(HintFlag, 1)}.bytes()}, {"other", tcp}} {
		b.Run(c.name, func(b *testing.B) {
			_, each, err := bench.programs["plain"].Benchmark(c.f, b.N, b.ResetTimer)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "kernel-ns/frame")
		})
	}
}
