package disk

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/uring"
)

// OverMock drives a mock ring of the given depth whose kernel misbehaves in
// every way that is no error. For the conformance suite.
func OverMock(t *testing.T, sizeBytes, depth int, seed uint64) Disk {
	m := newMockRing(sizeBytes, depth)
	m.fate = mischief(seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	m.enter = func(n uint32) (uint32, syscall.Errno) {
		switch rng.IntN(6) {
		case 0:
			return 0, syscall.EBUSY
		case 1:
			return 0, syscall.EAGAIN
		case 2:
			return 0, syscall.EINTR
		case 3:
			return (n + 1) / 2, 0
		}
		return n, 0
	}
	return mockDisk(t, m, depth)
}

func mockDisk(t *testing.T, m *mockRing, depth int) *uringDisk {
	t.Helper()
	fd, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return startURing(&file{fd: fd, sizeBytes: int64(len(m.medium)), info: Info{Path: "mock", IsBlock: true}}, m, depth)
}

// await runs one I/O and returns its error.
func await(d Disk, io *IO) error {
	var wg sync.WaitGroup
	wg.Add(1)
	io.Done = func(*IO) { wg.Done() }
	d.Submit([]*IO{io})
	wg.Wait()
	return io.Err
}

func answer(op uint8, errno syscall.Errno) func(*uring.SQE, int) int32 {
	return func(e *uring.SQE, want int) int32 {
		if e.Opcode == op {
			return -int32(errno)
		}
		return int32(want)
	}
}

// TestGoneIsFinal: once the device has vanished every I/O says so, with the
// errno that told.
func TestGoneIsFinal(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENODEV, syscall.ENXIO, syscall.ENOMEDIUM} {
		m := newMockRing(1<<20, 8)
		m.fate = answer(uring.OpRead, errno)
		d := mockDisk(t, m, 8)
		b := [][]byte{NewAligned(BlockBytes)}
		for range 2 {
			if err := await(d, &IO{Op: Read, Bufs: b}); !errors.Is(err, ErrGone) || !errors.Is(err, errno) {
				t.Errorf("read: %v, want ErrGone and %v", err, errno)
			}
			if err := await(d, &IO{Op: Write, Bufs: b}); !errors.Is(err, ErrGone) || !errors.Is(err, errno) {
				t.Errorf("write: %v, want ErrGone and %v", err, errno)
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMediumErrorIsNotFinal: a bad sector fails its read and no other.
func TestMediumErrorIsNotFinal(t *testing.T) {
	m := newMockRing(1<<20, 8)
	m.fate = func(e *uring.SQE, want int) int32 {
		if e.Off == BlockBytes {
			return -int32(syscall.EIO)
		}
		return int32(want)
	}
	d := mockDisk(t, m, 8)
	defer d.Close()
	b := [][]byte{NewAligned(BlockBytes)}
	for range 3 {
		if err := await(d, &IO{Op: Read, Off: BlockBytes, Bufs: b}); !errors.Is(err, syscall.EIO) || errors.Is(err, ErrGone) {
			t.Fatalf("bad sector: %v", err)
		}
		if err := await(d, &IO{Op: Read, Bufs: b}); err != nil {
			t.Fatalf("good sector: %v", err)
		}
	}
}

// TestFailedSyncIsFinal: no later sync or dsync write may claim success, plain
// I/O goes on.
func TestFailedSyncIsFinal(t *testing.T) {
	m := newMockRing(1<<20, 8)
	m.fate = answer(uring.OpFsync, syscall.EIO)
	d := mockDisk(t, m, 8)
	defer d.Close()
	b := [][]byte{NewAligned(BlockBytes)}
	if err := await(d, &IO{Op: Write, Dsync: true, Bufs: b}); err != nil {
		t.Fatal(err)
	}
	if err := await(d, &IO{Op: Sync}); !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v", err)
	}
	m.mu.Lock()
	m.fate = nil
	m.mu.Unlock()
	if err := await(d, &IO{Op: Sync}); !errors.Is(err, ErrSyncLost) {
		t.Fatalf("second sync: %v", err)
	}
	if err := await(d, &IO{Op: Write, Dsync: true, Bufs: b}); !errors.Is(err, ErrSyncLost) {
		t.Fatalf("dsync write: %v", err)
	}
	if err := await(d, &IO{Op: Read, Bufs: b}); err != nil {
		t.Fatalf("read: %v", err)
	}
}

// TestBrokenRingFailsEverything: when the kernel refuses the ring, what it
// has not taken, and what waits for a slot, fails instead of hanging.
func TestBrokenRingFailsEverything(t *testing.T) {
	m := newMockRing(1<<20, 4)
	m.enter = func(uint32) (uint32, syscall.Errno) { return 0, syscall.EBADFD }
	d := mockDisk(t, m, 4)
	var wg sync.WaitGroup
	var batch []*IO
	for range 20 {
		wg.Add(1)
		batch = append(batch, &IO{Op: Read, Bufs: [][]byte{NewAligned(BlockBytes)}, Done: func(*IO) { wg.Done() }})
	}
	d.Submit(batch)
	wg.Wait()
	for _, io := range batch {
		if !errors.Is(io.Err, ErrGone) {
			t.Fatalf("%v", io.Err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestChainedIOGoesInGroups: I/O that Done submits does not wait for all of a
// wake-up's Dones, nor costs an Enter each.
func TestChainedIOGoesInGroups(t *testing.T) {
	const depth = 4 * group
	m := newMockRing(1<<20, depth)
	var entered []uint32
	m.enter = func(n uint32) (uint32, syscall.Errno) {
		entered = append(entered, n)
		return n, 0
	}
	d := mockDisk(t, m, depth)
	var wg sync.WaitGroup
	var batch []*IO
	for range depth {
		wg.Add(1)
		left := 10
		batch = append(batch, &IO{Op: Read, Bufs: [][]byte{NewAligned(BlockBytes)}, Done: func(io *IO) {
			if left--; left == 0 {
				wg.Done()
				return
			}
			d.Submit([]*IO{io})
		}})
	}
	// From a Done, so that no other goroutine enters.
	begin := make(chan struct{})
	d.Submit([]*IO{{Op: Read, Bufs: [][]byte{NewAligned(BlockBytes)}, Done: func(*IO) {
		<-begin
		d.Submit(batch)
	}}})
	close(begin)
	wg.Wait()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if chained := entered[2:]; entered[1] != depth || slices.Min(chained) != group || slices.Max(chained) != group {
		t.Fatalf("Enter submitted %d I/Os at a time, want 1, the batch of %d, then %d each", entered, depth, group)
	}
}

// TestDsyncReachesTheKernel: the flag is on every call of a dsync write, the
// continued ones too, and on no other.
func TestDsyncReachesTheKernel(t *testing.T) {
	m := newMockRing(1<<20, 4)
	calls := 0
	m.fate = func(e *uring.SQE, want int) int32 {
		if e.Opcode == uring.OpWrite {
			calls++
			if (e.OpFlags == unix.RWF_DSYNC) != (e.Off < 1<<19) {
				t.Errorf("write at %d has flags %#x", e.Off, e.OpFlags)
			}
			return min(int32(want), SectorBytes)
		}
		if e.OpFlags != 0 {
			t.Errorf("opcode %d has flags %#x", e.Opcode, e.OpFlags)
		}
		return int32(want)
	}
	d := mockDisk(t, m, 4)
	defer d.Close()
	b := [][]byte{NewAligned(BlockBytes)}
	for _, io := range []*IO{{Op: Write, Dsync: true, Bufs: b}, {Op: Write, Off: 1 << 19, Bufs: b}, {Op: Read, Dsync: true, Bufs: b}} {
		if err := await(d, io); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 16 {
		t.Fatalf("%d write calls, want 16 of one sector each", calls)
	}
}

// TestPreadErrors: the portable driver keeps the same promises about errors.
func TestPreadErrors(t *testing.T) {
	f := &file{fd: -1, sizeBytes: 1 << 20, info: Info{Path: "closed", IsBlock: true}}
	d := newPread(f, Options{Workers: 2})
	b := [][]byte{NewAligned(BlockBytes)}
	for range 2 {
		if err := await(d, &IO{Op: Read, Bufs: b}); !errors.Is(err, ErrGone) || !errors.Is(err, syscall.EBADF) {
			t.Fatalf("read: %v", err)
		}
	}
	if err := d.Close(); !errors.Is(err, syscall.EBADF) {
		t.Fatalf("close: %v", err)
	}
}

// TestSpinnerLearns: it looks while that finds completions, gives up where it
// does not, and notices when that changes.
func TestSpinnerLearns(t *testing.T) {
	s := spinner{budget: spinBudget}
	looks := 0
	never := func() bool { looks++; return false }
	for range 20 {
		s.until(never)
	}
	looks = 0
	for range spinProbe - 1 {
		if s.waits%spinProbe == spinProbe-1 {
			break
		}
		s.until(never)
	}
	if looks > spinProbe {
		t.Fatalf("%d looks at a disk known to be slow", looks)
	}
	always := func() bool { return true }
	for range 40 * spinProbe {
		s.until(always)
	}
	if s.average > s.budget {
		t.Fatalf("average %v after thousands of instant completions", s.average)
	}
	if (&spinner{}).until(never) {
		t.Fatal("without a budget until must say what ready says")
	}
}
