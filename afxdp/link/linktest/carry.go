package linktest

import (
	"math/rand/v2"
	"testing"

	"blockd.dev/afxdp/link"
)

func describes(t *testing.T, s Suite) {
	a, b := s.Open(t)
	for _, l := range []link.Link{a, b} {
		if l.Kind().String() == "invalid" {
			t.Errorf("kind %d", l.Kind())
		}
		if !l.LocalAddr().IsValid() || l.LocalAddr().Port() == 0 {
			t.Errorf("local address %v", l.LocalAddr())
		}
		if l.MaxDatagram() < 1200 {
			t.Errorf("datagrams of at most %d bytes", l.MaxDatagram())
		}
		if l.RxHoldMax() < 1 {
			t.Errorf("%d received buffers may be held", l.RxHoldMax())
		}
	}
	if a.LocalAddr() == b.LocalAddr() {
		t.Errorf("both ends are %v", a.LocalAddr())
	}
}

func everyLength(t *testing.T, s Suite) {
	a, b := s.Open(t)
	longest := min(a.MaxDatagram(), b.MaxDatagram())
	lengths := []int{1, 2, 17, 18, 19, 63, 64, 65, 1199, 1200, longest / 2, longest - 1, longest}
	for _, chunk := range []int{1472, 2048, 4096, 8192} {
		for _, d := range []int{-1, 0, 1} {
			if chunk+d <= longest {
				lengths = append(lengths, chunk+d)
			}
		}
	}
	for i, n := range lengths {
		for _, way := range [][2]link.Link{{a, b}, {b, a}} {
			want := content(i, n)
			send(t, way[0], way[1], want)
			got := receive(t, way[0], way[1], 1)
			check(t, got[0], way[0], want)
			way[1].ReleaseRx(got)
		}
	}
}

// A batch of several lengths, some of them in runs, arrives as it was sent.
func mixedBatch(t *testing.T, s Suite) {
	a, b := s.Open(t)
	rng := rand.New(rand.NewPCG(1, 2))
	longest := min(a.MaxDatagram(), b.MaxDatagram())
	for range 50 {
		var batch [][]byte
		for len(batch) < min(24, b.RxHoldMax()) {
			n := 1 + rng.IntN(longest)
			for range 1 + rng.IntN(8) {
				batch = append(batch, content(len(batch), n))
			}
		}
		batch = batch[:min(24, b.RxHoldMax())]
		send(t, a, b, batch...)
		got := receive(t, a, b, len(batch))
		for i := range got {
			check(t, got[i], a, batch[i])
		}
		b.ReleaseRx(got)
	}
}

func tooLong(t *testing.T, s Suite) {
	a, b := s.Open(t)
	bufs := make([]link.TxBuf, 1)
	if a.Reserve(bufs) != 1 {
		t.Fatal("no buffer")
	}
	limit := a.MaxDatagram()
	if cap(bufs[0].Data) < limit {
		t.Fatalf("a buffer has room for %d bytes, and datagrams may have %d", cap(bufs[0].Data), limit)
	}
	if cap(bufs[0].Data) == limit {
		// Room ends where the limit is: there is no way to send more.
		a.ReleaseTx(bufs)
	} else {
		bufs[0].Data = bufs[0].Data[:limit+1]
		bufs[0].Peer = b.LocalAddr()
		if err := a.Send(bufs); err != nil {
			t.Fatalf("a datagram that is too long ends the link: %v", err)
		}
		if got := a.Stats().TxDroppedTooLong; got != 1 {
			t.Errorf("%d datagrams were counted as too long, want 1", got)
		}
	}
	want := content(1, 100)
	send(t, a, b, want)
	got := receive(t, a, b, 1)
	check(t, got[0], a, want)
	b.ReleaseRx(got)
}

// A receiver that takes nothing for a while may cost datagrams, but neither
// order nor content, and when it takes again, what is sent then arrives.
func slowReceiver(t *testing.T, s Suite) {
	a, b := s.Open(t)
	const n = 2000
	var batch [][]byte
	for i := range n {
		batch = append(batch, content(i, 1000))
	}
	send(t, a, b, batch...)
	if arrived := receiveRow(t, a, b, batch); arrived == 0 {
		t.Error("nothing arrived")
	}
}

func counts(t *testing.T, s Suite) {
	a, b := s.Open(t)
	const n, length = 10, 300
	for i := range n {
		send(t, a, b, content(i, length))
		b.ReleaseRx(receive(t, a, b, 1))
	}
	if st := a.Stats(); st.TxPackets != n || st.TxBytes != n*length {
		t.Errorf("the sender counts %d datagrams of %d bytes in all, want %d of %d", st.TxPackets, st.TxBytes, n, n*length)
	}
	if st := b.Stats(); st.RxPackets != n || st.RxBytes != n*length {
		t.Errorf("the receiver counts %d datagrams of %d bytes in all, want %d of %d", st.RxPackets, st.RxBytes, n, n*length)
	}
}
