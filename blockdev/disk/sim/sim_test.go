package sim

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
)

const blk = disk.BlockBytes

// fill returns blocks of the given byte.
func fill(b byte, blocks int) []byte {
	p := disk.NewAligned(blocks * blk)
	for i := range p {
		p[i] = b
	}
	return p
}

func write(s *Sim, b byte, block, blocks int, dsync bool) *disk.IO {
	io := &disk.IO{Op: disk.Write, Dsync: dsync, Off: int64(block) * blk, Bufs: [][]byte{fill(b, blocks)}, Done: func(*disk.IO) {}}
	s.Submit([]*disk.IO{io})
	return io
}

func syncDisk(s *Sim) *disk.IO {
	io := &disk.IO{Op: disk.Sync, Done: func(*disk.IO) {}}
	s.Submit([]*disk.IO{io})
	return io
}

// sectors reads block b as one byte per sector, and fails when a sector is
// not uniform: sectors never tear.
func sectors(t *testing.T, s *Sim, b int) [8]byte {
	t.Helper()
	p := disk.NewAligned(blk)
	s.ReadRaw(p, int64(b)*blk)
	var out [8]byte
	for i := range out {
		sec := p[i*disk.SectorBytes : (i+1)*disk.SectorBytes]
		out[i] = sec[0]
		if !bytes.Equal(sec, bytes.Repeat(sec[:1], disk.SectorBytes)) {
			t.Fatalf("sector %d of block %d is mixed", i, b)
		}
	}
	return out
}

func uniform(b byte) [8]byte { return [8]byte{b, b, b, b, b, b, b, b} }

// TestCutKeepsWhatIsDurable: rule 1 of the fault model. Under every policy and
// at every event, what was acknowledged as durable by then is there.
func TestCutKeepsWhatIsDurable(t *testing.T) {
	s := New(1<<20, Options{})
	write(s, 'a', 0, 2, false)
	syncDisk(s)
	durableA := s.Events()
	write(s, 'b', 2, 1, true)
	durableB := s.Events()
	write(s, 'c', 3, 1, false)
	for n := 0; n <= s.Events(); n++ {
		for p := range Policies {
			for seed := range uint64(20) {
				img := s.Cut(n, Policy(p), seed)
				if n >= durableA && (sectors(t, img, 0) != uniform('a') || sectors(t, img, 1) != uniform('a')) {
					t.Fatalf("%v after %d events: the synced write is not there", Policy(p), n)
				}
				if n >= durableB && sectors(t, img, 2) != uniform('b') {
					t.Fatalf("%v after %d events: the dsync write is not there", Policy(p), n)
				}
				if n == 0 && img.AllocatedBytes() != 0 {
					t.Fatalf("%v: a write is there before it was started", Policy(p))
				}
			}
		}
	}
}

// TestDurableIsNotReplacedByOlder: rule 3. An unsynced write that was
// acknowledged before a durable one to the same place can't come back over it.
func TestDurableIsNotReplacedByOlder(t *testing.T) {
	s := New(1<<20, Options{})
	write(s, 'o', 0, 2, false)
	write(s, 'n', 0, 1, true)
	for p := range Policies {
		for seed := range uint64(50) {
			img := s.Cut(s.Events(), Policy(p), seed)
			if got := sectors(t, img, 0); got != uniform('n') {
				t.Fatalf("%v seed %d: block 0 is %q", Policy(p), seed, got)
			}
		}
	}
	if got := sectors(t, s.Cut(s.Events(), KeepAll, 0), 1); got != uniform('o') {
		t.Fatalf("the rest of the older write is %q", got)
	}
}

// TestPoliciesReachEveryOutcome: of one unsynced write over old data the
// policies between them show none, all, a prefix and a sector mix.
func TestPoliciesReachEveryOutcome(t *testing.T) {
	s := New(1<<20, Options{})
	write(s, 'o', 0, 1, true)
	write(s, 'n', 0, 1, false)
	seen := map[[8]byte]bool{}
	for p := range Policies {
		for seed := range uint64(200) {
			seen[sectors(t, s.Cut(s.Events(), Policy(p), seed), 0)] = true
		}
	}
	for _, want := range [][8]byte{uniform('o'), uniform('n'), {'n', 'n', 'n', 'o', 'o', 'o', 'o', 'o'}} {
		if !seen[want] {
			t.Errorf("never saw %q", want)
		}
	}
	if len(seen) < 50 {
		t.Errorf("only %d different tears", len(seen))
	}
}

