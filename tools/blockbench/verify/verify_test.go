package verify

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
)

const (
	testSize = 1 << 20
	testUnit = 4096
)

// rig is a checked RAM device behind a fault injector.
type rig struct {
	*Device
	t       *testing.T
	path    string
	disk    *ram.Device
	faults  *fault.Device
	checker *Checker

	mu  sync.Mutex
	bad []*Violation
}

func newRig(t *testing.T, c Config) *rig {
	t.Helper()
	disk, err := ram.New(ram.Config{SizeBytes: testSize, BlockSize: testUnit})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "journal"), disk: disk, faults: fault.New(disk, nil)}
	j, err := Create(r.path, testSize, testUnit, c)
	if err != nil {
		t.Fatal(err)
	}
	r.use(j, r.faults)
	t.Cleanup(func() {
		if err := errors.Join(r.checker.Journal.Close(), r.faults.Close(), disk.Close()); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) use(j *Journal, below blockdev.Device) {
	r.checker = &Checker{Journal: j, Report: func(v *Violation) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bad = append(r.bad, v)
	}}
	r.Device = r.checker.Device(below)
}

// crash takes up the journal as another process would.
func (r *rig) crash() {
	r.t.Helper()
	if err := r.checker.Journal.Close(); err != nil {
		r.t.Fatal(err)
	}
	j, err := Open(r.path, testSize, testUnit)
	if err != nil {
		r.t.Fatal(err)
	}
	r.use(j, r.faults)
}

func (r *rig) do(op blockdev.Op, off, n int64) error {
	req := &blockdev.Request{Op: op, Offset: off, Length: n}
	switch op {
	case blockdev.OpRead, blockdev.OpWrite:
		req.Data = [][]byte{make([]byte, n)}
	case blockdev.OpCompareAndWrite:
		req.Data = [][]byte{make([]byte, n+100), make([]byte, n-100)}
	}
	return blockdev.Do(r.Device, req)
}

func (r *rig) must(op blockdev.Op, off, n int64) {
	r.t.Helper()
	if err := r.do(op, off, n); err != nil {
		r.t.Fatalf("%v of %d bytes at %d: %v", op, n, off, err)
	}
}

// finds reads the range and wants exactly one violation of the kind there.
func (r *rig) finds(kind Kind, off, n int64, words ...string) {
	r.t.Helper()
	r.bad = nil
	err := r.do(blockdev.OpRead, off, n)
	if len(r.bad) != 1 || r.bad[0].Kind != kind || !errors.Is(err, ErrViolation) || !errors.Is(err, blockdev.ErrMedium) {
		r.t.Fatalf("found %v, error %v; want one %v", r.bad, err, kind)
	}
	for _, w := range words {
		if text := r.bad[0].Error(); !strings.Contains(text, w) {
			r.t.Errorf("%q lacks %q", text, w)
		}
	}
}

func (r *rig) clean() {
	r.t.Helper()
	r.bad = nil
	if err := r.do(blockdev.OpRead, 0, testSize); err != nil || len(r.bad) > 0 {
		r.t.Fatal(err, r.bad)
	}
}

// with runs fn while a fault is in force.
func (r *rig) with(rule string, fn func()) {
	r.t.Helper()
	a, err := r.faults.AddText(rule)
	if err != nil {
		r.t.Fatal(err)
	}
	fn()
	if a.Hits() == 0 {
		r.t.Errorf("%s did not strike", rule)
	}
	a.Remove()
}

func TestARightDevicePasses(t *testing.T) {
	for _, c := range []Config{{}, {Zeroed: true}, {WriteCache: true}} {
		r := newRig(t, c)
		rng := rand.New(rand.NewPCG(1, 2))
		for range 400 {
			n := testUnit * (1 + rng.Int64N(8))
			off := testUnit * rng.Int64N((testSize-n)/testUnit+1)
			r.must(blockdev.Op(1+rng.IntN(6)), off, n)
			if rng.IntN(50) == 0 {
				r.crash()
				r.clean()
			}
		}
		r.clean()
		if s := r.checker.Journal.Oracle.Stats(); s.Open != 0 && !c.WriteCache || s.Run < 2 || s.Written == 0 {
			t.Errorf("%+v", s)
		}
	}
}

