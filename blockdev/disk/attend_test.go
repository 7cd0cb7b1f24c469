package disk

import (
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func uringFile(t *testing.T, sizeBytes int64) *uringDisk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := Create(path, sizeBytes); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, Options{Driver: DriverURing, Buffered: true})
	if err != nil {
		t.Fatal(err)
	}
	return d.(*uringDisk)
}

// readable waits until fd is.
func readable(t *testing.T, fd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			t.Fatalf("the ring is not readable in 10 s: %d, %v", n, err)
		}
		return
	}
}

func writes(n int, done func()) (batch []*IO) {
	for i := range n {
		batch = append(batch, &IO{Op: Write, Off: int64(i) * BlockBytes, Bufs: [][]byte{NewAligned(BlockBytes)}, Done: func(io *IO) {
			if io.Err != nil {
				panic(io.Err)
			}
			done()
		}})
	}
	return batch
}

// What an attendant has the patience for is done by its Look, and by nobody else;
// it is woken by the ring.
func TestAttendantDoesWhatTheReaperDid(t *testing.T) {
	d := uringFile(t, 1<<20)
	a := AttendedOf(d)
	if !a.Attend(nil) || a.Attend(nil) {
		t.Fatal("a disk at rest wants one attendant")
	}
	done := 0 // on this goroutine, as the race detector checks
	for range 100 {
		done = 0
		d.Submit(writes(attendMax, func() { done++ }))
		for done < attendMax {
			if !a.Rest() {
				t.Fatal("the attendant is not wanted")
			}
			readable(t, a.FD())
			if worked, attending := a.Look(); !worked || !attending {
				t.Fatalf("Look: %v, %v", worked, attending)
			}
		}
	}
	if a.Rest() {
		t.Error("with nothing in flight an attendant that sleeps holds up the next one")
	}
	var all sync.WaitGroup
	all.Add(1)
	d.Submit(writes(1, all.Done))
	all.Wait() // by the reaper
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// An attendant with too much to do gives way, and loses nothing.
func TestAttendantGivesWayToTheReaper(t *testing.T) {
	d := uringFile(t, 1<<20)
	d.cqes = d.cqes[:1] // a Look finds one of many
	for _, leave := range []func() bool{
		d.Rest,
		func() bool {
			readable(t, d.FD())
			_, attending := d.Look()
			return attending
		},
		func() bool { d.Leave(); return false },
	} {
		if !d.Attend(nil) {
			t.Fatal("a disk at rest wants an attendant")
		}
		var all sync.WaitGroup
		n := 4 * attendMax
		all.Add(n)
		d.Submit(writes(n, all.Done))
		if leave() {
			t.Fatal("the attendant stays")
		}
		all.Wait()
		waitParked(d)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// waitParked waits until the reaper rests: it calls Done before.
func waitParked(d *uringDisk) {
	for {
		d.mu.Lock()
		parked := d.parked
		d.mu.Unlock()
		if parked {
			return
		}
		time.Sleep(time.Millisecond) // sleep: the reaper tells nobody that it rests
	}
}

// Close has the attendant leave, and waits for what is in flight.
func TestCloseWakesTheAttendant(t *testing.T) {
	d := uringFile(t, 1<<20)
	woken := make(chan struct{}, 1)
	if !d.Attend(func() { woken <- struct{}{} }) {
		t.Fatal("a disk at rest wants an attendant")
	}
	var done atomic.Int32
	d.Submit(writes(1, func() { done.Add(1) }))
	closed := make(chan error, 1)
	go func() { closed <- d.Close() }()
	<-woken
	if _, attending := d.Look(); attending {
		t.Error("a disk that is to be closed is attended")
	}
	if err := <-closed; err != nil || done.Load() != 1 {
		t.Errorf("Close: %v, with %d of 1 I/O done", err, done.Load())
	}
	if d.Attend(nil) {
		t.Error("a disk that is closed is attended")
	}
}

// What the kernel does not take at once is the reaper's to try again.
func TestAttendantIsWokenForWhatTheKernelRefused(t *testing.T) {
	m := newMockRing(1<<20, 8)
	var refused atomic.Bool
	m.enter = func(n uint32) (uint32, syscall.Errno) {
		if !refused.Swap(true) {
			return 0, syscall.EBUSY
		}
		return n, 0
	}
	d := mockDisk(t, m, 8)
	woken := make(chan struct{}, 1)
	if !d.Attend(func() { woken <- struct{}{} }) {
		t.Fatal("a disk at rest wants an attendant")
	}
	var all sync.WaitGroup
	all.Add(1)
	d.Submit(writes(1, all.Done))
	<-woken
	if d.Rest() {
		t.Error("the attendant stays, and nobody submits what is filled")
	}
	all.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
