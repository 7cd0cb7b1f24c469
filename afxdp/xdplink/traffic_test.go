package xdplink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/afxdp/neigh"
	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/packet"
)

// content is the datagram with a number and a length; its bytes follow from both.
func content(number, length int) []byte {
	b := make([]byte, length)
	for i := range b {
		b[i] = byte(i*31 + number*7 + length)
	}
	return b
}

// exchange sends count datagrams of mixed lengths from one link to the other in
// batches, each of which must have arrived before the next, so that none may be
// lost; all arrive as they were.
func exchange(from, to link.Link, count int) error {
	lost, err := send(from, to, count, patience)
	if err == nil && lost > 0 {
		err = fmt.Errorf("%d of %d datagrams did not come from %v; sender %+v, receiver %+v", lost, count, from.LocalAddr(), from.Stats(), to.Stats())
	}
	return err
}

// send is exchange that waits so long for what is missing of a batch, and counts
// what did not come by then. A kernel that moves the sender to another processor
// amid a batch may pass the rest by what went before, across a bridge.
func send(from, to link.Link, count int, wait time.Duration) (lost int, err error) {
	longest := min(from.MaxDatagram(), to.MaxDatagram())
	tx, rx := make([]link.TxBuf, 8), make([]link.RxBuf, 8)
	known := map[string]int{} // by content
	for i := range count {
		known[string(content(i, 1+i*977%longest))] = i
	}
	came := make([]bool, count)
	for sent := 0; sent < count; {
		n := from.Reserve(tx[:min(len(tx), count-sent)])
		for i := range n {
			tx[i].Data = append(tx[i].Data, content(sent+i, 1+(sent+i)*977%longest)...)
			tx[i].Peer = to.LocalAddr()
		}
		if err := from.Send(tx[:n]); err != nil {
			return 0, err
		}
		sent += n
		for deadline := time.Now().Add(wait); slices.Contains(came[sent-n:sent], false) && time.Now().Before(deadline); {
			k, err := to.Recv(rx)
			if err != nil {
				return 0, err
			}
			for _, r := range rx[:k] {
				i, ok := known[string(r.Data)]
				if !ok || r.Peer != from.LocalAddr() {
					return 0, fmt.Errorf("%d bytes from %v are no datagram of %v", len(r.Data), r.Peer, from.LocalAddr())
				}
				came[i] = true
			}
			to.ReleaseRx(rx[:k])
			if k == 0 {
				if err := to.Wait(min(wait, 100*time.Millisecond)); err != nil {
					return 0, err
				}
			}
		}
	}
	for _, ok := range came {
		if !ok {
			lost++
		}
	}
	return lost, nil
}

// TestKernelPeersUnderstandUs: the other end is a socket of the kernel, which
// checks what we send, sums included, and what it sends, with a UDP checksum
// that no NIC filled in, is taken. Both families, both kinds of program.
func TestKernelPeersUnderstandUs(t *testing.T) {
	for _, mode := range []Mode{Copy, Generic} {
		for _, ipv6 := range []bool{false, true} {
			for _, mtu := range []int{1500, 9000} {
				t.Run(fmt.Sprintf("%v IPv6 %v MTU %d", mode, ipv6, mtu), func(t *testing.T) {
					lab := newLab(t, netlab.Config{MTU: mtu})
					local, peer := lab.A.IPv4, lab.B.IPv4
					if ipv6 {
						local, peer = lab.A.IPv6, lab.B.IPv6
					}
					a := openOn(t, lab.A, Config{Mode: mode, Local: local, Peers: []netip.Addr{peer}, RxBuffers: 256, TxBuffers: 64})
					var b link.Link
					if err := lab.B.Do(func() (err error) {
						c := udplink.Config{Local: netip.AddrPortFrom(peer, port)}
						if mode == Generic {
							c.Offload = udplink.OffloadOff // see the package comment
						}
						b, err = udplink.Open(c)
						return err
					}); err != nil {
						t.Fatal(err)
					}
					defer b.Close()
					awaitWay(t, a, peer)
					if err := exchange(a, b, 200); err != nil {
						t.Errorf("to the kernel: %v", err)
					}
					if err := exchange(b, a, 200); err != nil {
						t.Errorf("from the kernel: %v", err)
					}
				})
			}
		}
	}
}