func TestConcurrentRequestsPass(t *testing.T) {
	r := newRig(t, Config{Zeroed: true})
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(g, 2))
			for range 200 {
				n := testUnit * (1 + rng.Int64N(8))
				off := testUnit * rng.Int64N(16) // much overlap
				if err := r.do(blockdev.Op(1+rng.IntN(6)), off, n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	r.crash()
	r.clean()
}

func TestLostWriteIsFound(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, 4*testUnit)
	r.with("write lost", func() { r.must(blockdev.OpWrite, testUnit, testUnit) })
	r.finds(LostWrite, 0, 4*testUnit, "the block at 4096 holds write 1", "must hold write 2, which was acknowledged")
	r.crash()
	r.finds(LostWrite, 0, 4*testUnit, "holds write 1")
}

func TestLostFirstWriteAndLostUnmapAreFound(t *testing.T) {
	r := newRig(t, Config{Zeroed: true})
	r.with("write lost", func() { r.must(blockdev.OpWrite, 0, testUnit) })
	r.finds(LostWrite, 0, testUnit, "holds zeroes", "write 1")
	r.must(blockdev.OpWrite, 0, testUnit)
	r.with("unmap lost", func() { r.must(blockdev.OpUnmap, 0, testUnit) })
	r.finds(LostWrite, 0, testUnit, "holds write 2", "the zeroes of write 3")
}

func TestStaleDataIsFound(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, testUnit)
	old := make([]byte, testUnit)
	if err := blockdev.ReadAt(r.disk, old, 0); err != nil {
		t.Fatal(err)
	}
	r.must(blockdev.OpWrite, 0, testUnit)
	r.clean()
	if err := blockdev.WriteAt(r.disk, old, 0); err != nil {
		t.Fatal(err)
	}
	r.finds(StaleData, 0, testUnit, "holds write 1", "must hold write 2", "read there before")
}

func TestFlippedBitsAreFound(t *testing.T) {
	for seed := range 20 {
		r := newRig(t, Config{})
		r.with("write flip seed="+string(rune('0'+seed%10)), func() { r.must(blockdev.OpWrite, 0, int64(1+seed)*testUnit) })
		r.bad = nil
		if err := r.do(blockdev.OpRead, 0, int64(1+seed)*testUnit); !errors.Is(err, ErrViolation) || len(r.bad) != 1 {
			t.Fatalf("%v, %v", err, r.bad)
		}
		// A bit of the magic makes it unlike any pattern but for that bit.
		if k := r.bad[0].Kind; k != FlippedBits {
			t.Errorf("%v", r.bad[0])
		}
	}
}

func TestTornBlockIsFound(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, testUnit)
	r.with("write torn seed=3", func() {
		if err := r.do(blockdev.OpWrite, 0, testUnit); !errors.Is(err, blockdev.ErrIO) {
			t.Fatal(err)
		}
	})
	r.finds(TornBlock, 0, testUnit, "a mixture", "write 1", "write 2", "in flight")
	r.crash()
	r.finds(TornBlock, 0, testUnit, "a mixture")
}

// shifter stores writes one block further on.
type shifter struct{ blockdev.Device }

func (s shifter) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if r.Op == blockdev.OpWrite {
			r.Offset += testUnit
		}
	}
	s.Device.Submit(batch)
}

func TestMisplacedBlockIsFound(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, testUnit, testUnit)
	r.use(r.checker.Journal, shifter{r.faults})
	r.must(blockdev.OpWrite, 0, testUnit)
	r.finds(MisplacedBlock, testUnit, testUnit, "write 2 of the block at 0", "write 1")
}

