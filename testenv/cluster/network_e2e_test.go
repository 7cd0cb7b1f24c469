//go:build e2e

package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two nodes that speak UDP; the addresses are of from and to.
type pair struct {
	t        *testing.T
	from, to *net.UDPConn
	dest     netip.AddrPort
}

func places(t *testing.T, c *Cluster) map[string]*Place {
	t.Helper()
	s, err := load(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]*Place{}
	for _, p := range s.Places {
		m[p.Name] = p
	}
	return m
}

// newPair opens sockets on both places. Datagrams wait in the receiver's buffer,
// which is large enough for a test's.
func newPair(t *testing.T, c *Cluster, from, to string, ipv6 bool) *pair {
	t.Helper()
	p := &pair{t: t}
	open := func(name string) *net.UDPConn {
		place := places(t, c)[name]
		addr := place.IPv4
		if ipv6 {
			addr = place.IPv6
		}
		var conn *net.UDPConn
		err := c.Do(name, func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		raw, err := conn.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
					t.Error(err)
				}
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	p.from, p.to = open(from), open(to)
	p.dest = p.to.LocalAddr().(*net.UDPAddr).AddrPort()
	return p
}

// send sends n datagrams, numbered from first.
func (p *pair) send(first, n int) {
	p.t.Helper()
	for i := range n {
		if _, err := p.from.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, uint64(first+i)), p.dest); err != nil {
			p.t.Fatal(err)
		}
	}
}

