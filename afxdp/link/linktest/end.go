package linktest

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"blockd.dev/afxdp/link"
)

// patience is how long something that must happen may take, on a machine that
// is busy with other things.
const patience = 10 * time.Second

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

// receive returns n datagrams, which the caller holds. Fewer are a failure.
func receive(t *testing.T, at link.Link, n int) []link.RxBuf {
	t.Helper()
	bufs := receiveUpTo(t, at, n, patience)
	if len(bufs) != n {
		t.Fatalf("%d of %d datagrams came within %v", len(bufs), n, patience)
	}
	return bufs
}

func receiveUpTo(t *testing.T, at link.Link, n int, within time.Duration) []link.RxBuf {
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
		if err := at.Wait(left); err != nil {
			t.Fatalf("wait: %v", err)
		}
	}
	return bufs[:got]
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