// TestFailedSyncLosesForEver: rule 4. A later sync does not bring durability
// to writes that a failed one covered.
func TestFailedSyncLosesForEver(t *testing.T) {
	s := New(1<<20, Options{})
	write(s, 'a', 0, 1, false)
	s.Rules().Add(faulty.Rule{Op: disk.Sync, Err: syscall.EIO, Count: 1})
	if err := syncDisk(s).Err; !errors.Is(err, syscall.EIO) {
		t.Fatalf("sync: %v, want EIO", err)
	}
	if err := syncDisk(s).Err; !errors.Is(err, disk.ErrSyncLost) {
		t.Fatalf("second sync: %v, want ErrSyncLost", err)
	}
	if got := sectors(t, s.Cut(s.Events(), DropAll, 0), 0); got != uniform(0) {
		t.Fatalf("block is %q after the cut", got)
	}
	if got := sectors(t, s.Cut(s.Events(), KeepAll, 0), 0); got != uniform('a') {
		t.Fatalf("block is %q after a cut that keeps all", got)
	}
}

// TestCutAgreesWithSlowModel replays random traces in a second, dumb way:
// every image must consist of sectors that the model allows.
func TestCutAgreesWithSlowModel(t *testing.T) {
	for seed := range uint64(10) {
		s, rng := New(64*blk, Options{Mode: Manual, Shuffle: true, Seed: seed}), rand.New(rand.NewPCG(seed, 9))
		for i := range 150 {
			switch k := rng.IntN(10); {
			case k < 6:
				n := 1 + rng.IntN(4)
				write(s, byte(i+1), rng.IntN(64-n), n, rng.IntN(4) == 0)
			case k < 7:
				syncDisk(s)
			default:
				s.Step()
			}
		}
		s.Drain()
		for range 200 {
			n := rng.IntN(s.Events() + 1)
			img := s.Cut(n, Policy(rng.IntN(Policies)), rng.Uint64())
			allowed := allowedAfter(s, n)
			for b := range 64 {
				for i, got := range sectors(t, img, b) {
					if !slices.Contains(allowed[b], got) {
						t.Fatalf("seed %d cut %d block %d sector %d: got %d, allowed %v", seed, n, b, i, got, allowed[b])
					}
				}
			}
		}
	}
}

// allowedAfter says which bytes each block may hold when power fails after n
// events, straight from the fault model.
func allowedAfter(s *Sim, n int) [64][]byte {
	var durable [64]*record
	var recs []*record
	isDurable := map[*record]bool{}
	for i, e := range s.hist.events[:n] {
		if !e.done && e.r.op == disk.Write {
			recs = append(recs, e.r)
		}
		if !e.done {
			continue
		}
		switch e.r.op {
		case disk.Write:
			isDurable[e.r] = isDurable[e.r] || e.r.dsync
		case disk.Sync:
			for _, r := range recs {
				if r.done <= i && r.done < e.r.start {
					isDurable[r] = true
				}
			}
		}
	}
	each := func(r *record, fn func(b int)) {
		for i := range r.pages {
			fn(int(r.off/blk) + i)
		}
	}
	for _, r := range recs {
		if isDurable[r] {
			each(r, func(b int) {
				if durable[b] == nil || durable[b].done < r.done {
					durable[b] = r
				}
			})
		}
	}
	var allowed [64][]byte
	for b := range allowed {
		allowed[b] = []byte{0}
		if durable[b] != nil {
			allowed[b] = []byte{durable[b].pages[0][0]}
		}
	}
	for _, r := range recs {
		if !isDurable[r] {
			each(r, func(b int) {
				if durable[b] == nil || r.done >= n || r.done > durable[b].done {
					allowed[b] = append(allowed[b], r.pages[0][0])
				}
			})
		}
	}
	return allowed
}

