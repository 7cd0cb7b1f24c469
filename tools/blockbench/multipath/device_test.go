package multipath

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/nvmetcp/nvmehost"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// path is one to a RAM device, with faults.
type path struct {
	disk *ram.Device

	mu        sync.Mutex
	optimized bool
	refuse    error // answers everything
	hold      bool  // answers nothing, until the session is lost
	down      bool  // can't be dialled
	dials     int
	requests  int
	session   *fakeSession
}

type fakeSession struct {
	*ram.Device
	path *path
	gone chan struct{}
	once sync.Once
	held []*blockdev.Request

	closed bool
}

func (p *path) dial(context.Context) (Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dials++
	if p.down {
		return nil, errors.New("refused")
	}
	p.session = &fakeSession{Device: p.disk, path: p, gone: make(chan struct{})}
	return p.session, nil
}

func (s *fakeSession) Optimized() bool {
	s.path.mu.Lock()
	defer s.path.mu.Unlock()
	return s.path.optimized
}

func (s *fakeSession) Gone() <-chan struct{} { return s.gone }

func (s *fakeSession) Close() error {
	s.once.Do(func() { close(s.gone) })
	s.path.mu.Lock()
	held := s.held
	s.held, s.closed = nil, true
	s.path.mu.Unlock()
	for _, r := range held {
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrGone, r, -1, nil))
	}
	return nil
}

func (s *fakeSession) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		s.path.mu.Lock()
		s.path.requests++
		err, hold := s.path.refuse, s.path.hold && !s.closed
		if s.closed {
			err = blockdev.ErrGone
		}
		if hold {
			s.held = append(s.held, r)
		}
		s.path.mu.Unlock()
		switch {
		case hold:
		case err != nil:
			blockdev.Complete(r, blockdev.NewError(err, r, -1, nil))
		default:
			s.Device.Submit([]*blockdev.Request{r})
		}
	}
}

// lose ends the session, and what it held.
func (p *path) lose(t *testing.T, down bool) {
	t.Helper()
	p.mu.Lock()
	p.down = down
	s := p.session
	p.mu.Unlock()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func (p *path) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *path) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// twoPaths is a device of two, both up; the first is optimized.
func twoPaths(t *testing.T, patience time.Duration) (*Device, [2]*path) {
	t.Helper()
	disk, err := ram.New(ram.Config{SizeBytes: 1 << 20, BlockSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	paths := [2]*path{{disk: disk, optimized: true}, {disk: disk}}
	d, err := New(t.Context(), Config{Patience: patience, Pause: time.Millisecond, Paths: []func(context.Context) (Session, error){paths[0].dial, paths[1].dial}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), disk.Close()); err != nil {
			t.Error(err)
		}
	})
	until(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.sessions[0] != nil && d.sessions[1] != nil
	})
	return d, paths
}

// until polls what nobody announces.
func until(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatal("waited for 20 s")
		}
	}
}

func write(d *Device) error { return blockdev.WriteAt(d, make([]byte, 4096), 0) }

func compareAndWrite(d *Device) error {
	return blockdev.Do(d, &blockdev.Request{Op: blockdev.OpCompareAndWrite, Length: 4096, Data: [][]byte{make([]byte, 8192)}})
}

func TestTheOptimizedPathIsTaken(t *testing.T) {
	d, paths := twoPaths(t, time.Minute)
	for range 10 {
		if err := write(d); err != nil {
			t.Fatal(err)
		}
	}
	paths[0].set(func() { paths[0].optimized = false })
	paths[1].set(func() { paths[1].optimized = true })
	for range 5 {
		if err := write(d); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := paths[0].count(), paths[1].count(); a != 10 || b != 5 {
		t.Errorf("%d and %d requests, want 10 and 5", a, b)
	}
}

// What is under way on a path that is lost is done by the other, and the lost one
// is dialled until it is back.
func TestAPathIsLost(t *testing.T) {
	d, paths := twoPaths(t, time.Minute)
	paths[0].set(func() { paths[0].hold = true })
	done := make(chan error, 1)
	go func() { done <- write(d) }()
	until(t, func() bool { return paths[0].count() == 1 })
	paths[0].lose(t, true)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := paths[1].count(); n != 1 {
		t.Errorf("the other path had %d requests", n)
	}
	paths[0].set(func() { paths[0].hold, paths[0].down = false, false })
	until(t, func() bool {
		if err := write(d); err != nil {
			t.Fatal(err)
		}
		return paths[0].count() > 1
	})
}

// A target that refuses for a while is asked again, by the other path first.
func TestRefusals(t *testing.T) {
	for name, err := range map[string]error{"busy": blockdev.ErrBusy, "path related": &nvmehost.StatusError{Status: 0x302}} {
		d, paths := twoPaths(t, time.Minute)
		paths[0].set(func() { paths[0].refuse = err })
		if err := write(d); err != nil || paths[1].count() != 1 {
			t.Errorf("%s: %v, %d requests by the other path", name, err, paths[1].count())
		}
	}
	d, paths := twoPaths(t, time.Minute)
	paths[0].set(func() { paths[0].refuse = blockdev.ErrMedium })
	if err := write(d); !errors.Is(err, blockdev.ErrMedium) || paths[1].count() != 0 {
		t.Errorf("%v, %d requests by the other path: want the error that no path cures", err, paths[1].count())
	}
}

// A compare-and-write whose answer is lost is sent by no other path.
func TestCompareAndWriteIsSentOnce(t *testing.T) {
	d, paths := twoPaths(t, time.Minute)
	if err := compareAndWrite(d); err != nil {
		t.Fatal(err)
	}
	paths[0].set(func() { paths[0].refuse = blockdev.ErrGone })
	if err := compareAndWrite(d); !errors.Is(err, ErrUnknown) || paths[1].count() != 0 {
		t.Errorf("%v, %d requests by the other path", err, paths[1].count())
	}
}

// When no path works the patience decides; only what was sent may have been done.
func TestPatience(t *testing.T) {
	d, paths := twoPaths(t, 50*time.Millisecond)
	paths[0].set(func() { paths[0].hold = true })
	done := make(chan error, 1)
	go func() { done <- write(d) }()
	until(t, func() bool { return paths[0].count() == 1 })
	paths[1].lose(t, true)
	paths[0].lose(t, true)
	if err := <-done; !errors.Is(err, ErrUnknown) || !errors.Is(err, blockdev.ErrGone) {
		t.Errorf("%v, want that the outcome is unknown", err)
	}
	until(t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.sessions[0] == nil && d.sessions[1] == nil
	})
	if err := write(d); !errors.Is(err, errNoPath) || errors.Is(err, ErrUnknown) {
		t.Errorf("%v, want that there is no path, and nothing was done", err)
	}
}

func TestNoPathAtAll(t *testing.T) {
	p := &path{down: true}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, Config{Pause: time.Millisecond, Paths: []func(context.Context) (Session, error){p.dial}}); !errors.Is(err, errNoPath) {
		t.Error(err)
	}
}
