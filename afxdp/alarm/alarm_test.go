package alarm

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// poll waits for a to ring, up to most, and returns after how long it did.
func poll(t *testing.T, a *Alarm, most time.Duration) (d time.Duration, rang bool) {
	t.Helper()
	start := time.Now()
	fds := []unix.PollFd{{Fd: int32(a.FD()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(most.Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(start), n > 0
	}
}

func open(t *testing.T) *Alarm {
	t.Helper()
	a, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func set(t *testing.T, a *Alarm, d time.Duration) {
	t.Helper()
	if err := a.Set(d); err != nil {
		t.Fatal(err)
	}
}

func TestRingsWhenItIsTime(t *testing.T) {
	a := open(t)
	if _, rang := poll(t, a, 5*time.Millisecond); rang {
		t.Error("rang without being set")
	}
	for range 3 { // set again after it has rung, it is quiet until then
		set(t, a, 20*time.Millisecond)
		if d, rang := poll(t, a, time.Minute); !rang || d < 19*time.Millisecond {
			t.Errorf("set to 20 ms: rang %v, after %v", rang, d)
		}
	}
}

func TestEarlierTimeCounts(t *testing.T) {
	a := open(t)
	set(t, a, time.Hour)
	set(t, a, 10*time.Millisecond)
	if d, rang := poll(t, a, time.Minute); !rang || d < 9*time.Millisecond {
		t.Errorf("set to an hour and then to 10 ms: rang %v, after %v", rang, d)
	}
}

// A later time than it is set to costs nothing now: it rings as it was set, and the
// next Set makes good.
func TestLaterTimeWaitsForTheNextSet(t *testing.T) {
	a := open(t)
	set(t, a, time.Hour)
	rings := a.rings
	set(t, a, 2*time.Hour)
	if a.rings != rings {
		t.Error("set to a later time, it was set anew")
	}
	set(t, a, 10*time.Millisecond)
	if _, rang := poll(t, a, time.Minute); !rang {
		t.Error("did not ring at the earlier time")
	}
	set(t, a, time.Hour)
	if _, rang := poll(t, a, 20*time.Millisecond); rang {
		t.Error("rings on although it was set again")
	}
}