// TestCutIsRepeatable: the order in which cuts are made does not matter.
func TestCutIsRepeatable(t *testing.T) {
	s := New(64*blk, Options{})
	for i := range 1000 {
		write(s, byte(i), i%60, 2, i%7 == 0)
		if i%13 == 0 {
			syncDisk(s)
		}
	}
	image := func(n int) string {
		p := disk.NewAligned(64 * blk)
		s.Cut(n, TornAll, 5).ReadRaw(p, 0)
		return string(p)
	}
	up := map[int]string{}
	for n := 0; n <= s.Events(); n += 37 {
		up[n] = image(n)
	}
	for n := s.Events(); n >= 0; n-- {
		if want, ok := up[n]; ok && n%3 == 0 && image(n) != want {
			t.Fatalf("cut %d differs when made in descending order", n)
		}
	}
}

// TestImageIsItsOwnDisk: writes to an image reach neither the disk it was cut
// from nor its siblings, and an image can be cut again.
func TestImageIsItsOwnDisk(t *testing.T) {
	s := New(1<<20, Options{})
	write(s, 'a', 0, 1, true)
	one, two := s.Cut(s.Events(), DropAll, 0), s.Cut(s.Events(), DropAll, 0)
	write(one, 'b', 0, 1, true)
	write(one, 'c', 1, 1, false)
	if sectors(t, s, 0) != uniform('a') || sectors(t, two, 0) != uniform('a') {
		t.Fatal("a write to an image shows elsewhere")
	}
	again := one.Cut(one.Events(), DropAll, 0)
	if sectors(t, again, 0) != uniform('b') || sectors(t, again, 1) != uniform(0) {
		t.Fatal("the second cut is wrong")
	}
	if got := sectors(t, one.Cut(0, KeepAll, 0), 0); got != uniform('a') {
		t.Fatalf("a cut before the first event shows %q", got)
	}
}

func TestRulesStrike(t *testing.T) {
	read := func(s *Sim, block int) (byte, error) {
		io := &disk.IO{Op: disk.Read, Off: int64(block) * blk, Bufs: [][]byte{fill(0, 1)}, Done: func(*disk.IO) {}}
		s.Submit([]*disk.IO{io})
		return io.Bufs[0][0], io.Err
	}
	cases := map[string]struct {
		rule  string
		check func(s *Sim) error
	}{
		"lost write": {"write lose", func(s *Sim) error {
			if io := write(s, 'x', 1, 1, true); io.Err != nil || sectors(t, s, 1) != uniform('o') {
				return fmt.Errorf("err %v, block %q", io.Err, sectors(t, s, 1))
			}
			return nil
		}},
		"misplaced write": {"write misplace=8192", func(s *Sim) error {
			if io := write(s, 'x', 1, 1, true); io.Err != nil || sectors(t, s, 1) != uniform('o') || sectors(t, s, 3) != uniform('x') {
				return fmt.Errorf("err %v, blocks %q %q", io.Err, sectors(t, s, 1), sectors(t, s, 3))
			}
			return nil
		}},
		"failed write": {"write err=EIO count=1", func(s *Sim) error {
			if io := write(s, 'x', 1, 1, false); !errors.Is(io.Err, syscall.EIO) || sectors(t, s, 1) != uniform('o') {
				return fmt.Errorf("err %v, block %q", io.Err, sectors(t, s, 1))
			}
			if io := write(s, 'y', 1, 1, false); io.Err != nil || sectors(t, s, 1) != uniform('y') {
				return fmt.Errorf("after the rule: err %v, block %q", io.Err, sectors(t, s, 1))
			}
			return nil
		}},
		"torn failed write": {"write err=ENOSPC torn", func(s *Sim) error {
			if io := write(s, 'x', 1, 1, false); !errors.Is(io.Err, syscall.ENOSPC) || sectors(t, s, 1) != [8]byte{'x', 'x', 'x', 'x', 'o', 'o', 'o', 'o'} {
				return fmt.Errorf("err %v, block %q", io.Err, sectors(t, s, 1))
			}
			return nil
		}},
		"third read in a range": {"read range=4096-8192 skip=2 count=1 err=EIO", func(s *Sim) error {
			for i := range 5 {
				_, err0 := read(s, 0)
				_, err1 := read(s, 1)
				if err0 != nil || (i == 2) != errors.Is(err1, syscall.EIO) {
					return fmt.Errorf("read %d: %v, %v", i, err0, err1)
				}
			}
			return nil
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := New(1<<20, Options{})
			s.WriteRaw(fill('o', 8), 0)
			r, err := faulty.Parse(c.rule)
			if err != nil {
				t.Fatal(err)
			}
			s.Rules().Add(r)
			if err := c.check(s); err != nil {
				t.Fatal(err)
			}
			if s.Rules().Hits() == 0 {
				t.Fatal("the rule never struck")
			}
		})
	}
}

