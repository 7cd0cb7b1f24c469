package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/localvol"
	"blockd.dev/blockdev/store"
)

// The power-cut test.
//
// A workload runs on a simulated disk: writes small and large, aligned or not,
// overlapping and many at a time, unmap, write-zeroes, compare-and-write, poison,
// resize, deletion of a volume, close and reopen, on volumes of both block sizes, in a
// store so small that log, dirty buffers, page cache and space run out all the
// time. I/O in flight completes in random order. Then, for every event of the
// disk's trace, the power is cut right after it, under policies that drop, keep,
// mix, reorder and tear what was not durable. The store is opened from what is
// left. Every logical block must hold what was acknowledged last, or something
// that was in flight at the cut; Check must find nothing; and the store must go
// on working. Some recoveries are cut again.
//
// Everything follows from the seed: BLOCKD_POWERCUT_SEED replays one workload.

// A disk of 40 chunks of data for volumes of 48, so that space runs out.
const (
	cutDiskBytes = 2*(32<<10) + 8192*(1+1+32) + 256<<10 + 40<<16 + 64<<10 + 32<<10
	cutMaxOps    = 90
)

var cutVolumes = []struct {
	id   [16]byte
	size int64
	bs   int
}{
	{[16]byte{1}, 1 << 20, 4096},
	{[16]byte{2}, 512 << 10, 512},
	{[16]byte{3}, 2<<20 + 128<<10, 4096}, // two pages
}

// cutOptions has every second workload run short of pages, so that a checkpoint has to be done as soon
// as some are dirty; in the others it goes on for as long as writes come slowly.
func cutOptions(seed uint64) store.Options {
	return store.Options{DirtyBytes: 48 * store.BlockBytes, PagesMax: 4 + 60*int(seed%2), BatchBlocks: 32, InFlight: 3}
}

// write is one change of a volume by the workload: blocks [first, first+n) take
// the value stamp(id, block), or zero, or become unreadable.
type write struct {
	id       uint64
	vol      int
	first, n int64 // logical blocks
	zero     bool
	poison   bool
	begin    int // events before it was submitted
	ack      int // events before it was acknowledged; -1: never
	void     bool
}

// sector fills p with the value that write id gives to the sector. Each 8 bytes
// carry it, so a mixture shows.
func stamp(p []byte, id uint64, sector int64) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], id<<24|uint64(sector))
	}
}

type workload struct {
	t      testing.TB
	rng    *rand.Rand
	d      *sim.Sim
	s      *store.Store
	vols   []*localvol.Volume
	opts   store.Options
	writes []*write
	flying int
	nextID uint64
	wrong  error
	ready  int // events when the store was first open
	seen   map[string]int
	unmaps map[[2]int64]int // in flight, by volume and the span where they begin
}

func (w *workload) open() error {
	s, err := store.Open(w.d, w.opts)
	if err != nil {
		return err
	}
	w.s, w.vols = s, nil
	for _, cv := range cutVolumes {
		v, err := localvol.Open(s, cv.id, localvol.Options{SizeBytes: cv.size, BlockSize: cv.bs})
		if err != nil {
			return err
		}
		w.vols = append(w.vols, v)
	}
	return nil
}

// runWorkload returns the workload with its trace. The error is what a store
// that is broken on purpose may show without any power cut.
func runWorkload(t testing.TB, seed uint64, opts store.Options, ops int) (_ *workload, err error) {
	w := &workload{t: t, rng: rand.New(rand.NewPCG(seed, 7)), opts: opts, seen: map[string]int{}, unmaps: map[[2]int64]int{}}
	w.d = sim.New(cutDiskBytes, sim.Options{Seed: seed})
	f := store.FormatOptions{UUID: [16]byte{byte(seed), 1}, LogBytes: 256 << 10, MaxExtents: 14, MaxPages: 32}
	if err := store.Format(w.d, f); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	if seed%4 < 2 {
		w.fill()
	}
	w.ready = w.d.Events()
	w.d.SetMode(sim.Manual, true, seed)
	depth := 1 + w.rng.IntN(12)
	for range ops {
		if w.rng.IntN(40) == 0 {
			if err := w.alone(); err != nil {
				return nil, err
			}
		}
		w.submit()
		for w.flying > 0 && (w.flying >= depth || w.rng.IntN(3) == 0) {
			if !w.d.Step() {
				t.Fatalf("seed %d: %d requests in flight and no I/O: the store is stuck", seed, w.flying)
			}
		}
	}
	w.d.Drain()
	st := w.s.Stats()
	w.seen["checkpoint"] += int(st.Checkpoints)
	w.seen["log lap"] += int(st.LogWriteBytes / (256 << 10))
	w.seen["page read"] += int(st.MetaReads)
	if w.flying != 0 {
		t.Fatalf("seed %d: %d requests never ended", seed, w.flying)
	}
	return w, w.wrong
}