// TestUncutDatagramsAreRefused: in generic mode, several datagrams that the
// kernel left for hardware to cut come as one packet beyond the MTU. Such are
// counted, none is taken for a datagram, and the link goes on.
func TestUncutDatagramsAreRefused(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	a := openOn(t, lab.A, Config{Mode: Generic, Peers: []netip.Addr{lab.B.IPv4}, RxBuffers: 64, TxBuffers: 16})
	var b link.Link
	if err := lab.B.Do(func() (err error) {
		b, err = udplink.Open(udplink.Config{Local: netip.AddrPortFrom(lab.B.IPv4, port)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	tx := make([]link.TxBuf, 4)
	if b.Reserve(tx) != len(tx) {
		t.Fatal("no buffers")
	}
	for i := range tx {
		tx[i].Data, tx[i].Peer = append(tx[i].Data, content(i, 800)...), a.LocalAddr()
	}
	if err := b.Send(tx); err != nil {
		t.Fatal(err)
	}
	await(t, a, "the packet", func(s link.Stats) bool { return s.RxInvalid+s.RxPackets > 0 })
	// A kernel or a UDP link without segmentation sends them one by one.
	if s := a.Stats(); s.RxInvalid > 0 && s.RxPackets > 0 || s.RxInvalid > 1 {
		t.Errorf("%+v", s)
	}
	if b.Reserve(tx[:1]) != 1 {
		t.Fatal("no buffer")
	}
	tx[0].Data, tx[0].Peer = append(tx[0].Data, content(1, 100)...), a.LocalAddr()
	if err := b.Send(tx[:1]); err != nil {
		t.Fatal(err)
	}
	await(t, a, "the one after", func(s link.Stats) bool { return s.RxPackets == 1 || s.RxPackets == 5 })
}

// TestOtherTrafficGoesOn: a TCP connection through the same interface carries
// its bytes, unharmed, while datagrams go both ways, and most of them arrive.
func TestOtherTrafficGoesOn(t *testing.T) {
	lab := newLab(t, netlab.Config{Bridge: true})
	a, b := openPair(t, lab, false, Config{RxBuffers: 256, TxBuffers: 64})
	var listener net.Listener
	if err := lab.B.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(lab.B.IPv4, 22).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	const total = 8 << 20
	sum := make(chan error, 2)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			sum <- err
			return
		}
		defer c.Close()
		got, err := io.ReadAll(c)
		if err == nil && !bytes.Equal(got, content(1, total)) {
			err = fmt.Errorf("%d bytes came by TCP, not as they were", len(got))
		}
		sum <- err
	}()
	go func() {
		sum <- lab.A.Do(func() error {
			c, err := net.DialTimeout("tcp", listener.Addr().String(), patience)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(content(1, total))
			return err
		})
	}()
	// TCP fills the queues that both go through, so some datagrams may be lost there.
	pending, sent := 2, uint64(0) // each way
	before := [2]uint64{a.Stats().RxPackets, b.Stats().RxPackets}
	for pending > 0 {
		_, err1 := send(a, b, 50, 20*time.Millisecond)
		_, err2 := send(b, a, 50, 20*time.Millisecond)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		sent += 50
		for again := true; again; {
			select {
			case err := <-sum:
				if err != nil {
					t.Fatal(err)
				}
				pending--
			default:
				again = false
			}
		}
	}
	for i, l := range []*Link{a, b} { // what is late on a busy machine is not lost
		await(t, l, "half of the datagrams", func(s link.Stats) bool { return s.RxPackets-before[i] >= sent/2 })
		t.Logf("%d of %d datagrams came to %v beside a TCP connection", l.Stats().RxPackets-before[i], sent, l.LocalAddr())
	}
}

// TestTaggedFrames: with VLAN tags in the frames, two of them too, links
// understand each other, and not those with other tags; and across a bridge, of
// which Linux's takes the outer tag out of the frame. The tags are set from inside, since not every kernel has VLAN interfaces.
func TestTaggedFrames(t *testing.T) {
	single := [packet.TagsMax]packet.Tag{{Protocol: 0x8100, ID: 42}}
	double := [packet.TagsMax]packet.Tag{{Protocol: 0x88A8, ID: 7}, {Protocol: 0x8100, ID: 42}}
	for name, tags := range map[string][packet.TagsMax]packet.Tag{"VLAN": single, "QinQ": double} {
		for _, ipv6 := range []bool{false, true} {
			bridge := ipv6
			t.Run(fmt.Sprintf("%s IPv6 %v bridge %v", name, ipv6, bridge), func(t *testing.T) {
				// The wire has room for tags beyond the MTU, as an Ethernet has.
				a, b := openPair(t, newLab(t, netlab.Config{MTU: 3000, Bridge: bridge}), ipv6, Config{RxBuffers: 256, TxBuffers: 64})
				for _, l := range []*Link{a, b} {
					l.device.info.Tags = tags
					l.lookup = func(peer netip.Addr) (neigh.Hop, bool) {
						hop, ok := l.device.table.Lookup(peer)
						for i := range tags {
							hop.Tags[i] = neigh.Tag(tags[i])
						}
						hop.MTU -= 8
						return hop, ok
					}
					l.room = 3000 - 8 - l.overhead()
				}
				if err := errors.Join(exchange(a, b, 100), exchange(b, a, 100)); err != nil {
					t.Fatal(err)
				}
				if bridge {
					return // it takes the outer tag off: what arrives looks alike
				}
				// A frame of another VLAN is not for us.
				b.device.info.Tags[0].ID++
				sendOne(t, a, b.LocalAddr())
				await(t, b, "a frame of another VLAN to be refused", func(s link.Stats) bool { return s.RxInvalid == 1 && s.RxPackets == 100 })
			})
		}
	}
}

// TestVLANInterface: an interface on a VLAN is enough to find the device and the
// tag, at both ends, one of them the kernel's. A kernel without 802.1Q has no such
// interfaces; testenv/kernels runs this test on those that have.
func TestVLANInterface(t *testing.T) {
	lab := newLab(t, netlab.Config{MTU: 4500})
	const id = 42
	addresses := map[*netlab.Host]netip.Addr{lab.A: netip.MustParseAddr("10.78.0.1"), lab.B: netip.MustParseAddr("10.78.0.2")}
	for h, addr := range addresses {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex = "vlan", h.Index
		err := h.Netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q})
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Log("this kernel has no 802.1Q")
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		vlan, err := h.Netlink.LinkByName("vlan")
		if err == nil {
			err = errors.Join(h.Netlink.LinkSetUp(vlan), h.Netlink.AddrAdd(vlan, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var a *Link
	if err := lab.A.Do(func() (err error) {
		a, err = Open(Config{Interface: "vlan", Port: port, Peers: []netip.Addr{addresses[lab.B]}, RxBuffers: 256, TxBuffers: 64})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var b link.Link
	if err := lab.B.Do(func() (err error) {
		b, err = udplink.Open(udplink.Config{Local: netip.AddrPortFrom(addresses[lab.B], port)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	awaitWay(t, a, addresses[lab.B])
	if hop, _ := a.lookup(addresses[lab.B]); hop.Tags[0] != (neigh.Tag{Protocol: 0x8100, ID: id}) {
		t.Errorf("%+v", hop)
	}
	if err := errors.Join(exchange(a, b, 100), exchange(b, a, 100)); err != nil {
		t.Error(err)
	}
	t.Log("found by a VLAN")
}

func sendOne(t *testing.T, l *Link, to netip.AddrPort) {
	t.Helper()
	bufs := make([]link.TxBuf, 1)
	if l.Reserve(bufs) != 1 {
		t.Fatal("no buffer")
	}
	bufs[0].Data, bufs[0].Peer = append(bufs[0].Data, "hello"...), to
	if err := l.Send(bufs); err != nil {
		t.Fatal(err)
	}
}

// await receives and drops until the counters are as wanted.
func await(t *testing.T, l *Link, what string, ok func(link.Stats) bool) {
	t.Helper()
	bufs := make([]link.RxBuf, 8)
	for deadline := time.Now().Add(patience); !ok(l.Stats()); {
		n, err := l.Recv(bufs)
		if err != nil {
			t.Fatal(err)
		}
		l.ReleaseRx(bufs[:n])
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s: %+v", what, l.Stats())
		}
		if err := l.Wait(time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBrokenDatagramsAreRefused: what the program lets through by its address
// and port, the link looks at closely, and goes on.
func TestBrokenDatagramsAreRefused(t *testing.T) {
	lab := newLab(t, netlab.Config{})
	a := openOn(t, lab.A, Config{Peers: []netip.Addr{lab.B.IPv4}, RxBuffers: 64, TxBuffers: 16})
	var raw int
	if err := lab.B.Do(func() (err error) {
		raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	h := packet.Header{Source: packet.MAC(lab.B.MAC), Destination: packet.MAC(lab.A.MAC), From: netip.AddrPortFrom(lab.B.IPv4, port), To: a.LocalAddr()}
	send := func(change func(f []byte)) {
		t.Helper()
		n := packet.HeaderLen(true, &h.Tags)
		f := append(make([]byte, n), "payload"...)
		h.Put(f[:n], f[n:])
		change(f)
		if err := unix.Sendto(raw, f, 0, &unix.SockaddrLinklayer{Ifindex: lab.B.Index, Halen: 6}); err != nil {
			t.Fatal(err)
		}
	}
	for i, change := range []func(f []byte){
		func(f []byte) { f[25]++ },             // the header's checksum
		func(f []byte) { f[39] += 1 },          // a UDP length beyond the packet
		func(f []byte) { f[38], f[39] = 0, 8 }, // no payload
	} {
		send(change)
		await(t, a, fmt.Sprintf("broken datagram %d", i), func(s link.Stats) bool { return s.RxInvalid == uint64(i+1) })
	}
	send(func([]byte) {})
	await(t, a, "a good datagram", func(s link.Stats) bool { return s.RxPackets == 1 && s.RxInvalid == 3 })
}

// TestEveryQueueCarries: all queues of one NIC share the program and the UMEM;
// a veth delivers to the queue that has the sender's number.
func TestEveryQueueCarries(t *testing.T) {
	lab := newLab(t, netlab.Config{Queues: 3, MTU: 9000})
	open := func(h *netlab.Host, local, peer netip.Addr) (d *Device, links []*Link) {
		t.Helper()
		if err := h.Do(func() (err error) {
			d, err = OpenDevice(Config{Interface: h.Device, Port: port, Local: local, Peers: []netip.Addr{peer}, RxBuffers: 64, TxBuffers: 32})
			for q := 0; err == nil && q < d.Queues(); q++ {
				var l *Link
				if l, err = d.Link(q); err == nil {
					links = append(links, l)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return d, links
	}
	da, as := open(lab.A, lab.A.IPv4, lab.B.IPv4)
	db, bs := open(lab.B, lab.B.IPv4, lab.A.IPv4)
	if len(as) != 3 || len(bs) != 3 {
		t.Fatalf("%d and %d links", len(as), len(bs))
	}
	awaitWay(t, as[0], lab.B.IPv4)
	awaitWay(t, bs[0], lab.A.IPv4)
	for i := range as {
		if err := errors.Join(exchange(as[i], bs[i], 50), exchange(bs[i], as[i], 50)); err != nil {
			t.Errorf("queue %d: %v", i, err)
		}
	}
	// A queue goes and comes back; the others do not mind.
	if err := as[0].Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if err := lab.A.Do(func() error { as[0], err = da.Link(0); return err }); err != nil {
		t.Fatal(err)
	}
	for i := range as {
		if err := errors.Join(exchange(as[i], bs[i], 20), exchange(bs[i], as[i], 20)); err != nil {
			t.Errorf("queue %d, after one was opened again: %v", i, err)
		}
	}
	for _, l := range append(as, bs...) {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(da.Close(), db.Close(), da.Close()); err != nil {
		t.Error(err)
	}
	// The short form opens all of them too.
	if err := lab.A.Do(func() error {
		links, err := OpenAll(Config{Interface: lab.A.Device, Port: port, RxBuffers: 64, TxBuffers: 32})
		if len(links) != 3 {
			t.Errorf("OpenAll: %d links, %v", len(links), err)
		}
		for _, l := range links {
			err = errors.Join(err, l.Close())
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestInterfaceChangesAreFollowed: its MTU, and its end.
func TestInterfaceChangesAreFollowed(t *testing.T) {
	lab := newLab(t, netlab.Config{MTU: 2000})
	a, b := openPair(t, lab, false, Config{RxBuffers: 64, TxBuffers: 16})
	if got := a.MaxDatagram(); got != 2000-link.OverheadIPv4 {
		t.Errorf("MaxDatagram %d", got)
	}
	nic, err := lab.A.Netlink.LinkByName(lab.A.Device)
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.A.Netlink.LinkSetMTU(nic, 1400); err != nil {
		t.Fatal(err)
	}
	await(t, a, "the MTU", func(link.Stats) bool { return a.MaxDatagram() == 1400-link.OverheadIPv4 })
	if err := exchange(a, b, 20); err != nil {
		t.Error(err)
	}
	done := make(chan error, 1)
	go func() {
		for {
			if err := a.Wait(-1); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := lab.A.Netlink.LinkDel(nic); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, link.ErrClosed) {
			t.Errorf("Wait on an interface that is gone: %v", err)
		}
	case <-time.After(patience):
		t.Error("Wait sleeps on, though the interface is gone")
		a.Wake()
	}
	if err := a.Send(nil); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Send on an interface that is gone: %v", err)
	}
	if _, err := lab.A.Netlink.LinkByName(lab.A.Device); !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("the interface is still there: %v", err)
	}
}
