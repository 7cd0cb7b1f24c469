package sim

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"blockd.dev/blockdev"
	realdisk "blockd.dev/blockdev/disk"
	disksim "blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
	"blockd.dev/replication/replica"
)

// What the simulation proves it proves of stores like its model of one. This test
// holds the model against blockdev/store: random replica.Ops go to both, one after
// the other, and after each of them data, versions and state must be the same; so
// also when the store is closed and opened again, or when the power is cut before
// the op is done, after which all of it has happened or nothing.

// scale is how much larger a region is in the store.
const scale = store.ChunkBytes / regionBytes

// realStore is a store with one volume, on a disk whose power can be cut.
type realStore struct {
	t testing.TB
	d *disksim.Sim
	s *store.Store
	v *store.Vol

	machine store.Boot
}

func openReal(t testing.TB, d *disksim.Sim, machine store.Boot) *realStore {
	s, err := store.Open(d, store.Options{DirtyBytes: 64 * store.BlockBytes, PagesMax: 4, BatchBlocks: 32, Boot: machine})
	if err != nil {
		t.Fatal(err)
	}
	v, err := s.OpenVolume(store.VolumeID{1})
	if err != nil {
		t.Fatal(err)
	}
	return &realStore{t: t, d: d, s: s, v: v, machine: machine}
}

func newReal(t testing.TB, seed uint64) *realStore {
	d := disksim.New(16<<20, disksim.Options{Seed: seed})
	if err := store.Format(d, store.FormatOptions{UUID: [16]byte{byte(seed)}, LogBytes: 256 << 10, MaxExtents: 14, MaxPages: 16}); err != nil {
		t.Fatal(err)
	}
	return openReal(t, d, store.Boot{1})
}

// after is the store when its machine is there again, with what the disk has kept.
func (r *realStore) after(d *disksim.Sim) *realStore {
	machine := r.machine
	machine[1]++
	return openReal(r.t, d, machine)
}

// submit starts op in the store.
func (r *realStore) submit(op *replica.Op, done func(error)) {
	o := &store.Op{Vol: r.v, Off: op.Off * scale, Len: int(op.Len * scale), Ver: store.Version(op.Ver),
		Note: &store.Note{Stable: op.Stable, Tail: op.Writes() && !op.Copied, Exact: op.Copied}}
	for _, off := range op.Void {
		o.Note.Void = append(o.Note.Void, off*scale)
	}
	switch op.Kind {
	case replica.OpWrite:
		o.Kind, o.Data = store.OpWrite, [][]byte{enlarge(op.Data)}
	case replica.OpClear:
		o.Kind = store.OpClear
	case replica.OpZero:
		o.Kind = store.OpZero
	case replica.OpFence:
		o.Kind, o.Note.Fence = store.OpNote, op.Epoch
	case replica.OpBegin:
		o.Kind, o.Note.Forget = store.OpNote, true
	case replica.OpVouch:
		o.Kind, o.Note.Vouch = store.OpNote, true
	case replica.OpRead, replica.OpVersions:
		r.t.Fatalf("op %+v changes nothing", op)
	}
	o.Done = func(o *store.Op) { done(o.Err) }
	r.s.Submit([]*store.Op{o})
}

// enlarge repeats each block of the simulation as often as it fits the store's.
func enlarge(p []byte) []byte {
	q := realdisk.NewAligned(len(p) * scale)
	for i := 0; i < len(p); i += blockBytes {
		copy(q[i*scale:], bytes.Repeat(p[i:i+blockBytes], scale))
	}
	return q
}

// same compares all that the store has with the model.
func (r *realStore) same(d *disk) string {
	p, vers := realdisk.NewAligned(mostBytes*scale), make([]store.Version, len(d.versions))
	done := make(chan *store.Op, 1)
	r.s.Submit([]*store.Op{{Kind: store.OpRead, Vol: r.v, Len: len(p), Data: [][]byte{p}, Vers: vers, Done: func(op *store.Op) { done <- op }}})
	if op := <-done; op.Err != nil {
		return op.Err.Error()
	}
	if !bytes.Equal(p, enlarge(d.image)) {
		return "data"
	}
	for i, v := range vers {
		if replica.Version(v) != d.versions[i] {
			return "versions"
		}
	}
	st, err := r.s.ReplicaState(r.v)
	if err != nil {
		return err.Error()
	}
	var tail []replica.Entry
	for _, e := range st.Tail {
		tail = append(tail, replica.Entry{Ver: replica.Version(e.Ver), Off: e.Off / scale, Len: e.Len / scale})
	}
	if m := d.state; st.Fenced != m.Fenced || st.Stable != m.Stable || st.Last != m.Last || st.Unproven != m.Unproven || !slices.Equal(tail, m.Tail) {
		return "state"
	}
	return ""
}

