package udplink

import (
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/linktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(t testing.TB, cfg Config) *Link {
	t.Helper()
	l, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var configs = map[string]Config{
	"IPv4":             {Local: netip.MustParseAddrPort("127.0.0.1:0")},
	"IPv6":             {Local: netip.MustParseAddrPort("[::1]:0")},
	"without offload":  {Local: netip.MustParseAddrPort("127.0.0.1:0"), Offload: OffloadOff},
	"few slots":        {Local: netip.MustParseAddrPort("127.0.0.1:0"), Slots: 8},
	"long datagrams":   {Local: netip.MustParseAddrPort("[::1]:0"), DatagramMax: 65000},
	"kernel busy poll": {Local: netip.MustParseAddrPort("127.0.0.1:0"), BusyPoll: 20 * time.Microsecond},
}

func TestConformance(t *testing.T) {
	for name, cfg := range configs {
		t.Run(name, func(t *testing.T) {
			linktest.Run(t, linktest.Suite{Open: func(t *testing.T) (a, b link.Link) {
				return openAt(t, cfg), openAt(t, cfg)
			}})
		})
	}
}

// exchange sends n datagrams of length bytes and takes them at the other end.
func exchange(t testing.TB, a, b *Link, n, length int) {
	t.Helper()
	tx, rx := make([]link.TxBuf, n), make([]link.RxBuf, n)
	if got := a.Reserve(tx); got != n {
		t.Fatalf("%d buffers of %d", got, n)
	}
	for i := range tx {
		tx[i].Data, tx[i].Peer = tx[i].Data[:length], b.LocalAddr()
	}
	if err := a.Send(tx); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < n; {
		k, err := b.Recv(rx[got:])
		if err != nil {
			t.Fatal(err)
		}
		if got += k; k == 0 {
			if err := b.Wait(10 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.ReleaseRx(rx)
}

// 64 datagrams of one length are one message for the kernel, in both
// directions; without offload they still are one system call to send, and two
// to receive.
func TestABatchTakesFewSystemCalls(t *testing.T) {
	for name, k := range map[string]struct {
		offload Offload
		receive uint64
	}{"with offload": {OffloadAuto, 2}, "without": {OffloadOff, 4}} {
		cfg := Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), Offload: k.offload}
		a, b := openAt(t, cfg), openAt(t, cfg)
		exchange(t, a, b, 64, 1000)
		if got := a.Stats().Syscalls; got != 1 {
			t.Errorf("%s: %d system calls to send 64 datagrams", name, got)
		}
		if got := b.Stats().Syscalls; got > k.receive {
			t.Errorf("%s: %d system calls to receive 64 datagrams, want at most %d", name, got, k.receive)
		}
	}
}

// Queues of one address share what arrives, by peer.
func TestOnePeerAlwaysComesToTheSameQueue(t *testing.T) {
	queues, err := OpenQueues(Config{Local: netip.MustParseAddrPort("127.0.0.1:0")}, 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		defer q.Close()
		if q.LocalAddr() != queues[0].LocalAddr() {
			t.Fatalf("queues at %v and %v", queues[0].LocalAddr(), q.LocalAddr())
		}
	}
	rx := make([]link.RxBuf, 8)
	used := map[int]bool{}
	for range 32 {
		peer := openAt(t, Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), Slots: 4})
		at := map[int]int{}
		for range 3 {
			tx := make([]link.TxBuf, 1)
			peer.Reserve(tx)
			tx[0].Data, tx[0].Peer = append(tx[0].Data, "hello"...), queues[0].LocalAddr()
			if err := peer.Send(tx); err != nil {
				t.Fatal(err)
			}
			for i, q := range queues { // over loopback it has arrived when Send returns
				n, err := q.Recv(rx)
				if err != nil {
					t.Fatal(err)
				}
				at[i] += n
				used[i] = used[i] || n > 0
				q.ReleaseRx(rx[:n])
			}
		}
		for i, n := range at {
			if n != 0 && n != 3 {
				t.Errorf("%d of 3 datagrams of one peer came to queue %d", n, i)
			}
		}
	}
	if len(used) < 2 {
		t.Errorf("32 peers used the queues %v only", used)
	}
}

func TestConfigIsChecked(t *testing.T) {
	here := netip.MustParseAddrPort("127.0.0.1:0")
	for name, cfg := range map[string]Config{
		"no address":            {},
		"every address":         {Local: netip.MustParseAddrPort("0.0.0.0:1")},
		"nobody's address":      {Local: netip.MustParseAddrPort("192.0.2.77:1")},
		"short datagrams":       {Local: here, DatagramMax: 100},
		"long datagrams":        {Local: here, DatagramMax: 70000},
		"few slots":             {Local: here, Slots: 1},
		"a negative busy poll":  {Local: here, BusyPoll: -1},
		"a zone that is nobody": {Local: netip.MustParseAddrPort("[fe80::1%nowhere]:1")},
	} {
		if l, err := Open(cfg); err == nil {
			t.Errorf("%s: opened %v", name, l.LocalAddr())
			l.Close()
		}
	}
	if _, err := OpenQueues(Config{Local: here}, 0); err == nil {
		t.Error("opened no queues")
	}
	l := openAt(t, Config{Local: here})
	if other, err := Open(Config{Local: l.LocalAddr()}); err == nil {
		t.Error("one port, two links that know nothing of each other")
		other.Close()
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	cfg := Config{Local: netip.MustParseAddrPort("127.0.0.1:0")}
	x, y := openAt(b, cfg), openAt(b, cfg)
	for b.Loop() {
		exchange(b, x, y, 1, 4096)
		exchange(b, y, x, 1, 64)
	}
}

func BenchmarkBatch(b *testing.B) {
	for name, offload := range map[string]Offload{"offload": OffloadAuto, "plain": OffloadOff} {
		b.Run(name, func(b *testing.B) {
			cfg := Config{Local: netip.MustParseAddrPort("127.0.0.1:0"), Offload: offload}
			x, y := openAt(b, cfg), openAt(b, cfg)
			b.SetBytes(64 * 1400)
			for b.Loop() {
				exchange(b, x, y, 64, 1400)
			}
		})
	}
}
