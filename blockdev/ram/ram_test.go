package ram

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"blockd.dev/blockdev"
)

func newDevice(t testing.TB, cfg Config) *Device {
	t.Helper()
	d, err := New(cfg)
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

func fill(n int, v byte) []byte { return bytes.Repeat([]byte{v}, n) }

func TestNewRefusesNonsense(t *testing.T) {
	for name, cfg := range map[string]Config{
		"block size":            {SizeBytes: 1 << 20, BlockSize: 1024},
		"size between blocks":   {SizeBytes: 1<<20 + 1},
		"negative size":         {SizeBytes: -512},
		"huge size":             {SizeBytes: 1 << 60},
		"physical below block":  {SizeBytes: 1 << 20, BlockSize: 4096, PhysicalBlockSize: 512},
		"capacity below nought": {SizeBytes: 1 << 20, CapacityBytes: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// A device far larger than the machine works as long as little is written.
func TestThinTebibytes(t *testing.T) {
	const size = 64 << 40
	d := newDevice(t, Config{SizeBytes: size})
	p := fill(8192, 7)
	if err := blockdev.WriteAt(d, p, size-8192); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16384)
	if err := blockdev.ReadAt(d, got, size-16384); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[8192:], p) || !bytes.Equal(got[:8192], fill(8192, 0)) {
		t.Fatal("read differs")
	}
	if used, avail := d.Provisioning(); used != 8192 || avail != size-8192 {
		t.Fatalf("used %d, available %d", used, avail)
	}
	if mapped, n, err := d.NextMapped(0, size); err != nil || mapped || n != size-8192 {
		t.Fatalf("NextMapped: %v %d %v", mapped, n, err)
	}
}

func TestUnmapFreesWholePagesOnly(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 1 << 20})
	if err := blockdev.WriteAt(d, fill(64<<10, 1), 4096); err != nil {
		t.Fatal(err)
	}
	used := func() int64 { u, _ := d.Provisioning(); return u }
	if used() != 64<<10 {
		t.Fatalf("used %d", used())
	}
	unmap := &blockdev.Request{Op: blockdev.OpUnmap, Offset: 4096 + 512, Length: 8192}
	if err := blockdev.Do(d, unmap); err != nil {
		t.Fatal(err)
	}
	if used() != 60<<10 {
		t.Fatalf("used %d after unmapping one whole page and parts of two", used())
	}
	unmap.Offset, unmap.Length = 0, 1<<20
	if err := blockdev.Do(d, unmap); err != nil {
		t.Fatal(err)
	}
	if used() != 0 {
		t.Fatalf("used %d after unmapping everything", used())
	}
}

// Writes beyond the capacity fail as a whole; space that is freed serves again.
func TestCapacityIsALimit(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 1 << 20, CapacityBytes: 128 << 10})
	if err := blockdev.WriteAt(d, fill(100<<10, 1), 0); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(d, fill(64<<10, 2), 80<<10); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("beyond the capacity: %v", err)
	}
	got := make([]byte, 20<<10)
	if err := blockdev.ReadAt(d, got, 80<<10); err != nil || !bytes.Equal(got, fill(20<<10, 1)) {
		t.Fatalf("a refused write left traces (%v)", err)
	}
	zero := &blockdev.Request{Op: blockdev.OpWriteZeroes, NoUnmap: true, Offset: 512 << 10, Length: 64 << 10}
	if err := blockdev.Do(d, zero); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("anchored zeroes beyond the capacity: %v", err)
	}
	caw := &blockdev.Request{Op: blockdev.OpCompareAndWrite, Offset: 512 << 10, Length: 32 << 10, Data: [][]byte{make([]byte, 64<<10)}}
	if err := blockdev.Do(d, caw); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("compare and write beyond the capacity: %v", err)
	}
	if err := blockdev.WriteAt(d, fill(100<<10, 3), 0); err != nil {
		t.Fatalf("overwriting needs no space: %v", err)
	}
	zero.NoUnmap, zero.Offset, zero.Length = false, 0, 64<<10
	if err := blockdev.Do(d, zero); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.WriteAt(d, fill(64<<10, 2), 512<<10); err != nil {
		t.Fatalf("after freeing space: %v", err)
	}
	if used, avail := d.Provisioning(); used != 100<<10 || avail != 28<<10 {
		t.Fatalf("used %d, available %d", used, avail)
	}
}

