//go:build e2e

package udplink

import (
	"net/netip"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
)

// inNamespace runs f on a thread with a network namespace of its own, which
// goes when the last socket that f opened is closed.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("a network namespace needs root: %v", err)
			return
		}
		f()
	}()
	<-done
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// When the device sends slower than the caller, datagrams wait in their slots
// and Wait tells when there is room; none is lost, none overtakes another.
func TestFullSocketBufferHoldsDatagramsBack(t *testing.T) {
	inNamespace(t, func() {
		command(t, "ip", "link", "set", "lo", "up")
		command(t, "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "80mbit", "burst", "10kb", "limit", "16mb")
		cfg := Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), Slots: 64, Offload: OffloadOff}
		a, b := openAt(t, cfg), openAt(t, cfg)
		if err := unix.SetsockoptInt(a.socket, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32<<10); err != nil {
			t.Fatal(err)
		}
		const n = 1000
		tx, rx := make([]link.TxBuf, 16), make([]link.RxBuf, 16)
		sent, got, full := 0, 0, 0
		for deadline := time.Now().Add(20 * time.Second); got < n; {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d datagrams arrived", got, n)
			}
			k := a.Reserve(tx[:min(16, n-sent)])
			for i := range k {
				tx[i].Data, tx[i].Peer = append(tx[i].Data[:1200], byte(sent), byte(sent>>8)), b.LocalAddr()
				sent++
			}
			if err := a.Send(tx[:k]); err != nil {
				t.Fatal(err)
			}
			if k == 0 && sent < n {
				full++
				if err := a.Wait(time.Second); err != nil {
					t.Fatal(err)
				}
			}
			if sent == n {
				if err := b.Wait(10 * time.Millisecond); err != nil {
					t.Fatal(err)
				}
				if _, err := a.Recv(rx[:0]); err != nil { // as a pump does, which lets pending ones go
					t.Fatal(err)
				}
			}
			m, err := b.Recv(rx)
			if err != nil {
				t.Fatal(err)
			}
			for i := range m {
				if d := rx[i].Data; int(d[1200])|int(d[1201])<<8 != got {
					t.Fatalf("datagram %d is number %d", got, int(d[1200])|int(d[1201])<<8)
				}
				got++
			}
			b.ReleaseRx(rx[:m])
		}
		if full == 0 {
			t.Error("the socket buffer was never full: the test tests nothing")
		}
	})
}

// MaxDatagram follows the interface, at the latest when a datagram is refused.
func TestMTUOfTheInterfaceIsFollowed(t *testing.T) {
	inNamespace(t, func() {
		command(t, "ip", "link", "set", "lo", "up", "mtu", "4000")
		a := openAt(t, Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
		b := openAt(t, Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
		if got := a.MaxDatagram(); got != 4000-link.OverheadIPv4 {
			t.Errorf("MTU 4000 gives datagrams of %d bytes", got)
		}
		command(t, "ip", "link", "set", "lo", "mtu", "2000")
		exchangeTooLong := func() {
			tx := make([]link.TxBuf, 3)
			a.Reserve(tx)
			for i := range tx {
				tx[i].Data, tx[i].Peer = tx[i].Data[:3000], b.LocalAddr()
			}
			if err := a.Send(tx); err != nil {
				t.Fatal(err)
			}
		}
		exchangeTooLong()
		if got := a.MaxDatagram(); got != 2000-link.OverheadIPv4 {
			t.Errorf("after a refusal, MTU 2000 gives datagrams of %d bytes", got)
		}
		if got := a.Stats().TxDroppedTooLong; got != 3 {
			t.Errorf("%d of 3 counted as too long", got)
		}
		exchange(t, a, b, 3, 1000)
	})
}

// What has no route is dropped and counted.
func TestNoRouteIsNoError(t *testing.T) {
	inNamespace(t, func() {
		command(t, "ip", "link", "set", "lo", "up")
		a := openAt(t, Config{Local: netip.MustParseAddrPort("127.0.0.1:0")})
		tx := make([]link.TxBuf, 2)
		a.Reserve(tx)
		for i := range tx {
			tx[i].Data, tx[i].Peer = tx[i].Data[:100], netip.MustParseAddrPort("192.0.2.1:9")
		}
		if err := a.Send(tx); err != nil {
			t.Fatal(err)
		}
		if got := a.Stats().TxDroppedNoRoute; got != 2 {
			t.Errorf("%d of 2 counted as without a route", got)
		}
	})
}