// fill writes until there is no space: half of the workloads begin on a full disk.
func (w *workload) fill() {
	for k, v := range w.vols {
		bs := int64(cutVolumes[k].bs)
		for off := int64(0); off < cutVolumes[k].size && w.s.Stats().AvailableBytes > 0; off += 64 << 10 {
			wr := w.begin(k, off/bs, (64<<10)/bs, false)
			p := disk.NewAligned(64 << 10)
			for s := range int64(len(p) / 512) {
				stamp(p[s*512:][:512], wr.id, off/512+s)
			}
			if err := blockdev.WriteAt(v, p, off); err != nil {
				w.t.Fatal(err)
			}
			wr.ack = w.d.Events()
		}
	}
}

// alone does something that waits, with nothing in flight.
func (w *workload) alone() error {
	w.d.Drain()
	w.d.SetMode(sim.Inline, false, 1)
	defer func() { w.d.SetMode(sim.Manual, true, w.rng.Uint64()) }()
	k := w.rng.IntN(len(w.vols))
	v, cv := w.vols[k], cutVolumes[k]
	var err error
	switch w.rng.IntN(5) {
	case 0:
		err = w.s.Checkpoint()
	case 1:
		size := w.rng.Int64N(cv.size/4096-1)*4096 + 4096
		wr := w.begin(k, size/int64(cv.bs), (cv.size-size)/int64(cv.bs), true)
		err = v.Resize(size)
		wr.ack = w.d.Events()
		if err == nil {
			err = v.Resize(cv.size)
		}
	case 2:
		if err = v.Close(); err == nil {
			wr := w.begin(k, 0, cv.size/int64(cv.bs), true)
			err = localvol.Delete(w.s, cv.id)
			wr.ack = w.d.Events()
		}
		if err == nil {
			w.vols[k], err = localvol.Open(w.s, cv.id, localvol.Options{SizeBytes: cv.size, BlockSize: cv.bs})
		}
	case 3:
		for _, v := range w.vols {
			err = errors.Join(err, v.Close())
		}
		if err = errors.Join(err, w.s.Close()); err == nil {
			err = w.open()
		}
	default: // as after a crash of the process: no close
		err = w.open()
	}
	return err
}

func (w *workload) begin(vol int, first, n int64, zero bool) *write {
	w.nextID++
	wr := &write{id: w.nextID, vol: vol, first: first, n: n, zero: zero, begin: w.d.Events(), ack: -1}
	w.writes = append(w.writes, wr)
	return wr
}