func TestCloseEndsInGone(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 8 << 20})
	if err := blockdev.WriteAt(d, fill(4096, 1), 0); err != nil {
		t.Fatal(err)
	}
	var changes []blockdev.Change
	d.Watch(func(c blockdev.Change) { changes = append(changes, c) })
	for range 2 {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(changes, []blockdev.Change{blockdev.ChangeGone}) {
		t.Fatalf("changes %v", changes)
	}
	if err := blockdev.ReadAt(d, make([]byte, 4096), 0); !errors.Is(err, blockdev.ErrGone) {
		t.Fatalf("read: %v", err)
	}
	if err := blockdev.WriteAt(d, make([]byte, 4096), 4<<20); !errors.Is(err, blockdev.ErrGone) {
		t.Fatalf("write: %v", err)
	}
	if _, _, err := d.NextMapped(0, 4096); !errors.Is(err, blockdev.ErrGone) {
		t.Fatalf("NextMapped: %v", err)
	}
	if err := d.Resize(4096); err == nil {
		t.Fatal("a closed device was resized")
	}
}

// Requests race with shrinking, growing and at last closing: they succeed or
// fail with the right kind, and what a shrink cut off never comes back.
func TestRequestsRaceWithResizeAndClose(t *testing.T) {
	const small, big = 1 << 20, 4 << 20
	d := newDevice(t, Config{SizeBytes: big})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			p := make([]byte, 128<<10)
			for {
				select {
				case <-stop:
					return
				default:
				}
				ops := []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpUnmap}
				r := &blockdev.Request{Op: ops[rng.IntN(3)], Offset: rng.Int64N(big/512) * 512, Length: int64(len(p)), Data: [][]byte{p}}
				if err := blockdev.Do(d, r); err != nil && !errors.Is(err, blockdev.ErrOutOfRange) && !errors.Is(err, blockdev.ErrGone) {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := d.Resize(small); err != nil {
			t.Fatal(err)
		}
		if mapped, n, err := d.NextMapped(small-4096, 4096); err != nil || n != 4096 {
			t.Fatalf("NextMapped at the end: %v %d %v", mapped, n, err)
		}
		if used, _ := d.Provisioning(); used > small {
			t.Fatalf("%d bytes used by a device of %d", used, small)
		}
		if err := d.Resize(big); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	close(stop)
	wg.Wait()
}

func TestRequestsDoNotAllocate(t *testing.T) {
	d := newDevice(t, Config{SizeBytes: 8 << 20})
	p := fill(128<<10, 1)
	r := &blockdev.Request{Done: func(*blockdev.Request) {}}
	batch := []*blockdev.Request{r}
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpRead, blockdev.OpFlush, blockdev.OpWriteZeroes, blockdev.OpUnmap, blockdev.OpCompareAndWrite} {
		r.Op, r.Offset, r.Length = op, 4096, int64(len(p))
		r.Data = [][]byte{p[:1000], p[1000:]}
		if op == blockdev.OpCompareAndWrite {
			// The device holds zeroes after the unmap before this.
			clear(p)
			r.Length /= 2
		}
		n := testing.AllocsPerRun(100, func() {
			d.Submit(batch)
			if r.Err != nil {
				t.Fatal(r.Err)
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations", op, n)
		}
	}
}

func bench(b *testing.B, op blockdev.Op, n int) {
	const size = 64 << 20
	d := newDevice(b, Config{SizeBytes: size})
	if err := blockdev.WriteAt(d, fill(size, 1), 0); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(n))
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		r := &blockdev.Request{Op: op, Length: int64(n), Data: [][]byte{make([]byte, n)}, Done: func(*blockdev.Request) {}}
		batch := []*blockdev.Request{r}
		x := rand.Uint64()
		for pb.Next() {
			x = x*6364136223846793005 + 1442695040888963407
			r.Offset = int64(x>>33) % (size / int64(n)) * int64(n)
			d.Submit(batch)
		}
	})
}

func BenchmarkRead4K(b *testing.B)    { bench(b, blockdev.OpRead, 4096) }
func BenchmarkWrite4K(b *testing.B)   { bench(b, blockdev.OpWrite, 4096) }
func BenchmarkRead128K(b *testing.B)  { bench(b, blockdev.OpRead, 128<<10) }
func BenchmarkWrite128K(b *testing.B) { bench(b, blockdev.OpWrite, 128<<10) }