// arrived counts the datagrams that have arrived, of which at least least must. A veth
// delivers before the sender's call returns, or soon after when the machine is busy, so
// that after these 100 ms without any are the end.
func (p *pair) arrived(least int) (n int) {
	p.t.Helper()
	var b [16]byte
	for {
		wait := patience
		if n >= least {
			wait = 100 * time.Millisecond
		}
		if err := p.to.SetReadDeadline(time.Now().Add(wait)); err != nil {
			p.t.Fatal(err)
		}
		_, _, err := p.to.ReadFromUDPAddrPort(b[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n
		}
		if err != nil {
			p.t.Fatal(err)
		}
		n++
	}
}

// passes sends n datagrams, of which at least least must arrive, and counts.
func (p *pair) passes(n, least int) int {
	p.t.Helper()
	p.send(0, n)
	return p.arrived(least)
}

// idle is two nodes whose blockd does nothing to the network.
func idle(t *testing.T, config Config) *Cluster {
	config.Standalone = true
	return New(t, config)
}

// TestPartition, one way and both, for IPv4 and IPv6, touches nobody else.
func TestPartition(t *testing.T) {
	c := idle(t, Config{})
	for _, ipv6 := range []bool{false, true} {
		ways := map[string]*pair{}
		for _, w := range [][2]string{{"n1", "n2"}, {"n2", "n1"}, {"n1", "n3"}, {"n3", "n1"}, {"n2", "n3"}, {"host", "n1"}} {
			ways[w[0]+w[1]] = newPair(t, c, w[0], w[1], ipv6)
		}
		expect := func(when string, lost ...string) {
			t.Helper()
			gone := map[string]bool{}
			for _, l := range lost {
				gone[l] = true
			}
			for name, p := range ways {
				want := 20
				if gone[name] {
					want = 0
				}
				if got := p.passes(20, want); got != want {
					t.Errorf("IPv6 %v, %s: %s: %d of 20 arrived, want %d", ipv6, when, name, got, want)
				}
			}
		}
		expect("whole")
		must(t, c.PartitionOneWay([]string{"n1"}, []string{"n2"}))
		expect("one way", "n1n2")
		must(t, c.Heal())
		must(t, c.Partition([]string{"n1"}, []string{"n2", "n3"}))
		expect("both ways", "n1n2", "n2n1", "n1n3", "n3n1")
		must(t, c.Heal())
		expect("healed")
	}
}

// TestLoss: of 4000 datagrams at 20%, 800 are lost, and some; six standard
// deviations are 152.
func TestLoss(t *testing.T) {
	c := idle(t, Config{Nodes: 2})
	p, back := newPair(t, c, "n1", "n2", false), newPair(t, c, "n2", "n1", false)
	must(t, c.Loss(20, []string{"n1"}, []string{"n2"}))
	const sent, fewest, most = 4000, 648, 952
	if lost := sent - p.passes(sent, sent-most); lost < fewest || lost > most {
		t.Errorf("lost %d of %d, want 800", lost, sent)
	} else {
		t.Logf("lost %d of %d at 20%%", lost, sent)
	}
	if got := back.passes(1000, 1000); got != 1000 {
		t.Errorf("the other way %d of 1000 arrived", got)
	}
	wires, err := c.Wires()
	must(t, err)
	for _, w := range wires {
		if w.From == "n1" && w.To == "n2" && (w.Loss < 19.99 || w.Loss > 20.01 || w.Seen < sent || w.Dropped < fewest) {
			t.Errorf("the switch counts %+v", w)
		}
	}
	must(t, c.Heal())
	if got := p.passes(1000, 1000); got != 1000 {
		t.Errorf("after Heal %d of 1000 arrived", got)
	}
}

// roundTrip measures one from n1 to n2 and back.
func roundTrip(t *testing.T, p *pair) time.Duration {
	t.Helper()
	var b [64]byte
	start := time.Now()
	p.send(0, 1)
	must(t, p.to.SetReadDeadline(start.Add(patience)))
	_, who, err := p.to.ReadFromUDPAddrPort(b[:])
	must(t, err)
	_, err = p.to.WriteToUDPAddrPort(b[:8], who)
	must(t, err)
	must(t, p.from.SetReadDeadline(start.Add(patience)))
	_, _, err = p.from.ReadFromUDPAddrPort(b[:])
	must(t, err)
	return time.Since(start)
}

// expectTrips wants nine round trips that take want or longer, and one of at most 20 ms more. The
// quickest is the measure, since a busy machine only adds: as long as it is busy, more are made.
func expectTrips(t *testing.T, p *pair, when string, want time.Duration) {
	t.Helper()
	most := want + 20*time.Millisecond
	quickest := patience
	for n, start := 0, time.Now(); n < 9 || quickest > most && time.Since(start) < patience; n++ {
		quickest = min(quickest, roundTrip(t, p))
	}
	t.Logf("%s: the quickest round trip takes %v", when, quickest)
	if quickest < want || quickest > most {
		t.Errorf("%s: the quickest round trip takes %v, want %v to %v", when, quickest, want, most)
	}
}

// TestDelay of each direction alone and of both, with TCP through it: what is
// late must still be whole, however the kernel packs it.
func TestDelay(t *testing.T) {
	c := idle(t, Config{Nodes: 2})
	p := newPair(t, c, "n1", "n2", false)
	n1, n2 := []string{"n1"}, []string{"n2"}
	for _, step := range []struct {
		there, back time.Duration
	}{{0, 0}, {40 * time.Millisecond, 0}, {40 * time.Millisecond, 30 * time.Millisecond}, {0, 30 * time.Millisecond}} {
		must(t, c.Delay(t.Context(), step.there, 0, n1, n2))
		must(t, c.Delay(t.Context(), step.back, 0, n2, n1))
		expectTrips(t, p, fmt.Sprintf("delay %v and %v", step.there, step.back), step.there+step.back)
	}
	must(t, c.Delay(t.Context(), 2*time.Millisecond, time.Millisecond, n1, n2))
	must(t, c.Delay(t.Context(), 2*time.Millisecond, time.Millisecond, n2, n1))
	for _, ipv6 := range []bool{false, true} {
		if err := transfer(c, places(t, c)["n2"], ipv6); err != nil {
			t.Errorf("TCP through delay and jitter, IPv6 %v: %v", ipv6, err)
		}
	}
	must(t, c.Heal())
	expectTrips(t, p, "after Heal", 0)
}

// transfer sends 4 MiB from n1 to a place by TCP, and compares.
func transfer(c *Cluster, to *Place, ipv6 bool) error {
	addr := to.IPv4
	if ipv6 {
		addr = to.IPv6
	}
	var l net.Listener
	if err := c.Do(to.Name, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	data := make([]byte, 4<<20)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	sent := make(chan error, 1)
	go func() {
		sent <- c.Do("n1", func() error {
			conn, err := (&net.Dialer{Timeout: patience, FallbackDelay: -1}).Dial("tcp", l.Addr().String())
			if err != nil {
				return err
			}
			_, err = conn.Write(data)
			return errors.Join(err, conn.Close())
		})
	}()
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if !bytes.Equal(got, data) {
		err = errors.Join(err, fmt.Errorf("%d bytes arrived, and not what was sent", len(got)))
	}
	return errors.Join(err, <-sent)
}

// TestMTU: a datagram of just the MTU's size passes unfragmented.
func TestMTU(t *testing.T) {
	c := idle(t, Config{Nodes: 2, MTU: 9000})
	p := newPair(t, c, "n1", "n2", false)
	raw, err := p.from.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
	}))
	must(t, err)
	const headers = 20 + 8
	if _, err := p.from.WriteToUDPAddrPort(make([]byte, 9000-headers), p.dest); err != nil {
		t.Errorf("a packet of 9000 bytes: %v", err)
	}
	if _, err := p.from.WriteToUDPAddrPort(make([]byte, 9001-headers), p.dest); !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("a packet of 9001 bytes: %v, want EMSGSIZE", err)
	}
	if got := p.arrived(1); got != 1 {
		t.Errorf("%d arrived, want 1", got)
	}
}

