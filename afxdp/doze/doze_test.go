package doze

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/internal/clock"
)

func event(t *testing.T) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

func open(t *testing.T, fds ...int) *Sleeper {
	t.Helper()
	s, err := Open(fds...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ring(t *testing.T, fd int) {
	t.Helper()
	if _, err := unix.Write(fd, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		t.Error(err)
	}
}

func clear(t *testing.T, fd int) {
	t.Helper()
	var b [8]byte
	if _, err := unix.Read(fd, b[:]); err != nil {
		t.Error(err)
	}
}

// Each of the descriptors ends it, again and again, whether it became readable before, meanwhile, or
// while the sleeper was up and did not look.
func TestDozeEndsWhenOneIsReadable(t *testing.T) {
	a, b := event(t), event(t)
	s := open(t, a, b)
	for range 3 {
		for _, fd := range []int{a, b} {
			ring(t, fd) // before
			if err := s.Doze(); err != nil {
				t.Fatal(err)
			}
			clear(t, fd)
			ring(t, fd)
			clear(t, fd) // was readable for a moment: no reason to wake
			done := make(chan error, 1)
			go func() { done <- s.Doze() }()
			select {
			case err := <-done:
				t.Fatalf("returned (%v) with nothing to read", err)
			case <-time.After(10 * time.Millisecond):
			}
			ring(t, fd)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			clear(t, fd)
		}
	}
}

// What comes while the sleeper is up wakes nobody: Go's poller watches its instance, which is empty then.
func TestNothingIsWatchedOutsideOfADoze(t *testing.T) {
	a := event(t)
	s := open(t, a)
	ring(t, a)
	if err := s.Doze(); err != nil {
		t.Fatal(err)
	}
	var found [1]unix.EpollEvent
	if n, err := unix.EpollWait(s.epoll, found[:], 0); n != 0 || err != nil {
		t.Errorf("the instance finds %d descriptors readable, %v", n, err)
	}
}

// A sleeper dozes until it has slept shortly several times in a row, and again after one long sleep.
func TestBusySleepersDoNotDoze(t *testing.T) {
	s := open(t)
	for round := range 2 {
		for i := range busyAfter + 3 {
			if got, want := s.Begin(true), i < busyAfter; got != want {
				t.Errorf("round %d: after %d short sleeps the next one is a doze: %v", round, i, got)
			}
			s.End()
		}
		s.Begin(true)
		s.began -= clock.Mono(long)
		s.End()
	}
}

// Who sleeps in poll(2) after a doze has come from Go's poller, and sees to it that another thread waits there: what a
// connection gets then is found at once, and not by the monitor, which looks when nobody has for 10 ms.
func TestTheLastDozeLeavesSomebodyInGosPoller(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4)) // one each for those who sleep in poll(2), and more
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	conn, err := w.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var to int
	if err := conn.Control(func(fd uintptr) { to = int(fd) }); err != nil {
		t.Fatal(err)
	}
	a, b, got := event(t), event(t), event(t)
	s := open(t, a)
	go func() {
		var b [1]byte
		for {
			if _, err := r.Read(b[:]); err != nil {
				return
			}
			ring(t, got)
		}
	}()
	const rounds = 40
	var sleeper sync.WaitGroup
	sleeper.Go(func() {
		for range rounds {
			s.Begin(true)
			if err := s.Doze(); err != nil {
				t.Error(err)
			}
			clear(t, a)
			s.Begin(false)
			poll(t, b)
			clear(t, b)
		}
	})
	soon := 0
	for range rounds { // with no word to Go's scheduler
		pause(t, 5*time.Millisecond) // until the sleeper dozes
		ring(t, a)
		pause(t, time.Millisecond) // until it is in poll(2)
		began := time.Now()
		if _, err := unix.Write(to, []byte{1}); err != nil {
			t.Fatal(err)
		}
		poll(t, got)
		if time.Since(began) < 6*time.Millisecond {
			soon++
		}
		clear(t, got)
		ring(t, b)
	}
	sleeper.Wait()
	if t.Logf("found within 6 ms: %d of %d", soon, rounds); soon < rounds/4 {
		t.Errorf("of %d writes to a connection %d were found before the monitor looked", rounds, soon)
	}
}

// pause sleeps in nanosleep(2), as poll does.
func pause(t *testing.T, d time.Duration) {
	t.Helper()
	ts := unix.NsecToTimespec(int64(d))
	if err := unix.Nanosleep(&ts, nil); err != nil && err != unix.EINTR {
		t.Error(err)
	}
}

// poll sleeps in poll(2), which keeps the goroutine's P.
func poll(t *testing.T, fd int) {
	t.Helper()
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if err == nil {
			return
		}
		if err != unix.EINTR {
			t.Error(err)
			return
		}
	}
}