// clone copies what the model has durably.
func (d *disk) clone() *disk {
	c := newDisk(d.w)
	copy(c.image, d.image)
	copy(c.versions, d.versions)
	c.state = d.state
	c.state.Tail = slices.Clone(d.state.Tail)
	return c
}

// randomOp is what a Replica may submit, and more: versions that are lower than
// what is there, and voids anywhere.
func randomOp(rng *rand.Rand, n uint64, s replica.State) *replica.Op {
	op := &replica.Op{Ver: replica.Version{Epoch: 1 + s.Fenced, Seq: n}, Stable: s.Stable}
	blocks := int64(mostBytes / blockBytes)
	count := 1 + rng.Int64N(min(6, blocks))
	op.Off, op.Len = rng.Int64N(blocks-count+1)*blockBytes, count*blockBytes
	if rng.IntN(8) == 0 {
		op.Ver.Seq = 1 + rng.Uint64N(n)
	}
	if rng.IntN(3) == 0 {
		op.Stable += rng.Uint64N(n - s.Stable + 1)
	}
	switch x := rng.IntN(20); {
	case x < 12:
		op.Kind = replica.OpWrite
		if op.Copied = rng.IntN(4) == 0; op.Copied {
			op.Off, op.Len = op.Off/regionBytes*regionBytes, regionBytes
		}
		op.Data = make([]byte, op.Len)
		for i := range op.Data {
			op.Data[i] = byte(rng.Uint32())
		}
	case x < 15:
		if op.Kind, op.Copied = replica.OpClear, rng.IntN(2) == 0; op.Copied && rng.IntN(2) == 0 { // as a write that was refused in a rebuild has it
			op.Off, op.Len, op.Ver = op.Off/regionBytes*regionBytes, regionBytes, replica.NoVersion
		}
	case x < 17:
		op.Kind = replica.OpZero
	case x < 18:
		op.Kind, op.Epoch, op.Off, op.Len = replica.OpFence, s.Fenced+1, 0, 0
	case x < 19:
		op.Kind, op.Off, op.Len = replica.OpVouch, 0, 0
	default:
		op.Kind, op.Off, op.Len = replica.OpBegin, 0, 0
	}
	if rng.IntN(4) == 0 && op.Kind != replica.OpFence && op.Kind != replica.OpVouch {
		for range 1 + rng.IntN(3) {
			op.Void = append(op.Void, rng.Int64N(mostBytes/regionBytes)*regionBytes)
		}
	}
	return op
}

func TestStoreIsLikeItsModel(t *testing.T) {
	happened, lost := 0, 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 5))
		model, real := newDisk(&world{}), newReal(t, seed)
		for n := uint64(1); n <= 100; n++ {
			op := randomOp(rng, n, model.state)
			if n == 1 { // of a span that nothing was written to the store knows less
				op = &replica.Op{Kind: replica.OpWrite, Len: blockBytes, Data: make([]byte, blockBytes), Ver: replica.Version{Epoch: 1, Seq: 1}}
			}
			cut := n > 1 && rng.IntN(6) == 0
			before := model.clone()
			if cut {
				real.d.SetMode(disksim.Manual, true, rng.Uint64())
			}
			ended := false
			real.submit(op, func(err error) {
				if ended = true; err != nil {
					t.Fatalf("seed %d op %d %+v: %v", seed, n, op, err)
				}
			})
			model.apply(&diskOp{op: op})
			switch {
			case cut:
				for range rng.IntN(6) {
					real.d.Step()
				}
				real = real.after(real.d.Cut(real.d.Events(), disksim.Policy(rng.IntN(disksim.Policies)), rng.Uint64()))
				model.state.Unproven, before.state.Unproven = true, true
				if !ended && real.same(model) != "" {
					lost++
					model = before
				} else {
					happened++
				}
			case !ended:
				t.Fatalf("seed %d op %d: not done", seed, n)
			case rng.IntN(10) == 0:
				real.s.CloseVolume(real.v)
				if err := real.s.Close(); err != nil {
					t.Fatal(err)
				}
				real = openReal(t, real.d, real.machine)
			}
			if diff := real.same(model); diff != "" {
				t.Fatalf("seed %d after op %d %+v (cut %v, done %v): %s differ", seed, n, op, cut, ended, diff)
			}
		}
	}
	if happened < 20 || lost < 20 {
		t.Errorf("of the ops that were cut %d happened and %d did not: want many of both", happened, lost)
	}
}