func TestBitFlips(t *testing.T) {
	s := New(1<<20, Options{})
	differ := func(p []byte) (n int) {
		for _, b := range p {
			for x := b ^ 'o'; x != 0; x &= x - 1 {
				n++
			}
		}
		return n
	}
	s.WriteRaw(fill('o', 1), 0)
	s.Rules().Add(faulty.Rule{Op: disk.Read, FlipBit: true})
	p := fill(0, 1)
	s.Submit([]*disk.IO{{Op: disk.Read, Bufs: [][]byte{p}, Done: func(*disk.IO) {}}})
	if n := differ(p); n != 1 {
		t.Fatalf("%d bits differ in the answer", n)
	}
	if s.ReadRaw(p, 0); differ(p) != 0 {
		t.Fatal("the flip of a read reached the disk")
	}
	s.Corrupt(77, 3)
	if s.ReadRaw(p, 0); differ(p) != 1 || p[77] != 'o'^8 {
		t.Fatalf("Corrupt changed %d bits", differ(p))
	}
}

// TestManualShuffle: in Manual mode nothing completes by itself, all complete
// once, and the order depends on the seed alone.
func TestManualShuffle(t *testing.T) {
	order := func(seed uint64) (got []int64) {
		s := New(1<<20, Options{Mode: Manual, Shuffle: true, Seed: seed})
		for i := range 20 {
			s.Submit([]*disk.IO{{Op: disk.Write, Off: int64(i) * blk, Bufs: [][]byte{fill(1, 1)},
				Done: func(io *disk.IO) { got = append(got, io.Off/blk) }}})
		}
		if len(got) != 0 {
			t.Fatal("completed before Step")
		}
		if n := s.Drain(); n != 20 {
			t.Fatalf("%d steps", n)
		}
		return got
	}
	a, b, c := order(1), order(1), order(2)
	if !slices.Equal(a, b) || slices.Equal(a, c) || slices.IsSorted(a) {
		t.Fatalf("orders: %v %v %v", a, b, c)
	}
}

// TestChangedBufferPanics proves that the disk notices who scribbles on a
// buffer that it has lent.
func TestChangedBufferPanics(t *testing.T) {
	s := New(1<<20, Options{Mode: Manual})
	write(s, 'a', 0, 1, false).Bufs[0][9]++
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	s.Step()
}

func TestUnplug(t *testing.T) {
	s := New(1<<20, Options{Mode: Manual})
	io := write(s, 'a', 0, 1, false)
	s.Unplug()
	s.Drain()
	if !errors.Is(io.Err, disk.ErrGone) {
		t.Fatalf("in flight: %v", io.Err)
	}
	io = syncDisk(s)
	s.Drain()
	if !errors.Is(io.Err, disk.ErrGone) {
		t.Fatalf("later: %v", io.Err)
	}
}

// BenchmarkCut measures one image of a busy trace, at ascending cuts.
func BenchmarkCut(b *testing.B) {
	s := New(4<<30, Options{})
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 20000 {
		write(s, byte(i), rng.IntN(100000), 1+rng.IntN(4), false)
		if i%20 == 0 {
			syncDisk(s)
		}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		s.Cut(n%s.Events(), TornAll, uint64(n))
		n++
	}
}
