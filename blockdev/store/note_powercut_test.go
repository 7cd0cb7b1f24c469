package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// The power-cut test of Notes.
//
// Random ops, each with a Note, many at a time, on volumes in a store so small that
// space, log, page cache and tail pages run out or grow all the time. The order in
// which they end is the order of their records. Then, for every event of the disk,
// the power is cut right after it. What is recovered must be, of all volumes
// together, what the first k ops did, whole: data, versions and state. k is at
// least the number of those acknowledged before the cut.
//
// What was cut is opened in the boot of the machine in which it was written, or in another one:
// then all replicas are unproven, unless the cut found the store closed.

var cutNoteSizes = []int64{1 << 20, 512 << 10, 2*SpanBytes + 2*ChunkBytes}

const (
	cutNoteDisk = 2*superBytes + 2*BlockBytes*(1+1+24) + minLogBytes + 28*ChunkBytes + ChunkBytes + superBytes
	cutNoteOps  = 80

	cutsToMeetAll = 5000 // about 9 workloads
)

// cutNoteOptions has every second workload run short of pages, see cutOptions.
func cutNoteOptions(seed uint64) Options {
	return Options{DirtyBytes: 48 * BlockBytes, PagesMax: 4 + 60*int(seed%2), BatchBlocks: 32, InFlight: 3}
}

// noteRun is a workload with its trace: the ops in the order of their records, and
// what the volumes hold after each.
type noteRun struct {
	d      *sim.Sim
	done   []*noteOp
	after  []*noteModel // after[k] is the state after k ops
	boots  []int        // events after which the machine started
	ready  int
	flying int
	seen   map[string]int
}

// deleted is an op that stands for DeleteVolume, which is not atomic, and rebooted one for a start
// of the machine that went down.
const (
	deleted  = opForget
	rebooted = opForget + 1
)

// bootAt is what the machine's boot was when event n happened.
func (w *noteRun) bootAt(n int) (b Boot) {
	b[0] = 1
	for _, begin := range w.boots {
		if begin < n {
			b[0]++
		}
	}
	return b
}

