//go:build e2e

package endpoint

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/xdplink"
	"blockd.dev/internal/adaptive"
	"blockd.dev/replication/wire"
)

const labPort = 4430

// openKind opens a Link of a kind on a host of a lab.
func openKind(t testing.TB, kind string, h, peer *netlab.Host, six bool) (l link.Link) {
	t.Helper()
	local, remote := h.IPv4, peer.IPv4
	if six {
		local, remote = h.IPv6, peer.IPv6
	}
	err := h.Do(func() (err error) {
		switch kind {
		case "udp":
			// Off, since a veth passes several datagrams uncut to generic mode.
			l, err = udplink.Open(udplink.Config{Local: netip.AddrPortFrom(local, labPort), Offload: udplink.OffloadOff})
		default:
			mode, e := xdplink.ParseMode(kind)
			c := xdplink.Config{Interface: h.Device, Local: local, Port: labPort, Mode: mode, Peers: []netip.Addr{remote}}
			var x *xdplink.Link
			if x, err = xdplink.Open(c); err == nil {
				l = x
			}
			err = errors.Join(e, err)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%s on %v: %v", kind, local, err)
	}
	return l
}

// labPair joins two nodes over a veth pair.
func labPair(t testing.TB, kindA, kindB string, mtu int, six bool, change func(*Config)) (a, b *node) {
	t.Helper()
	lab, err := netlab.New(netlab.Config{MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	a = open(t, "a", change, openKind(t, kindA, lab.A, lab.B, six))
	b = open(t, "b", change, openKind(t, kindB, lab.B, lab.A, six))
	a.Peer("b", b.addr)
	return a, b
}

// Links of every kind understand each other: what they send are the same
// datagrams.
func TestKindsOfLinksUnderstandEachOther(t *testing.T) {
	kinds := []string{"udp", "auto", "generic"}
	for _, kindA := range kinds {
		for _, kindB := range kinds {
			for _, mtu := range []int{1500, 9000} {
				for _, six := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s-%s-%d-six-%v", kindA, kindB, mtu, six), func(t *testing.T) {
						a, b := labPair(t, kindA, kindB, mtu, six, nil)
						for _, size := range []int{0, 100, 4096, 9000, 200_000, wire.MessageMax} {
							ask(t, a.Peer("b"), size)
							ask(t, b.Peer("a"), size)
						}
						fly(t, a.Peer("b"), 16, 500, 4096)
						for _, n := range []*node{a, b} {
							for _, p := range n.Stats().Peers {
								// Repeated packets of the handshake come too late, and count.
								if p.Wire.RxInvalid > 10 {
									t.Errorf("node %s: %d invalid packets of %d", n.Self().Node, p.Wire.RxInvalid, p.Wire.RxPackets)
								}
							}
						}
					})
				}
			}
		}
	}
}

// Where the kernel cuts what UDP sockets hand over, generic mode gets single
// datagrams from a peer on the same machine, however many it sends as one.
func TestKindsOfLinksWithOffload(t *testing.T) {
	lab, err := netlab.New(netlab.Config{MTU: 9000, Cut: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	var sender *udplink.Link
	if err := lab.A.Do(func() (err error) {
		sender, err = udplink.Open(udplink.Config{Local: netip.AddrPortFrom(lab.A.IPv4, labPort)})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	a := open(t, "a", nil, sender)
	b := open(t, "b", nil, openKind(t, "generic", lab.B, lab.A, false))
	peer := a.Peer("b", b.addr)
	a.await(t, 0, PeerUp)
	ask(t, peer, wire.MessageMax)
	fly(t, peer, 16, 500, 4096)
	if s := peer.Stats().Wire; s.TxLost > s.TxPackets/10 || s.BlackHoles > 0 {
		t.Errorf("of %d packets %d were lost, %d times the path seemed to carry short ones only", s.TxPackets, s.TxLost, s.BlackHoles)
	}
}

// The kernel counts packets by the hints of who sends them.
func TestKindsCountHints(t *testing.T) {
	lab, err := netlab.New(netlab.Config{MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lab.Close)
	var counting *xdplink.Link
	if err := lab.B.Do(func() (err error) {
		counting, err = xdplink.Open(xdplink.Config{
			Interface: lab.B.Device, Local: lab.B.IPv4, Port: labPort, Peers: []netip.Addr{lab.A.IPv4}, CountExtents: true,
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	a := open(t, "a", func(c *Config) { c.Wire.Hints = true }, openKind(t, "auto", lab.A, lab.B, false))
	b := open(t, "b", nil, counting)
	peer := a.Peer("b", b.addr)
	a.await(t, 0, PeerUp)
	const hot, cold = 0x1122334455667788, 5
	done := make(chan error, 1)
	for i := range 40 {
		call := &Call{Hint: hot, Data: [][]byte{make([]byte, 4096)}, Done: func(c *Call) {
			c.Response.Release()
			done <- c.Err
		}}
		if i%4 == 3 {
			call.Hint = cold
		}
		if err := peer.Go(call); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	got, err := counting.Device().HotExtents(10)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Hint != hot || got[0].Packets < 30 || got[1].Hint != cold || got[1].Packets < 10 {
		t.Errorf("counted: %+v; want 30 packets or more of %#x, then 10 of %d", got, uint64(hot), cold)
	}
}

func BenchmarkCallOverXDP(b *testing.B) {
	for _, depth := range []int{1, 32} {
		for _, kind := range []string{"auto", "udp"} {
			for name, poll := range map[string]adaptive.Mode{"busy": adaptive.Busy, "interrupt": adaptive.Interrupt} {
				b.Run(fmt.Sprintf("%s/%s/%d", kind, name, depth), func(b *testing.B) {
					answer := [][]byte{make([]byte, 64)}
					x, _ := labPair(b, kind, kind, 9000, false, func(c *Config) {
						c.Poll.Mode = poll
						c.Handler = func(r *Request) { _ = r.Reply(answer) }
						c.Wire.Alloc = newPool().alloc
					})
					x.await(b, 0, PeerUp)
					fly(b, x.Peer("b"), depth, 2000, 4096)
					b.ResetTimer()
					fly(b, x.Peer("b"), depth, max(b.N, depth), 4096)
				})
			}
		}
	}
}