// A full store refuses as its model does: a refused op changes nothing, and needs
// a region that is a hole.
func TestFullStoreIsLikeItsModel(t *testing.T) {
	refused, freed := 0, 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 7))
		model, real := newDisk(&world{}), newReal(t, seed)
		real.fillBut(3 + rng.Int64N(5))
		full := false
		for n := uint64(1); n <= 150; n++ {
			op := randomOp(rng, n, model.state)
			if n == 1 { // of a span that nothing was written to the store knows less
				op = &replica.Op{Kind: replica.OpWrite, Len: blockBytes, Data: make([]byte, blockBytes), Ver: replica.Version{Epoch: 1, Seq: 1}}
			}
			err, ended := error(nil), false
			real.submit(op, func(e error) { err, ended = e, true })
			hole := false
			for off := op.Off - op.Off%regionBytes; off < op.Off+op.Len; off += regionBytes {
				hole = hole || !model.uses(off)
			}
			switch {
			case !ended:
				t.Fatalf("seed %d op %d: not done", seed, n)
			case err == nil:
				model.apply(&diskOp{op: op})
				if full && hole && op.Writes() && op.Kind != replica.OpClear {
					freed++
				}
			case !errors.Is(err, blockdev.ErrNoSpace) || !hole || op.Kind != replica.OpWrite && op.Kind != replica.OpZero:
				t.Fatalf("seed %d op %d %+v: %v", seed, n, op, err)
			default:
				refused++
				full = true
			}
			if diff := real.same(model); diff != "" {
				t.Fatalf("seed %d after op %d %+v (%v): %s differ", seed, n, op, err, diff)
			}
		}
	}
	if refused < 100 || freed < 50 {
		t.Errorf("%d ops were refused, and %d found space after one was: want many of both", refused, freed)
	}
}

// fillBut fills the disk with another volume, so that n regions are left.
func (r *realStore) fillBut(n int64) {
	v, err := r.s.OpenVolume(store.VolumeID{2})
	if err != nil {
		r.t.Fatal(err)
	}
	do := func(op *store.Op) error {
		op.Vol, op.Len, op.Done = v, store.ChunkBytes, func(o *store.Op) { err = o.Err }
		r.s.Submit([]*store.Op{op})
		return err
	}
	off, p := int64(0), realdisk.NewAligned(store.ChunkBytes)
	for ; do(&store.Op{Kind: store.OpWrite, Off: off, Data: [][]byte{p}}) == nil; off += store.ChunkBytes {
	}
	for range n {
		off -= store.ChunkBytes
		if err := do(&store.Op{Kind: store.OpClear, Off: off}); err != nil {
			r.t.Fatal(err)
		}
	}
}

// A disk that has lost the last of what it said was durable leaves the store with what the model is after fewer
// ops: with all of the first ones, and nothing of those that follow.
func TestLyingStoreIsLikeItsModel(t *testing.T) {
	lost := 0
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 9))
		model, real := newDisk(&world{}), newReal(t, seed)
		type moment struct {
			events int // of the disk, when the op was done
			model  *disk
		}
		var past []moment
		for n := uint64(1); n <= 100; n++ {
			op := randomOp(rng, n, model.state)
			if n == 1 { // of a span that nothing was written to the store knows less
				op = &replica.Op{Kind: replica.OpWrite, Len: blockBytes, Data: make([]byte, blockBytes), Ver: replica.Version{Epoch: 1, Seq: 1}}
			}
			ended := false
			real.submit(op, func(err error) {
				if ended = true; err != nil {
					t.Fatalf("seed %d op %d: %v", seed, n, err)
				}
			})
			if !ended {
				t.Fatalf("seed %d op %d: not done", seed, n)
			}
			model.apply(&diskOp{op: op})
			past = append(past, moment{real.d.Events(), model.clone()})
		}
		for range 5 {
			first := rng.IntN(len(past) - 1)
			at := past[first].events + rng.IntN(past[len(past)-1].events-past[first].events+1)
			i := 0
			for i+1 < len(past) && past[i+1].events <= at {
				i++
			}
			after := real.after(real.d.Cut(at, disksim.DropAll, rng.Uint64()))
			for _, m := range past {
				m.model.state.Unproven = true
			}
			diff := after.same(past[i].model)
			if diff != "" && i+1 < len(past) {
				diff = after.same(past[i+1].model)
			}
			if diff != "" {
				t.Fatalf("seed %d: with the disk as of event %d, between ops %d and %d: %s differ", seed, at, i+1, i+2, diff)
			}
			lost += len(past) - 1 - i
		}
	}
	if lost < 1000 {
		t.Errorf("%d ops were lost: want many", lost)
	}
}