func TestForeignDataIsFound(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, testUnit)
	junk := make([]byte, testUnit)
	for i := range junk {
		junk[i] = byte(i*7 + 1)
	}
	if err := blockdev.WriteAt(r.disk, junk, 0); err != nil {
		t.Fatal(err)
	}
	r.finds(UnknownData, 0, testUnit, "never written here", "01 08")
	stamp{volume: 77, write: 1}.fill(junk)
	if err := blockdev.WriteAt(r.disk, junk, 0); err != nil {
		t.Fatal(err)
	}
	r.finds(UnknownData, 0, testUnit, "another journal")
	stamp{volume: r.checker.Journal.Oracle.volume, write: 99}.fill(junk)
	if err := blockdev.WriteAt(r.disk, junk, 0); err != nil {
		t.Fatal(err)
	}
	r.finds(UnknownData, 0, testUnit, "journal knows nothing")
}

// What was in flight may be there or not, but once it has been read it stays.
func TestOpenOutcomeIsSettledByReading(t *testing.T) {
	for _, tc := range []struct {
		rule string
		done bool
	}{{"write error=gone", false}, {"write hang", true}} {
		r := newRig(t, Config{})
		r.must(blockdev.OpWrite, 0, testUnit)
		old := make([]byte, testUnit)
		if err := blockdev.ReadAt(r.disk, old, 0); err != nil {
			t.Fatal(err)
		}
		if tc.done {
			// The answer never comes: the journal is left as a killed process
			// would leave it, and the write is done.
			r.with(tc.rule, func() {
				ended := make(chan struct{})
				r.Submit([]*blockdev.Request{{Op: blockdev.OpWrite, Length: testUnit, Data: [][]byte{make([]byte, testUnit)},
					Done: func(*blockdev.Request) { close(ended) }}})
				copyOf := r.path + ".killed"
				b, err := os.ReadFile(r.path)
				if err == nil {
					err = os.WriteFile(copyOf, b, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				r.path = copyOf
				r.faults.Resume()
				<-ended
			})
		} else {
			r.with(tc.rule, func() {
				if err := r.do(blockdev.OpWrite, 0, testUnit); !errors.Is(err, blockdev.ErrGone) {
					t.Fatal(err)
				}
			})
		}
		r.crash()
		if s := r.checker.Journal.Oracle.Stats(); s.Open != 1 {
			t.Fatalf("%+v", s)
		}
		r.clean()
		if s := r.checker.Journal.Oracle.Stats(); s.Open != 0 {
			t.Fatalf("%+v", s)
		}
		r.crash()
		r.clean()
		if tc.done {
			if err := blockdev.WriteAt(r.disk, old, 0); err != nil {
				t.Fatal(err)
			}
			r.bad = nil
			if err := r.do(blockdev.OpRead, 0, testUnit); !errors.Is(err, ErrViolation) {
				t.Fatalf("the old version came back: %v", err)
			}
		}
	}
}

// With a volatile cache a crash may undo what was not flushed, and no more.
func TestWriteCacheMayLoseWhatWasNotFlushed(t *testing.T) {
	r := newRig(t, Config{WriteCache: true})
	image := func() []byte {
		b := make([]byte, testUnit)
		if err := blockdev.ReadAt(r.disk, b, 0); err != nil {
			t.Fatal(err)
		}
		return b
	}
	restore := func(b []byte) {
		if err := blockdev.WriteAt(r.disk, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	r.must(blockdev.OpWrite, 0, testUnit)
	first := image()
	r.must(blockdev.OpFlush, 0, 0)
	r.must(blockdev.OpWrite, 0, testUnit)
	second := image()
	restore(first)
	r.finds(LostWrite, 0, testUnit, "write 1") // no crash, no excuse
	r.crash()
	r.clean()
	restore(second)
	r.clean()
	r.must(blockdev.OpWrite, 0, testUnit)
	r.must(blockdev.OpFlush, 0, 0)
	third := image()
	r.crash()
	restore(second)
	r.finds(LostWrite, 0, testUnit, "write 2", "write 3")
	restore(third)
	r.clean()
	if err := blockdev.Do(r.Device, &blockdev.Request{Op: blockdev.OpWrite, FUA: true, Length: testUnit, Data: [][]byte{make([]byte, testUnit)}}); err != nil {
		t.Fatal(err)
	}
	r.crash()
	restore(third)
	r.finds(LostWrite, 0, testUnit, "write 3", "write 4")
}

func TestUncertainWritesAreLookedUp(t *testing.T) {
	r := newRig(t, Config{})
	r.checker.Uncertain = func(err error) bool { return errors.Is(err, blockdev.ErrBusy) }
	r.must(blockdev.OpWrite, 0, 4*testUnit)
	r.with("write error=busy times=1", func() { r.must(blockdev.OpWrite, 0, testUnit) })
	if r.checker.Resolved() != 1 {
		t.Error("not looked up")
	}
	r.must(blockdev.OpCompareAndWrite, 0, 2*testUnit)
	r.clean()
	// One that is torn is found at once.
	r.checker.Uncertain = func(err error) bool { return errors.Is(err, blockdev.ErrIO) }
	r.with("write torn seed=3", func() {
		if err := r.do(blockdev.OpWrite, 0, testUnit); !errors.Is(err, ErrViolation) {
			t.Error(err)
		}
	})
}

func TestCompareAndWriteFindsWrongData(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, 2*testUnit)
	r.with("write lost", func() { r.must(blockdev.OpWrite, 0, testUnit) })
	if err := r.do(blockdev.OpCompareAndWrite, 0, 2*testUnit); !errors.Is(err, ErrViolation) {
		t.Fatal(err)
	}
	if len(r.bad) != 1 || r.bad[0].Kind != LostWrite {
		t.Fatal(r.bad)
	}
}

func TestRangeIsKept(t *testing.T) {
	r := newRig(t, Config{OffsetBytes: 8192, RangeBytes: 16384})
	r.must(blockdev.OpWrite, 8192, 16384)
	r.must(blockdev.OpRead, 8192, 16384)
	for _, off := range []int64{4096, 12288} {
		if err := r.do(blockdev.OpWrite, off, 16384); !errors.Is(err, blockdev.ErrInvalid) {
			t.Errorf("%d: %v", off, err)
		}
	}
}

func TestJournalRefusesWhatItIsNot(t *testing.T) {
	r := newRig(t, Config{})
	r.must(blockdev.OpWrite, 0, testUnit)
	if _, err := Open(r.path, testSize, testUnit); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opened twice: %v", err)
	}
	if _, err := Create(r.path, testSize, testUnit, Config{}); !errors.Is(err, os.ErrExist) {
		t.Error(err)
	}
	if err := r.checker.Journal.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(r.path)
	if err != nil {
		t.Fatal(err)
	}
	try := func(b []byte, size int64, unit int) error {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path, size, unit)
		if err == nil {
			err = j.Close()
		}
		return err
	}
	for n := range len(whole) {
		// Cut short within a record is what a kill leaves; within the header is not.
		if err := try(whole[:n], testSize, testUnit); (err == nil) != (n >= headerLen) {
			t.Errorf("%d bytes: %v", n, err)
		}
		b := append([]byte(nil), whole...)
		b[n] ^= 0x40
		if err := try(b, testSize, testUnit); !errors.Is(err, ErrJournal) {
			t.Errorf("byte %d changed: %v", n, err)
		}
	}
	if err := try(whole, testSize/2, testUnit); !errors.Is(err, ErrJournal) {
		t.Error(err)
	}
	if err := try(whole, testSize, 512); !errors.Is(err, ErrJournal) {
		t.Error(err)
	}
	r.checker.Journal, err = Open(r.path, testSize, testUnit) // for the cleanup
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzJournal(f *testing.F) {
	h := header{unit: 512, volume: 1, end: 8192, size: 8192}
	b := h.encode()
	for _, r := range []record{{kind: recRun}, {recPattern, 2, 1, 1}, {recAck, 2, 1, 2}, {recZeroes, 1, 1, 2}, {recSeen, 1, 1, 5}, {kind: recFlushed, v: 9}} {
		b = r.append(b)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "j")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if len(b) >= headerLen {
			if h, err := decodeHeader(b); err == nil && h.end-h.first > 1<<24 {
				return // the range is taken from a device that has it
			}
		}
		j, err := Open(path, 1<<30, 512)
		if err != nil {
			return
		}
		buf := make([]byte, 512)
		first, end, unit := j.Oracle.Range()
		for off := first; off < end && off < first+64*unit; off += unit {
			_, _ = j.observe(buf, off)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