// submit starts one random request.
func (w *workload) submit() {
	k := w.rng.IntN(len(w.vols))
	v, bs := w.vols[k], int64(cutVolumes[k].bs)
	blocks := cutVolumes[k].size / bs
	n := 1 + w.rng.Int64N(8)
	if w.rng.IntN(3) == 0 {
		n = (64<<10)/bs + w.rng.Int64N((192<<10)/bs)
	}
	n = min(n, blocks)
	first := w.rng.Int64N(blocks - n + 1)
	if w.rng.IntN(3) == 0 {
		chunk := (64 << 10) / bs
		first = first / chunk * chunk
	}
	if w.rng.IntN(2) == 0 { // meet others
		first = min(first%(blocks/8), blocks-n)
	}
	r := &blockdev.Request{Offset: first * bs, Length: n * bs}
	var wr *write
	data := func() []byte {
		p := disk.NewAligned(int(n*bs) + 512)
		if w.rng.IntN(4) == 0 {
			p = p[512:]
		}
		p = p[:n*bs]
		for s := int64(0); s < n*bs/512; s++ {
			stamp(p[s*512:][:512], wr.id, first*bs/512+s)
		}
		return p
	}
	switch x := w.rng.IntN(20); {
	case x < 2:
		wr = w.begin(k, first, n, false)
		wr.poison, r.Op = true, blockdev.OpPoison
	case x < 13:
		wr = w.begin(k, first, n, false)
		r.Op, r.Data = blockdev.OpWrite, [][]byte{data()}
	case x < 15:
		wr = w.begin(k, first, n, true)
		r.Op = blockdev.OpUnmap
	case x < 17:
		wr = w.begin(k, first, n, true)
		r.Op, r.NoUnmap = blockdev.OpWriteZeroes, w.rng.IntN(2) == 0
	case x < 19:
		n = min(n, 4)
		r.Length = n * bs
		old := make([]byte, n*bs)
		w.guess(k, first, old)
		if w.rng.IntN(4) == 0 {
			old[w.rng.IntN(len(old))] ^= 1
		}
		wr = w.begin(k, first, n, false)
		r.Op, r.Data = blockdev.OpCompareAndWrite, [][]byte{old, data()}
	default:
		wr = &write{}
		r.Op, r.Data = blockdev.OpRead, [][]byte{make([]byte, n*bs)}
	}
	span := r.Offset / store.SpanBytes
	if r.Op == blockdev.OpWrite && w.unmaps[[2]int64{int64(k), span}] > 0 && w.s.Stats().AvailableBytes == 0 {
		w.seen["write beside an unmap, nothing free"]++
	}
	unmap := 0
	if r.Op == blockdev.OpUnmap {
		unmap = 1
	}
	w.unmaps[[2]int64{int64(k), span}] += unmap
	w.flying++
	r.Done = func(r *blockdev.Request) {
		w.flying--
		w.unmaps[[2]int64{int64(k), span}] -= unmap
		switch {
		case r.Err == nil:
			w.seen[r.Op.String()]++
			wr.ack = w.d.Events()
		case errors.Is(r.Err, blockdev.ErrPoisoned) && (r.Op == blockdev.OpRead || r.Op == blockdev.OpCompareAndWrite):
			w.seen["poisoned"]++
			wr.void = true
		case errors.Is(r.Err, blockdev.ErrMiscompare):
			w.seen["miscompare"]++
			wr.void = true
		case errors.Is(r.Err, blockdev.ErrNoSpace):
			w.seen["no space"]++
			// Of a write in one span nothing was written; of one in two, one part
			// may have been, and of an unmap the whole blocks.
			wr.void = !wr.zero && r.Offset/store.SpanBytes == (r.Offset+r.Length-1)/store.SpanBytes
		default:
			w.wrong = errors.Join(w.wrong, r.Err)
		}
	}
	v.Submit([]*blockdev.Request{r})
}

// guess fills p with what the blocks hold if nothing is in flight there.
func (w *workload) guess(vol int, first int64, p []byte) {
	bs := int64(cutVolumes[vol].bs)
	for b := first; b < first+int64(len(p))/bs; b++ {
		for _, wr := range slices.Backward(w.writes) {
			if wr.vol == vol && !wr.void && b >= wr.first && b < wr.first+wr.n {
				if !wr.zero && !wr.poison {
					for s := int64(0); s < bs/512; s++ {
						stamp(p[(b-first)*bs+s*512:][:512], wr.id, b*bs/512+s)
					}
				}
				break
			}
		}
	}
}

// allowed tracks, for a cut that moves along the trace, which writes each block
// may show.
type allowed struct {
	blocks [][][]*write
	writes []*write // by begin
	acks   []*write // by ack
}

func newAllowed(w *workload) *allowed {
	a := &allowed{}
	for _, cv := range cutVolumes {
		b := make([][]*write, cv.size/int64(cv.bs))
		for i := range b {
			b[i] = []*write{{zero: true, begin: -2, ack: -1}}
		}
		a.blocks = append(a.blocks, b)
	}
	for _, wr := range w.writes {
		if !wr.void {
			a.writes = append(a.writes, wr)
		}
	}
	return a
}

