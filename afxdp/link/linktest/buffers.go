package linktest

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/invariants"
)

// reserveAll reserves until there is nothing more.
func reserveAll(t *testing.T, l link.Link) []link.TxBuf {
	t.Helper()
	var all []link.TxBuf
	for len(all) < 1<<20 {
		bufs := make([]link.TxBuf, 7)
		n := l.Reserve(bufs)
		all = append(all, bufs[:n]...)
		if n < len(bufs) {
			return all
		}
	}
	t.Fatalf("%d buffers were lent, and there seems to be no end", len(all))
	return nil
}

// Two buffers that are out at the same time share no byte.
func lendsOnce(t *testing.T, s Suite) {
	a, _ := s.Open(t)
	all := reserveAll(t, a)
	room := a.MaxDatagram()
	for i := range all {
		if len(all[i].Data) != 0 || cap(all[i].Data) < room {
			t.Fatalf("buffer %d has length %d and room for %d, want 0 and %d", i, len(all[i].Data), cap(all[i].Data), room)
		}
		all[i].Data = append(all[i].Data, content(i, room)...)
	}
	for i := range all {
		if !bytes.Equal(all[i].Data, content(i, room)) {
			t.Fatalf("buffer %d was written over through another", i)
		}
	}
	a.ReleaseTx(all)
}

// What is lent comes back to be lent again, and a full ring is not an error.
func lendsWhatItHas(t *testing.T, s Suite) {
	a, b := s.Open(t)
	size := 0
	for round := range 5 {
		all := reserveAll(t, a)
		if round == 0 {
			if size = len(all); size < 2 {
				t.Fatalf("%d buffers in all", size)
			}
		}
		if len(all) != size {
			t.Fatalf("round %d: %d buffers, in the first were %d: some got lost", round, len(all), size)
		}
		if n := a.Reserve(make([]link.TxBuf, 1)); n != 0 {
			t.Fatalf("%d more, after all", n)
		}
		if a.Stats().TxFull == 0 {
			t.Error("a full ring is not counted")
		}
		// Released from the middle: loans end in any order.
		a.ReleaseTx(all[len(all)/2:])
		a.ReleaseTx(all[:len(all)/2])
	}
	// And those that were reserved all at once can be sent all at once.
	all := reserveAll(t, a)
	for i := range all {
		all[i].Data = append(all[i].Data, content(i, 64)...)
		all[i].Peer = b.LocalAddr()
	}
	row := make([][]byte, len(all))
	for i := range all {
		row[i] = content(i, 64)
	}
	if err := a.Send(all); err != nil {
		t.Fatal(err)
	}
	// All of them arrive, if the devices between keep up: they need not.
	if arrived := receiveRow(t, a, b, row); arrived == 0 {
		t.Errorf("of %d datagrams sent at once nothing arrived", len(row))
	}
	// And all buffers come back.
	back := 0
	for deadline := time.Now().Add(patience); back < size; {
		all := reserveAll(t, a)
		back = len(all)
		a.ReleaseTx(all)
		if back < size && time.Now().After(deadline) {
			t.Fatalf("%d of %d buffers came back after they were sent, within %v", back, size, patience)
		}
		if back < size {
			if err := a.Wait(turn); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// The caller may keep RxHoldMax buffers less one, write to them, and give them
// back in any order, while others come and go.
func heldBuffers(t *testing.T, s Suite) {
	a, b := s.Open(t)
	var held []link.RxBuf
	for i := range b.RxHoldMax() - 1 {
		send(t, a, b, content(i, 1000))
		got := receive(t, a, b, 1)
		check(t, got[0], a, content(i, 1000))
		for j := range got[0].Data {
			got[0].Data[j] ^= 0xff // the holder's to change
		}
		held = append(held, got[0])
	}
	for i := range 300 {
		send(t, a, b, content(i, 900))
		got := receive(t, a, b, 1)
		check(t, got[0], a, content(i, 900))
		b.ReleaseRx(got)
	}
	for i := range held {
		want := content(i, 1000)
		for j := range want {
			want[j] ^= 0xff
		}
		if !bytes.Equal(held[i].Data, want) {
			t.Fatalf("held buffer %d was changed under its holder", i)
		}
	}
	for i := range held { // every second one, then the rest
		if i%2 == 1 {
			b.ReleaseRx(held[i : i+1])
		}
	}
	for i := range held {
		if i%2 == 0 {
			b.ReleaseRx(held[i : i+1])
		}
	}
	for i := range 2 * b.RxHoldMax() {
		send(t, a, b, content(i, 800))
		got := receive(t, a, b, 1)
		check(t, got[0], a, content(i, 800))
		b.ReleaseRx(got)
	}
}

// A round trip allocates nothing, once everything has been used.
func allocates(t *testing.T, s Suite) {
	if s.Allocates {
		t.Log("not asked of this kind of link, which is for tests only")
		return
	}
	if invariants.Enabled {
		t.Log("counted without -race only: the race detector allocates")
		return
	}
	a, b := s.Open(t)
	tx, rx := make([]link.TxBuf, 4), make([]link.RxBuf, 4)
	pass := func(from, to link.Link) {
		n := from.Reserve(tx)
		for i := range n {
			tx[i].Data = tx[i].Data[:1000]
			tx[i].Peer = to.LocalAddr()
		}
		if err := from.Send(tx[:n]); err != nil {
			t.Fatal(err)
		}
		for n > 0 {
			k, err := to.Recv(rx)
			if err != nil {
				t.Fatal(err)
			}
			to.ReleaseRx(rx[:k])
			if n -= k; k == 0 {
				// Both have their turns, as in receiveUpTo.
				if err := errors.Join(to.Wait(turn), from.Wait(0)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if n := testing.AllocsPerRun(200, func() { pass(a, b); pass(b, a); a.Wake(); a.Stats() }); n != 0 {
		t.Errorf("%v allocations per round trip", n)
	}
}
