package linktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"blockd.dev/afxdp/link"
)

// patience is how long something that must happen may take, on a machine that
// is busy with other things: a virtual one may stand still for seconds. Nothing
// that works waits for its end.
const patience = time.Minute

// content is the datagram with the given number: it tells number and length,
// and every byte depends on both.
func content(number, length int) []byte {
	b := make([]byte, length)
	x := uint32(number)*2654435761 + uint32(length)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	if length >= 8 {
		binary.BigEndian.PutUint32(b, uint32(number))
		binary.BigEndian.PutUint32(b[4:], uint32(length))
	}
	return b
}

// send sends datagrams, one batch per ring full, and waits for room as a pump
// does.
func send(t *testing.T, from, to link.Link, datagrams ...[]byte) {
	t.Helper()
	bufs := make([]link.TxBuf, len(datagrams))
	for deadline := time.Now().Add(patience); len(datagrams) > 0; {
		n := from.Reserve(bufs[:len(datagrams)])
		for i := range n {
			bufs[i].Data = append(bufs[i].Data, datagrams[i]...)
			bufs[i].Peer = to.LocalAddr()
		}
		if err := from.Send(bufs[:n]); err != nil {
			t.Fatalf("send: %v", err)
		}
		datagrams = datagrams[n:]
		if n == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("no buffer to send with, for %v", patience)
			}
			if err := from.Wait(time.Millisecond); err != nil {
				t.Fatalf("wait for room: %v", err)
			}
		}
	}
}

// receive returns n datagrams that were sent by from, which the caller holds.
// Fewer are a failure.
func receive(t *testing.T, from, at link.Link, n int) []link.RxBuf {
	t.Helper()
	bufs := receiveUpTo(t, from, at, n, patience)
	if len(bufs) != n {
		t.Fatalf("%d of %d datagrams came within %v", len(bufs), n, patience)
	}
	return bufs
}

// turn is how long the receiver waits before the sender has its turn.
const turn = time.Millisecond

// receiveUpTo gives both ends their turns, as their pumps would: a sender may
// have datagrams left that the kernel had no room for, and passes them on when
// it is called again. On a machine that is busy this happens.
func receiveUpTo(t *testing.T, from, at link.Link, n int, within time.Duration) []link.RxBuf {
	t.Helper()
	bufs := make([]link.RxBuf, n)
	got := 0
	for deadline := time.Now().Add(within); got < n; {
		k, err := at.Recv(bufs[got:])
		if err != nil {
			t.Fatalf("receive: %v", err)
		}
		if got += k; k > 0 {
			continue
		}
		left := time.Until(deadline)
		if left <= 0 {
			break
		}
		if err := at.Wait(min(left, turn)); err != nil {
			t.Fatalf("wait: %v", err)
		}
		if err := from.Wait(0); err != nil && !errors.Is(err, link.ErrClosed) {
			t.Fatalf("the sender's wait: %v", err)
		}
	}
	return bufs[:got]
}

// receiveRow receives what arrives of a row of datagrams that were sent from a
// to b, and returns how many. What the devices between had no room for may be
// missing; the rest comes in order, once and undamaged, and the link works on.
func receiveRow(t *testing.T, a, b link.Link, row [][]byte) (arrived int) {
	t.Helper()
	// Nobody knows how long the last one takes. What is sent behind it tells that
	// it will not come any more.
	end := content(len(row), 1200)
	next := 0
	for deadline := time.Now().Add(patience); ; {
		got := receiveUpTo(t, a, b, 1, 20*turn)
		if len(got) == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("after %d datagrams, some of them perhaps lost, nothing passes for %v", len(row), patience)
			}
			send(t, a, b, end)
			continue
		}
		for next < len(row) && !bytes.Equal(got[0].Data, row[next]) {
			next++
		}
		if next == len(row) {
			check(t, got[0], a, end)
			b.ReleaseRx(got)
			return arrived
		}
		check(t, got[0], a, row[next])
		next++
		arrived++
		b.ReleaseRx(got)
	}
}

// check compares a datagram with what was sent, and where from.
func check(t *testing.T, got link.RxBuf, from link.Link, want []byte) {
	t.Helper()
	if got.Peer != from.LocalAddr() {
		t.Errorf("datagram from %v, want %v", got.Peer, from.LocalAddr())
	}
	if !bytes.Equal(got.Data, want) {
		t.Errorf("%d bytes came, want %d; first difference at %d", len(got.Data), len(want), difference(got.Data, want))
	}
}

func difference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}
