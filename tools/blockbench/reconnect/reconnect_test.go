package reconnect

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host hands out sessions with one RAM device.
type host struct {
	disk *ram.Device

	mu      sync.Mutex
	current *fault.Device
	dials   int
	refuse  int // dials that fail
}

func newHost(t *testing.T) *host {
	t.Helper()
	disk, err := ram.New(ram.Config{SizeBytes: 4 << 20, BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := disk.Close(); err != nil {
			t.Error(err)
		}
	})
	return &host{disk: disk}
}

var errRefused = errors.New("refused")

func (h *host) dial(context.Context) (Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials++
	if h.refuse > 0 {
		h.refuse--
		return nil, errRefused
	}
	h.current = fault.New(h.disk, nil)
	return h.current, nil
}

func (h *host) session() *fault.Device {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.current
}

func open(t *testing.T, h *host, c Config) *Device {
	t.Helper()
	c.Dial, c.Pause = h.dial, time.Millisecond
	d, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDeviceConforms(t *testing.T) {
	devtest.Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) { return open(t, newHost(t), Config{}), nil })
}

// inFlight submits a read, a write and a flush that the session never answers.
func inFlight(t *testing.T, h *host, d *Device) (reqs []*blockdev.Request, wait func()) {
	t.Helper()
	h.session().Add(fault.Rule{Kind: fault.KindHang})
	var wg sync.WaitGroup
	for _, r := range []*blockdev.Request{
		{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{make([]byte, 4096)}},
		{Op: blockdev.OpRead, Offset: 4096, Length: 4096, Data: [][]byte{make([]byte, 4096)}},
		{Op: blockdev.OpFlush},
	} {
		wg.Add(1)
		r.Done = func(*blockdev.Request) { wg.Done() }
		reqs = append(reqs, r)
	}
	d.Submit(reqs)
	return reqs, wg.Wait
}

func TestRequestsAreSentAgain(t *testing.T) {
	h := newHost(t)
	var lost, found int
	d := open(t, h, Config{Timeout: 10 * time.Second, Lost: func(error) { lost++ }, Found: func(time.Duration) { found++ }})
	reqs, wait := inFlight(t, h, d)
	h.mu.Lock()
	h.refuse = 3
	h.mu.Unlock()
	h.session().Fail(blockdev.ErrGone)
	wait()
	for _, r := range reqs {
		if r.Err != nil {
			t.Error(r.Op, r.Err)
		}
	}
	if h.dials != 5 || lost != 1 || found != 1 {
		t.Errorf("%d dials, %d times lost, %d times found", h.dials, lost, found)
	}
}

func TestWritesAndFlushesAreInterrupted(t *testing.T) {
	h := newHost(t)
	d := open(t, h, Config{Timeout: 10 * time.Second, Interrupt: true})
	reqs, wait := inFlight(t, h, d)
	h.session().Fail(blockdev.ErrGone)
	wait()
	for _, r := range reqs {
		if want := r.Op != blockdev.OpRead; errors.Is(r.Err, ErrInterrupted) != want || (r.Err != nil) != want {
			t.Error(r.Op, r.Err)
		}
	}
	if err := blockdev.Flush(d); err != nil {
		t.Error(err)
	}
}

func TestItGivesUpInTime(t *testing.T) {
	t.Run("after some attempts", func(t *testing.T) { givesUp(t, 20*time.Millisecond) })
	t.Run("after one, for which there was no time", func(t *testing.T) { givesUp(t, 1) })
}

func givesUp(t *testing.T, timeout time.Duration) {
	h := newHost(t)
	d := open(t, h, Config{Timeout: timeout})
	gone := make(chan blockdev.Change, 1)
	defer d.Watch(func(c blockdev.Change) { gone <- c })()
	reqs, wait := inFlight(t, h, d)
	h.mu.Lock()
	h.refuse = 1 << 30
	h.mu.Unlock()
	h.session().Fail(blockdev.ErrGone)
	wait()
	for _, r := range append(reqs, &blockdev.Request{Op: blockdev.OpFlush, Err: blockdev.Flush(d)}) {
		if !errors.Is(r.Err, blockdev.ErrGone) || !errors.Is(r.Err, errRefused) {
			t.Error(r.Op, r.Err)
		}
	}
	if c := <-gone; c != blockdev.ChangeGone {
		t.Error(c)
	}
}
