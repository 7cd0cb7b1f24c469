package linktest

import (
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
)

// awake lets a Wait return that an earlier event owes, so that the next one
// starts from nothing.
func awake(t *testing.T, l link.Link) {
	t.Helper()
	if err := l.Wait(0); err != nil {
		t.Fatal(err)
	}
}

// sleeps tells whether Wait sleeps until d has passed. A signal of Go's runtime may end it
// early, and so may the alarm of an earlier one; a Wait that does not sleep returns
// hundreds of times meanwhile.
func sleeps(t *testing.T, l link.Link, d time.Duration) bool {
	t.Helper()
	start := time.Now()
	for range 50 {
		if err := l.Wait(d); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) >= d {
			return true
		}
	}
	return false
}

func wakes(t *testing.T, s Suite) {
	a, _ := s.Open(t)
	awake(t, a)
	a.Wake()
	a.Wake() // two count as one
	start := time.Now()
	if err := a.Wait(patience); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d >= patience {
		t.Errorf("after Wake, Wait took %v", d)
	}
	if !sleeps(t, a, 20*time.Millisecond) {
		t.Error("one Wake ends one Wait after the other")
	}
	for range 20 {
		done := make(chan error, 1)
		go func() { done <- a.Wait(-1) }()
		a.Wake() // before, while or after Wait begins
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func waits(t *testing.T, s Suite) {
	a, b := s.Open(t)
	awake(t, a)
	if !sleeps(t, a, 30*time.Millisecond) {
		t.Error("Wait returns though nothing happens")
	}
	start := time.Now()
	if err := a.Wait(0); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > patience/10 {
		t.Errorf("Wait(0) took %v", d)
	}
	done := make(chan error, 1)
	go func() { done <- b.Wait(-1) }()
	send(t, a, b, content(0, 100))
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// A datagram that is there already does not let Wait sleep either.
	got := receive(t, a, b, 1)
	b.ReleaseRx(got)
	send(t, a, b, content(1, 100), content(2, 100))
	first := receive(t, a, b, 1)
	start = time.Now()
	if err := b.Wait(patience); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d >= patience {
		t.Errorf("with a datagram there, Wait took %v", d)
	}
	b.ReleaseRx(first)
	b.ReleaseRx(receive(t, a, b, 1))
}

func closes(t *testing.T, s Suite) {
	a, b := s.Open(t)
	send(t, a, b, content(0, 100))
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	if _, err := a.Recv(make([]link.RxBuf, 1)); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Recv after Close: %v", err)
	}
	if err := a.Wait(0); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Wait after Close: %v", err)
	}
	if err := a.Send(nil); !errors.Is(err, link.ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
	if n := a.Reserve(make([]link.TxBuf, 1)); n != 0 {
		t.Errorf("%d buffers lent after Close", n)
	}
	a.Wake()
	if got := a.Stats().TxPackets; got != 1 {
		t.Errorf("after Close the Stats say %d datagrams, want 1", got)
	}
	// The other end does not mind.
	b.ReleaseRx(receive(t, a, b, 1))
	bufs := make([]link.TxBuf, 1)
	if b.Reserve(bufs) == 1 {
		bufs[0].Data, bufs[0].Peer = append(bufs[0].Data, 1), a.LocalAddr()
		if err := b.Send(bufs); err != nil {
			t.Errorf("send to an end that is gone: %v", err)
		}
	}
}

// Wake and Stats may be called by others while the link is closed.
func closesUnderObservation(t *testing.T, s Suite) {
	for range 10 {
		a, b := s.Open(t)
		send(t, b, a, content(0, 100))
		stop := make(chan struct{})
		var others sync.WaitGroup
		for range 2 {
			others.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						a.Wake()
						a.Stats()
						a.MaxDatagram()
					}
				}
			})
		}
		pump := make(chan error, 1)
		go func() {
			bufs := make([]link.RxBuf, 1)
			n, err := a.Recv(bufs)
			a.ReleaseRx(bufs[:n])
			pump <- err
		}()
		if err := <-pump; err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		close(stop)
		others.Wait()
	}
}

// watches is for a link.Watcher: a descriptor that is readable ends Wait for as
// long as it is watched.
func watches(t *testing.T, s Suite) {
	a, _ := s.Open(t)
	w, ok := a.(link.Watcher)
	if !ok {
		return // a Link need not be one
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(event)
	awake(t, a)
	w.Watch([]int{event})
	if !sleeps(t, a, 20*time.Millisecond) {
		t.Error("Wait returns though nothing happens")
	}
	done := make(chan error, 1)
	go func() { done <- a.Wait(-1) }()
	if _, err := unix.Write(event, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.Watch(nil)
	if !sleeps(t, a, 20*time.Millisecond) {
		t.Error("a descriptor that is not watched any more ends Wait")
	}
}