// TestSwitchIsUnfiltered: no rule for routed packets looks at what crosses the switch,
// where the kernel could do that.
func TestSwitchIsUnfiltered(t *testing.T) {
	s, err := load(idle(t, Config{Nodes: 1}).dir)
	must(t, err)
	must(t, inNamespace(s.namespace(switchName), func() error {
		settings, err := filepath.Glob("/proc/sys/net/bridge/bridge-nf-call-*")
		for _, name := range settings {
			if value, err := os.ReadFile(name); err != nil || string(value) != "0\n" {
				t.Errorf("%s is %q, %v", name, value, err)
			}
		}
		return err
	}))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A reset ends connections at both ends, those between the places that are named and no others, and new
// ones are possible.
func TestReset(t *testing.T) {
	c := New(t, Config{Nodes: 2, Standalone: true})
	type ends struct{ near, far net.Conn }
	connect := func(from, to string, ipv6 bool) ends {
		t.Helper()
		place := places(t, c)[to]
		addr := place.IPv4
		if ipv6 {
			addr = place.IPv6
		}
		var l net.Listener
		err := c.Do(to, func() (err error) {
			l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var e ends
		if err := c.Do(from, func() (err error) { e.near, err = net.Dial("tcp", l.Addr().String()); return err }); err != nil {
			t.Fatal(err)
		}
		if e.far, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = e.near.Close(); _ = e.far.Close() })
		return e
	}
	// works sends a byte each way.
	works := func(e ends) (err error) {
		for _, way := range []ends{e, {e.far, e.near}} {
			_, err := way.near.Write([]byte("x"))
			if err == nil {
				err = way.far.SetReadDeadline(time.Now().Add(patience))
			}
			if err == nil {
				_, err = way.far.Read(make([]byte, 1))
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	other := connect(HostName, "n2", false)
	for _, ipv6 := range []bool{false, true} {
		for _, side := range [][2][]string{{{"n1"}, {HostName}}, {{HostName}, {"n1"}}} {
			e := connect(HostName, "n1", ipv6)
			if err := works(e); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Reset(side[0], side[1]); err != nil || n != 1 {
				t.Errorf("%d connections were reset, not 1: %v", n, err)
			}
			for _, conn := range []net.Conn{e.near, e.far} {
				if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNABORTED) {
					t.Errorf("reset at %s, IPv6 %v: %v", side[0], ipv6, err)
				}
			}
		}
	}
	if err := works(other); err != nil {
		t.Errorf("a connection that was not meant: %v", err)
	}
}

// TestBandwidth: with 80 Mbit/s 4 MiB take 0.3 s at least, of which a burst of 1 MiB takes none, and everything
// arrives; healed, no limit is left.
func TestBandwidth(t *testing.T) {
	const bits, size = 80e6, 4 << 20
	c := idle(t, Config{})
	if err := c.Bandwidth(bits / 1e6); err == nil {
		t.Error("a limit of 80 bits a second was taken")
	}
	if err := c.Bandwidth(bits); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(); err != nil || st.Bandwidth != bits {
		t.Errorf("the status tells of %d bits a second, %v; want %.0f", st.Bandwidth, err, bits)
	}
	if took, least := stream(t, c, "n1", "n2", size), time.Duration(8*(size-bandwidthBurst)/bits*float64(time.Second)); took < least {
		t.Errorf("%d bytes took %v, want %v at least", size, took, least)
	}
	if err := c.Heal(); err != nil {
		t.Fatal(err)
	}
	if st, err := c.Status(); err != nil || st.Bandwidth != 0 {
		t.Errorf("healed: the status tells of %d bits a second, %v", st.Bandwidth, err)
	}
	if err := c.Bandwidth(0); err != nil {
		t.Errorf("a limit that is none, ended: %v", err)
	}
	stream(t, c, "n2", "n1", size)
}

// stream sends so many bytes by TCP, and returns how long it took until they had arrived.
func stream(t *testing.T, c *Cluster, from, to string, size int64) time.Duration {
	t.Helper()
	var l net.Listener
	err := c.Do(to, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(places(t, c)[to].IPv4, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var out net.Conn
	err = c.Do(from, func() (err error) {
		out, err = net.DialTimeout("tcp", l.Addr().String(), patience)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for _, conn := range []net.Conn{in, out} {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	sent := make(chan error, 1)
	go func() {
		_, err := out.Write(make([]byte, size))
		sent <- err
	}()
	n, err := io.CopyN(io.Discard, in, size)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatalf("%d of %d bytes arrived: %v", n, size, err)
	}
	return time.Since(began)
}