func runNotes(t testing.TB, seed uint64, o Options) (*noteRun, error) {
	w := &noteRun{d: sim.New(cutNoteDisk, sim.Options{Seed: seed}), seen: map[string]int{}}
	if err := Format(w.d, FormatOptions{UUID: [16]byte{byte(seed), 2}, LogBytes: minLogBytes, MaxExtents: 14, MaxPages: 24}); err != nil {
		t.Fatal(err)
	}
	o.Boot = w.bootAt(0)
	s, err := Open(w.d, o)
	if err != nil {
		t.Fatal(err)
	}
	vols := make([]*Vol, len(cutNoteSizes))
	open := func(i int) {
		if vols[i], err = s.OpenVolume(VolumeID{byte(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range vols {
		open(i)
	}
	g, m := newNoteGen(seed, cutNoteSizes), newNoteModel(cutNoteSizes)
	w.after = append(w.after, m.clone())
	var wrong error
	submit := func(op *noteOp) {
		op.begin = w.d.Events()
		w.flying++
		op.Done = func(*Op) {
			w.flying--
			switch {
			case op.Err == nil:
				op.ack = w.d.Events()
				w.done = append(w.done, op)
				w.seen[fmt.Sprint("kind ", op.Kind)]++
				if op.bare {
					w.seen["clear of nothing"]++
				}
				if op.byLog {
					w.seen["by log"]++
				}
				if op.vouches {
					w.seen["vouched"]++
				}
				if op.Note.Void != nil {
					w.seen["void"]++
				}
				applyInOrder(m, op)
				w.after = append(w.after, m.clone())
			case errors.Is(op.Err, blockdev.ErrNoSpace):
				w.seen["no space"]++
			default:
				wrong = errors.Join(wrong, fmt.Errorf("op %d: %w: %w", op.id, op.Err, op.Cause))
			}
		}
		s.Submit([]*Op{&op.Op})
	}
	// A tail that ends about where its second page begins.
	for range tailPerPage - 3 + int(seed%8) {
		g.nextID++
		op := &noteOp{id: g.nextID, vol: 2, ack: -1}
		op.Op = Op{Kind: OpClear, Vol: vols[2], Len: BlockBytes, Ver: Version{1, op.id}, Note: &Note{Tail: true}}
		submit(op)
	}
	if seed%2 == 0 { // hardly any space is left
		for r := range int64(24) {
			g.nextID++
			op := &noteOp{id: g.nextID, vol: int(r / 16), ack: -1}
			p := disk.NewAligned(ChunkBytes)
			for b := range int64(blocksPerChunk) {
				stampBlock(p[b*BlockBytes:][:BlockBytes], op.id, r%16*blocksPerChunk+b)
			}
			op.Op = Op{Kind: OpWrite, Vol: vols[op.vol], Off: r % 16 * ChunkBytes, Len: ChunkBytes, Data: [][]byte{p}, Ver: Version{1, op.id}, Note: &Note{}}
			submit(op)
		}
	}
	w.ready = w.d.Events()
	w.d.SetMode(sim.Manual, true, seed)
	depth := 1 + g.rng.IntN(12)
	for range cutNoteOps {
		if g.rng.IntN(25) == 0 {
			w.d.Drain()
			w.d.SetMode(sim.Inline, false, 1)
			switch g.rng.IntN(4) {
			case 0:
				err = s.Checkpoint()
			case 1:
				i := g.rng.IntN(len(vols))
				op := &noteOp{vol: i, begin: w.d.Events()}
				op.Kind = deleted
				s.CloseVolume(vols[i])
				if err = s.DeleteVolume(VolumeID{byte(i + 1)}); err == nil {
					op.ack = w.d.Events()
					open(i)
					m.vols[i] = newModelVol(cutNoteSizes[i])
					m.vols[i].st.Unproven = m.doubted
					w.done, w.after = append(w.done, op), append(w.after, m.clone())
					w.seen["delete"]++
				}
			case 2:
				for _, v := range vols {
					s.CloseVolume(v)
				}
				if err = s.Close(); err != nil {
					break
				}
				fallthrough
			default: // as after a crash of the process or the machine: no close
				closed := s.mu.state == StateClosed
				op := &noteOp{begin: w.d.Events()}
				op.Kind = rebooted
				if g.rng.IntN(2) == 0 {
					w.boots = append(w.boots, op.begin)
					o.Boot = w.bootAt(op.begin + 1)
				} else {
					closed = true // no doubt
				}
				if s, err = Open(w.d, o); err == nil {
					for i := range vols {
						open(i)
					}
				}
				if !closed {
					op.ack = w.d.Events()
					m.doubt()
					w.done, w.after = append(w.done, op), append(w.after, m.clone())
					w.seen["unproven"]++
				}
			}
			if err != nil {
				return nil, err
			}
			w.d.SetMode(sim.Manual, true, g.rng.Uint64())
		}
		op := g.op(vols)
		submit(op)
		for w.flying > 0 && (w.flying >= depth || g.rng.IntN(3) == 0) {
			if !w.d.Step() {
				t.Fatalf("seed %d: %d ops in flight and no I/O: the store is stuck", seed, w.flying)
			}
		}
	}
	w.d.Drain()
	if w.flying != 0 {
		t.Fatalf("seed %d: %d ops never ended", seed, w.flying)
	}
	for i := range vols {
		n := vols[i].notes
		if n == nil {
			continue
		}
		if n.pages > 1 {
			w.seen["second page"]++
		}
		if n.pending != 0 {
			t.Fatalf("seed %d: volume %d keeps %d places in the tail", seed, i, n.pending)
		}
	}
	w.seen["checkpoint"] += int(s.Stats().Checkpoints)
	return w, wrong
}

// applyInOrder applies op to the model. What was nothing when a clear was admitted
// may be something by now, and the clear is still one of nothing.
func applyInOrder(m *noteModel, op *noteOp) {
	v := &m.vols[op.vol]
	if op.Kind == OpClear {
		v.pages[op.Off/SpanBytes] = !op.bare
	}
	v.apply(op)
}

// verify recovers img, cut after n events, and returns how many ops it has. down tells that the machine
// went down, and not the process alone.
func (w *noteRun) verify(img *sim.Sim, n int, down bool, o Options) (k int, err error) {
	if o.Boot = w.bootAt(n); down {
		o.Boot[1] = 1
	}
	sb, err := readSuper(img)
	if err != nil {
		return 0, err
	}
	s, err := Open(img, o)
	if err != nil {
		return 0, err
	}
	got := make([]modelVol, len(cutNoteSizes))
	for i, size := range cutNoteSizes {
		if got[i], err = readModel(s, VolumeID{byte(i + 1)}, size); err != nil {
			return 0, err
		}
	}
	least, most, gone := 0, 0, -1
	for _, op := range w.done {
		if op.ack <= n {
			least++
		}
		if op.begin < n {
			most++
			if op.Kind == deleted && op.ack > n {
				gone = op.vol // half deleted
			}
		}
	}
	diff := ""
	for k = least; k <= most; k++ {
		for i := range got {
			if i == gone {
				continue
			}
			want := w.after[k].vols[i]
			want.st.Unproven = want.st.Unproven || down && !sb.clean
			if diff = got[i].differs(&want); diff != "" {
				diff = fmt.Sprintf("with %d ops volume %d differs: %s", k, i, diff)
				break
			}
		}
		if diff == "" {
			break
		}
	}
	if diff != "" {
		return 0, fmt.Errorf("not what the first %d to %d ops did; %s", least, most, diff)
	}
	if err := s.Close(); err != nil {
		return 0, err
	}
	var out fmtBuffer
	r, err := Check(img, &out)
	if err == nil && r.Problems != 0 {
		err = fmt.Errorf("check found %d problems: %s", r.Problems, out)
	}
	return k, err
}

type fmtBuffer []byte

func (b *fmtBuffer) Write(p []byte) (int, error) { *b = append(*b, p...); return len(p), nil }

// cutNotesEverywhere cuts one workload at every event, and some recoveries again.
func cutNotesEverywhere(t testing.TB, seed uint64, o Options, limit int) (cuts int, seen map[string]int, err error) {
	w, err := runNotes(t, seed, o)
	if err != nil {
		return 1, nil, fmt.Errorf("without a power cut: %w", err)
	}
	rng := rand.New(rand.NewPCG(seed, 13))
	for n := w.ready; n <= w.d.Events() && cuts < limit; n++ {
		policy, cutSeed := sim.Policy((n+int(seed))%sim.Policies), rng.Uint64()
		img := w.d.Cut(n, policy, cutSeed)
		cuts++
		k, err := w.verify(img, n, n%2 == 0, o)
		if err != nil {
			return cuts, nil, fmt.Errorf("cut after event %d of %d, %s: %w", n, w.d.Events(), policy, err)
		}
		if k > 0 && w.done[k-1].ack > n {
			w.seen["recovered before it was acknowledged"]++
		}
		if n%4 == 1 { // the power fails again during recovery
			again := rng.IntN(img.Events() + 1)
			policy2 := sim.Policy(rng.IntN(sim.Policies))
			cuts++
			if _, err := w.verify(img.Cut(again, policy2, cutSeed), n, true, o); err != nil {
				return cuts, nil, fmt.Errorf("cut after event %d, %s, and again after event %d of recovery, %s: %w", n, policy, again, policy2, err)
			}
		}
	}
	return cuts, w.seen, nil
}

// TestPowerCutNotes cuts the power BLOCKD_POWERCUT_CUTS times, from seed
// BLOCKD_POWERCUT_SEED on, like TestPowerCut. Every path of Notes must be met.
func TestPowerCutNotes(t *testing.T) {
	t.Parallel()
	env := func(name string, def uint64) uint64 {
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
	target, seed := int(env("BLOCKD_POWERCUT_CUTS", cutNotesByDefault)), env("BLOCKD_POWERCUT_SEED", 1)
	first, total, start, seen := seed, 0, time.Now(), map[string]int{}
	for ; total < target; seed++ {
		n, s, err := cutNotesEverywhere(t, seed, cutNoteOptions(seed), target)
		total += n
		if err != nil {
			t.Fatalf("BLOCKD_POWERCUT_SEED=%d: %v", seed, err)
		}
		for k, n := range s {
			seen[k] += n
		}
	}
	t.Logf("%d power cuts survived, seeds %d to %d, %v", total, first, seed-1, time.Since(start).Round(time.Second))
	t.Log(seen)
	if total < cutsToMeetAll {
		return // too few to meet everything
	}
	for _, k := range []string{"void", "clear of nothing", "by log", "no space", "delete", "second page", "unproven", "vouched", "checkpoint", "recovered before it was acknowledged"} {
		if seen[k] == 0 {
			t.Errorf("%s: never seen", k)
		}
	}
}

// TestPowerCutFindsBrokenNotes proves that the test above can fail.
func TestPowerCutFindsBrokenNotes(t *testing.T) {
	for _, b := range []Breakage{
		"checkpoint without notes",
		"recovery without lost versions",
		"recovery without regard to higher versions",
		"recovery without doubt",
		"acknowledge before the log is durable",
		"no sync before the superblock",
	} {
		t.Run(string(b), func(t *testing.T) {
			total := 0
			for seed := uint64(1); seed < 20; seed++ {
				n, _, err := cutNotesEverywhere(t, seed, Break(cutNoteOptions(seed), b), 5000)
				total += n
				if err != nil {
					t.Logf("found after %d cuts: %v", total, err)
					return
				}
			}
			t.Errorf("not found in %d cuts", total)
		})
	}
}
