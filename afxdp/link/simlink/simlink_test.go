package simlink

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/clock"
)

var (
	a = netip.MustParseAddrPort("10.0.0.1:1")
	b = netip.MustParseAddrPort("10.0.0.2:1")
)

// run sends 2000 datagrams from a to b, 1 µs apart, and returns what arrives.
func run(t *testing.T, seed uint64, f Faults) (arrived []string, n *Network) {
	t.Helper()
	n = New(seed)
	n.Add(b)
	n.Set(a, b, f)
	for i := range 2000 {
		n.Send(clock.Mono(i*1000), a, b, fmt.Appendf(nil, "%08d", i))
	}
	for now := n.Next(); now != clock.Never; now = n.Next() {
		if _, _, ok := n.Receive(now-1, b); ok {
			t.Fatalf("a datagram is there before its time %d", now)
		}
		data, from, ok := n.Receive(now, b)
		if !ok || from != a {
			t.Fatalf("nothing from %s at %d", a, now)
		}
		arrived = append(arrived, string(data))
		n.Recycle(data)
	}
	return arrived, n
}

func TestAPerfectWireKeepsOrderAndContent(t *testing.T) {
	arrived, _ := run(t, 1, Faults{Delay: time.Millisecond})
	if len(arrived) != 2000 || !slices.IsSorted(arrived) {
		t.Errorf("%d of 2000 arrived, sorted: %v", len(arrived), slices.IsSorted(arrived))
	}
}

func TestTheSameSeedGivesTheSameNetwork(t *testing.T) {
	f := Faults{Loss: 0.2, Duplicate: 0.1, Reorder: 0.1, ReorderBy: time.Millisecond, Corrupt: 0.1, Jitter: 50 * time.Microsecond}
	one, n := run(t, 7, f)
	two, _ := run(t, 7, f)
	if !slices.Equal(one, two) {
		t.Error("two runs of seed 7 differ")
	}
	if other, _ := run(t, 8, f); slices.Equal(one, other) {
		t.Error("seed 8 gives the same as seed 7")
	}
	c := n.Counts()
	for name, share := range map[string]struct {
		got  uint64
		want float64
	}{"lost": {c.Lost, .2}, "duplicated": {c.Duplicated, .08}, "corrupted": {c.Corrupted, .088}} {
		if got := float64(share.got) / 2000; got < share.want*.7 || got > share.want*1.3 {
			t.Errorf("%s: %.3f of all, want about %.3f", name, got, share.want)
		}
	}
	if slices.IsSorted(one) {
		t.Error("nothing was reordered")
	}
}

func TestCutAndMTUDrop(t *testing.T) {
	if arrived, _ := run(t, 1, Faults{Cut: true}); len(arrived) != 0 {
		t.Errorf("%d arrived through a cut", len(arrived))
	}
	if arrived, n := run(t, 1, Faults{MTU: 7}); len(arrived) != 0 || n.Counts().TooLong != 2000 {
		t.Errorf("%d of 8 bytes arrived where 7 fit", len(arrived))
	}
	if arrived, _ := run(t, 1, Faults{MTU: 8}); len(arrived) != 2000 {
		t.Errorf("%d of 8 bytes arrived where 8 fit", len(arrived))
	}
}

// 8 bytes per µs are offered and 4 carried; the queue adds its length and no more.
func TestBottleneckHasARateAndAQueue(t *testing.T) {
	pipe := &Bottleneck{BytesPerSecond: 4e6, QueueBytes: 800}
	arrived, _ := run(t, 1, Faults{Through: pipe})
	if got := len(arrived); got < 1050 || got > 1150 || pipe.Dropped != uint64(2000-got) {
		t.Errorf("%d arrived and %d were dropped, want about 1100 and the rest", got, pipe.Dropped)
	}
}

func TestClockDriftsAndJumps(t *testing.T) {
	c := NewClock(time.Hour, 0.25)
	if got := c.At(4000); got != clock.Mono(time.Hour)+5000 {
		t.Errorf("shows %d", got)
	}
	c.Jump(4000, time.Minute)
	want := clock.Mono(time.Hour) + 5000 + clock.Mono(time.Minute)
	if got := c.At(4000); got != want {
		t.Errorf("after the jump shows %d, want %d", got, want)
	}
	if got := c.At(8000); got != want+5000 {
		t.Errorf("later shows %d, want %d", got, want+5000)
	}
	for _, local := range []clock.Mono{want + 5000, want + 77} {
		if got := c.At(c.When(local)); got < local || got > local+2 {
			t.Errorf("at the time for %d it shows %d", local, got)
		}
	}
	if c.When(clock.Never) != clock.Never {
		t.Error("Never has a time")
	}
}

func TestLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReal(1)
		r.Change(func(n *Network) { n.SetAll(Faults{Delay: 3 * time.Millisecond}) })
		from, to := r.Link(a, 1500), r.Link(b, 1500)
		start := time.Now()
		go func() {
			var tx [1]link.TxBuf
			if from.Reserve(tx[:]) != 1 {
				t.Error("no buffer")
			}
			tx[0].Data = append(tx[0].Data, "hello"...)
			tx[0].Peer = b
			if err := from.Send(tx[:]); err != nil {
				t.Error(err)
			}
		}()
		var rx [4]link.RxBuf
		for {
			n, err := to.Recv(rx[:])
			if err != nil {
				t.Fatal(err)
			}
			if n == 1 {
				break
			}
			if err := to.Wait(-1); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(rx[0].Data, []byte("hello")) || rx[0].Peer != a || time.Since(start) != 3*time.Millisecond {
			t.Errorf("got %q from %s after %v", rx[0].Data, rx[0].Peer, time.Since(start))
		}
		to.ReleaseRx(rx[:1])
		to.Close()
		if err := to.Wait(-1); err == nil {
			t.Error("a closed link can be waited for")
		}
		from.Close()
	})
}

func TestReserveEndsAtTheRing(t *testing.T) {
	l := NewReal(1).Link(a, 1500)
	bufs := make([]link.TxBuf, txRing+1)
	if got := l.Reserve(bufs); got != txRing {
		t.Fatalf("reserved %d of %d", got, txRing)
	}
	if got := l.Reserve(bufs[:1]); got != 0 {
		t.Fatal("reserved beyond the ring")
	}
	l.ReleaseTx(bufs[:1])
	if got := l.Reserve(bufs[:1]); got != 1 {
		t.Fatal("what was released is not there")
	}
}