// advance moves to the cut after n events.
func (a *allowed) advance(n int) {
	for len(a.writes) > 0 && a.writes[0].begin < n {
		wr := a.writes[0]
		a.writes = a.writes[1:]
		for b := wr.first; b < wr.first+wr.n; b++ {
			a.blocks[wr.vol][b] = append(a.blocks[wr.vol][b], wr)
		}
		if wr.ack >= 0 {
			a.acks = append(a.acks, wr)
			slices.SortStableFunc(a.acks, func(x, y *write) int { return x.ack - y.ack })
		}
	}
	for len(a.acks) > 0 && a.acks[0].ack <= n {
		wr := a.acks[0]
		a.acks = a.acks[1:]
		for b := wr.first; b < wr.first+wr.n; b++ {
			// What was acknowledged before this one began is gone for good.
			a.blocks[wr.vol][b] = slices.DeleteFunc(a.blocks[wr.vol][b], func(x *write) bool {
				return x.id < wr.id && x.ack != -1 && x.ack <= wr.begin || x.begin == -2
			})
		}
	}
}

// verify compares a volume with what is allowed. bad are the blocks that can't be
// read because of poison.
func (a *allowed) verify(vol int, data []byte, bad map[int64]bool) error {
	bs := int64(cutVolumes[vol].bs)
	var want [512]byte
	for b, list := range a.blocks[vol] {
		p := data[int64(b)*bs:][:bs]
		ok := false
		for _, wr := range list {
			ok = wr.poison == bad[int64(b)]
			if wr.poison && ok {
				break
			}
			for s := int64(0); s < bs/512 && ok; s++ {
				if wr.zero {
					want = [512]byte{}
				} else {
					stamp(want[:], wr.id, int64(b)*bs/512+s)
				}
				ok = bytes.Equal(want[:], p[s*512:][:512])
			}
			if ok {
				break
			}
		}
		if !ok {
			var ids []uint64
			for _, wr := range list {
				ids = append(ids, wr.id)
			}
			got := binary.LittleEndian.Uint64(p)
			if bad[int64(b)] {
				return fmt.Errorf("volume %d block %d is poisoned, allowed are %v", vol, b, ids)
			}
			return fmt.Errorf("volume %d block %d holds write %d (sector %d), allowed are %v", vol, b, got>>24, got&(1<<24-1), ids)
		}
	}
	return nil
}

// readBack is where recoverAndVerify reads volumes to; junk stays in it, so that
// a read that leaves bytes alone shows.
var readBack = disk.NewAligned(3 << 20)

// readVolume reads what can be read of v and returns which blocks are poisoned.
func readVolume(v *localvol.Volume, data []byte) (bad map[int64]bool, err error) {
	if err := blockdev.ReadAt(v, data, 0); !errors.Is(err, blockdev.ErrPoisoned) {
		return nil, err
	}
	bad = make(map[int64]bool)
	bs := int64(v.Geometry().BlockSize)
	var part func(off, n int64) error
	part = func(off, n int64) error { // halves what has poison
		err := blockdev.ReadAt(v, data[off:off+n], off)
		if !errors.Is(err, blockdev.ErrPoisoned) {
			return err
		}
		if n == bs {
			bad[off/bs] = true
			return nil
		}
		half := n / 2 / bs * bs
		if err := part(off, half); err != nil {
			return err
		}
		return part(off+half, n-half)
	}
	return bad, part(0, int64(len(data)))
}

// recoverAndVerify opens what a cut left and compares all of it.
func recoverAndVerify(img *sim.Sim, a *allowed, opts store.Options, deep bool) error {
	s, err := store.Open(img, opts)
	if err != nil {
		return err
	}
	var vols []*localvol.Volume
	for i, cv := range cutVolumes {
		v, err := localvol.Open(s, cv.id, localvol.Options{SizeBytes: cv.size, BlockSize: cv.bs})
		if err != nil {
			return err
		}
		vols = append(vols, v)
		data := readBack[:cv.size]
		bad, err := readVolume(v, data)
		if err != nil {
			return fmt.Errorf("volume %d: %w", i, err)
		}
		if err := a.verify(i, data, bad); err != nil {
			return err
		}
	}
	if !deep {
		return nil
	}
	if err := checkClean(img); err != nil {
		return err
	}
	// The store works on: every block can be written and read again.
	for i, cv := range cutVolumes {
		p := make([]byte, 128<<10)
		for s := range len(p) / 512 {
			stamp(p[s*512:][:512], 1<<30, int64(s))
		}
		off := int64(64<<10) * int64(i)
		if err := blockdev.WriteAt(vols[i], p, off); errors.Is(err, blockdev.ErrNoSpace) {
			if err := blockdev.Do(vols[i], &blockdev.Request{Op: blockdev.OpUnmap, Length: cv.size}); err != nil {
				return err
			}
			if err := blockdev.WriteAt(vols[i], p, off); err != nil && !errors.Is(err, blockdev.ErrNoSpace) {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	for _, v := range vols {
		if err := v.Close(); err != nil {
			return err
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	return checkClean(img)
}

func checkClean(img *sim.Sim) error {
	var out bytes.Buffer
	r, err := store.Check(img, &out)
	if err != nil {
		return err
	}
	if r.Problems != 0 {
		return fmt.Errorf("check found %d problems: %s", r.Problems, out.String())
	}
	return nil
}

// cutEverywhere cuts one workload at every event. It returns the number of cuts.
func cutEverywhere(t testing.TB, seed uint64, opts store.Options, max int) (cuts int, err error) {
	w, err := runWorkload(t, seed, opts, cutMaxOps)
	if err != nil {
		return 1, fmt.Errorf("without a power cut: %w", err)
	}
	a := newAllowed(w)
	rng := rand.New(rand.NewPCG(seed, 11))
	for n := w.ready; n <= w.d.Events() && cuts < max; n++ {
		a.advance(n)
		policy := sim.Policy((n + int(seed)) % sim.Policies)
		cutSeed := rng.Uint64()
		img := w.d.Cut(n, policy, cutSeed)
		deep := n%8 == 0
		cuts++
		if err := recoverAndVerify(img, a, opts, deep); err != nil {
			return cuts, fmt.Errorf("cut after event %d of %d (%s), %s: %w", n, w.d.Events(), eventName(w.d, n), policy, err)
		}
		if n%4 == 1 { // the power fails again during recovery
			m := rng.IntN(img.Events() + 1)
			policy2 := sim.Policy(rng.IntN(sim.Policies))
			img2 := img.Cut(m, policy2, cutSeed)
			cuts++
			if err := recoverAndVerify(img2, a, opts, true); err != nil {
				return cuts, fmt.Errorf("cut after event %d (%s), %s, and again after event %d of recovery, %s: %w",
					n, eventName(w.d, n), policy, m, policy2, err)
			}
		}
	}
	return cuts, nil
}

func eventName(d *sim.Sim, n int) string {
	if n == 0 {
		return "start"
	}
	return d.Event(n - 1).String()
}

func envInt(t *testing.T, name string, def uint64) uint64 {
	v := os.Getenv(name)
	if v == "" {
		return def
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, v, err)
	}
	return n
}

// TestPowerCut cuts the power at least 20,000 times, or BLOCKD_POWERCUT_CUTS
// times, from seed 1 or BLOCKD_POWERCUT_SEED on.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	target := int(envInt(t, "BLOCKD_POWERCUT_CUTS", cutsByDefault))
	seed := envInt(t, "BLOCKD_POWERCUT_SEED", 1)
	first, total, start := seed, 0, time.Now()
	for ; total < target; seed++ {
		n, err := cutEverywhere(t, seed, cutOptions(seed), target)
		total += n
		if err != nil {
			t.Fatalf("BLOCKD_POWERCUT_SEED=%d: %v", seed, err)
		}
	}
	t.Logf("%d power cuts survived, seeds %d to %d, %v", total, first, seed-1, time.Since(start).Round(time.Second))
}

// TestPowerCutWorkloadMeetsEveryLimit: a workload that never runs out of space,
// log or page cache, or whose compares always fail, would prove little.
func TestPowerCutWorkloadMeetsEveryLimit(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(20) {
		w, err := runWorkload(t, seed+1, cutOptions(seed+1), cutMaxOps)
		if err != nil {
			t.Fatal(err)
		}
		for k, n := range w.seen {
			seen[k] += n
		}
	}
	for _, k := range []string{"read", "write", "unmap", "write-zeroes", "compare-and-write", "poison", "poisoned", "miscompare", "no space", "write beside an unmap, nothing free", "checkpoint", "log lap", "page read"} {
		if seen[k] < 3 {
			t.Errorf("%s: seen %d times", k, seen[k])
		}
	}
	t.Log(seen)
}
