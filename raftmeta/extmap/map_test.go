package extmap

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// racks puts two disks into each domain; only disks 1 to n exist.
type racks struct{ n Disk }

func (r racks) Domain(d Disk) (uint32, bool) { return uint32(d-1) / 2, d >= 1 && d <= r.n }

// shadow is the map as one would write it without a thought to size.
type shadow map[VolumeID]*shadowVolume

type shadowVolume struct {
	extents []Extent
	sync    map[Disk]Sync
	seen    map[Disk]Sync // as it was after the last step
}

// keeps reports whether a disk has, or is to have, an extent.
func (v *shadowVolume) keeps(d Disk) bool {
	return slices.ContainsFunc(v.extents, func(e Extent) bool { return e.To == d || slices.Contains(e.Disks, d) })
}

// forget is what becomes of disks that have nothing any more.
func (v *shadowVolume) forget() {
	for d, s := range v.sync {
		if s.State != InSync && !v.keeps(d) {
			v.sync[d] = Sync{Disk: d, State: InSync, Generation: s.Generation + 1}
		} else if !v.keeps(d) {
			s.Proof = 0
			v.sync[d] = s
		}
	}
}

// Whatever is done, the map says what the simple model says, older maps stay
// as they were, refusals change nothing, and each map survives being written.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, topo, model := Map{}, racks{30}, shadow{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			before, hash := dump(m), m.Hash()
			next, err := step(t, m, topo, model)
			if dump(m) != before || m.Hash() != hash {
				t.Fatal("an older map changed")
			}
			if err != nil && (next.Hash() != hash || dump(next) != before) {
				t.Fatalf("refused with %v, and changed", err)
			}
			m = next
			compare(t, m, model)
		}
		roundTrip(t, m)
	})
}

func step(t *rapid.T, m Map, topo racks, model shadow) (Map, error) {
	id := VolumeID{rapid.ByteRange(1, 3).Draw(t, "volume")}
	v := model[id]
	index := uint32(rapid.IntRange(0, 700).Draw(t, "extent"))
	d := Disk(rapid.IntRange(1, 30).Draw(t, "disk"))
	what := rapid.SampledFrom([]string{"create", "allocate", "allocate", "free", "move", "move", "finish", "cancel", "sync", "sync", "replace", "replace", "prove", "prove", "delete", "grow"}).Draw(t, "what")
	if v == nil {
		next, err := m.Create(id, anyPolicy(t), index)
		if err == nil {
			model[id] = &shadowVolume{make([]Extent, index), map[Disk]Sync{}, map[Disk]Sync{}}
		}
		return next, err
	}
	moves := slices.Collect(m.Volume(id).Moves())
	switch what {
	case "create":
		next, err := m.Create(id, Policy{Replicas: 1}, 1)
		if !errors.Is(err, ErrExists) {
			t.Fatalf("created twice: %v", err)
		}
		return next, err
	case "grow":
		next, err := m.Grow(id, index)
		if err == nil {
			v.extents = append(v.extents, make([]Extent, int(index)-len(v.extents))...)
		}
		return next, err
	case "delete":
		delete(model, id)
		return m.Delete(id)
	case "allocate":
		return modelAllocate(t, m, topo, id, v, index)
	case "free":
		n := uint32(rapid.IntRange(0, 5).Draw(t, "n"))
		next, err := m.Free(id, index, n)
		for i := index; err == nil && i < index+n; i++ {
			if e := &v.extents[i]; e.Disks != nil {
				e.Disks, e.Generation = nil, e.Generation+1
			}
		}
		return next, err
	case "move":
		if int(index) >= len(v.extents) || v.extents[index].Disks == nil {
			index = 0
		}
		move := Move{index, d, Disk(rapid.IntRange(1, 30).Draw(t, "to"))}
		if int(index) < len(v.extents) && v.extents[index].Disks != nil {
			move.From = v.extents[index].Disks[0]
		}
		next, err := m.StartMoves(id, []Move{move}, topo)
		if err == nil {
			v.extents[index].From, v.extents[index].To = move.From, move.To
		}
		return next, err
	case "finish", "cancel":
		if len(moves) == 0 {
			return m, nil
		}
		move := rapid.SampledFrom(moves).Draw(t, "move")
		e := &v.extents[move.Extent]
		if what == "cancel" {
			e.From, e.To = 0, 0
			return m.CancelMoves(id, []Move{move})
		}
		next, err := m.FinishMoves(id, []Move{move})
		if err == nil {
			e.Disks = slices.Clone(e.Disks)
			e.Disks[slices.Index(e.Disks, move.From)] = move.To
			e.From, e.To, e.Generation = 0, 0, e.Generation+1
		} else if v.sync[move.To].State == InSync {
			t.Fatalf("a move to a disk in sync can't be finished: %v", err)
		}
		return next, err
	case "prove":
		return modelProve(t, m, id, v, d)
	case "replace":
		return modelReplace(t, m, id, v, topo)
	default:
		return modelMark(t, m, id, v, d)
	}
}

func modelMark(t *rapid.T, m Map, id VolumeID, v *shadowVolume, d Disk) (Map, error) {
	if disks := m.Volume(id).Disks(); len(disks) > 0 && rapid.IntRange(0, 9).Draw(t, "kept") > 0 {
		d = rapid.SampledFrom(disks).Draw(t, "of")
	}
	was := v.sync[d]
	was.Disk = d
	late := rapid.Uint64Range(0, 1).Draw(t, "late")
	c := Change(rapid.IntRange(1, 4).Draw(t, "change"))
	next, err := m.Mark(id, d, was.Generation-late, c)
	from := map[Change][]SyncState{MarkOut: {InSync, Rebuilding}, MarkRebuilding: {OutOfSync, Rebuilding}, MarkIn: {Rebuilding, InSync}, Keep: {InSync}}
	may := late == 0 && v.keeps(d) && slices.Contains(from[c], was.State)
	if err == nil && !may || err != nil && may && (c != MarkOut || !errors.Is(err, ErrLastCopy)) {
		t.Fatalf("disk %d, %+v, %d late, to %s: %v", d, was, late, c, err)
	}
	if err == nil {
		to := map[Change]SyncState{MarkOut: OutOfSync, MarkRebuilding: Rebuilding, MarkIn: InSync, Keep: InSync}[c]
		if c != MarkIn {
			was.Generation++
		}
		v.sync[d] = Sync{Disk: d, State: to, Generation: was.Generation, Proof: was.Proof}
	}
	return next, err
}

func modelProve(t *rapid.T, m Map, id VolumeID, v *shadowVolume, d Disk) (Map, error) {
	if disks := m.Volume(id).Disks(); len(disks) > 0 && rapid.IntRange(0, 9).Draw(t, "kept") > 0 {
		d = rapid.SampledFrom(disks).Draw(t, "of")
	}
	proof := rapid.Uint64Range(0, 9).Draw(t, "proof")
	next, err := m.Prove(id, d, proof)
	if keeps := v.keeps(d); keeps != (err == nil) || err != nil && !errors.Is(err, ErrDisks) {
		t.Fatalf("proof of disk %d: %v", d, err)
	}
	if err == nil {
		s := v.sync[d]
		v.sync[d] = Sync{Disk: d, State: s.State, Generation: s.Generation, Proof: max(s.Proof, proof)}
	}
	return next, err
}

// modelReplace says of each extent by itself whether disk to may take the place of
// from, and what is left in sync then.
func modelReplace(t *rapid.T, m Map, id VolumeID, v *shadowVolume, topo racks) (Map, error) {
	from, to := Disk(rapid.IntRange(1, 30).Draw(t, "from")), Disk(rapid.IntRange(1, 31).Draw(t, "to"))
	if disks := m.Volume(id).Disks(); len(disks) > 0 && rapid.IntRange(0, 9).Draw(t, "kept") > 0 {
		from = rapid.SampledFrom(disks).Draw(t, "of")
	}
	minInSync, late := rapid.IntRange(1, 3).Draw(t, "min"), rapid.Uint64Range(0, 1).Draw(t, "late")
	may := to != from && to <= topo.n && v.sync[to].State == InSync && late == 0
	var takes []int
	for i, e := range v.extents {
		in, has := slices.Contains(e.Disks, from), slices.Contains(e.Disks, to)
		taken := in && !slices.ContainsFunc(e.Disks, func(d Disk) bool { return d != from && (d-1)/2 == (to-1)/2 })
		if taken {
			takes = append(takes, i)
		}
		before, after := 0, 0
		for _, d := range e.Disks {
			if v.sync[d].State == InSync {
				before++
				if d != to && (d != from || !taken) {
					after++
				}
			}
		}
		if (taken || has) && (after < m.Volume(id).Policy().Needed() || after < minInSync && after < before || e.To != 0) {
			may = false
		}
	}
	next, err := m.Replace(id, from, to, v.sync[from].Generation-late, minInSync, topo)
	if may = may && len(takes) > 0; may != (err == nil) {
		t.Fatalf("disk %d in the place of %d, %d late, min %d: %v", to, from, late, minInSync, err)
	}
	if err == nil {
		for _, i := range takes {
			e := &v.extents[i]
			e.Disks = slices.Clone(e.Disks)
			e.Disks[slices.Index(e.Disks, from)] = to
			e.Generation++
		}
		v.sync[to] = Sync{Disk: to, State: OutOfSync, Generation: v.sync[to].Generation + 1, Proof: v.sync[to].Proof}
	}
	return next, err
}

func modelAllocate(t *rapid.T, m Map, topo racks, id VolumeID, v *shadowVolume, index uint32) (Map, error) {
	width := m.Volume(id).Policy().Width()
	var sets []Disk
	n := rapid.IntRange(1, 4).Draw(t, "n")
	for range n {
		perm := rapid.Permutation([]Disk{1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29}).Draw(t, "disks")
		set := slices.Clone(perm[:width])
		if rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
			set[0] = set[width-1] + 1 // a neighbour in the rack, or nothing with one copy
		}
		sets = append(sets, set...)
	}
	next, err := m.Allocate(id, index, sets, topo)
	for i := 0; err == nil && i < n; i++ {
		e := &v.extents[int(index)+i]
		if e.Disks != nil {
			t.Fatal("allocated twice")
		}
		e.Disks, e.Generation = sets[i*width:(i+1)*width], e.Generation+1
	}
	return next, err
}

// compare checks m against the model, and the invariants.
func compare(t *rapid.T, m Map, model shadow) {
	used := map[Disk]uint32{}
	n := 0
	for id, v := range m.Volumes() {
		n++
		w := model[id]
		w.forget()
		if int(v.Layout().Extents()) != len(w.extents) {
			t.Fatalf("%d extents, want %d", v.Layout().Extents(), len(w.extents))
		}
		allocated := uint32(0)
		for i, want := range w.extents {
			got, ok := v.Extent(uint32(i))
			if ok != (want.Disks != nil) || got.Generation != want.Generation || got.From != want.From || got.To != want.To || ok && !slices.Equal(got.Disks, want.Disks) {
				t.Fatalf("extent %d is %+v, want %+v", i, got, want)
			}
			if !ok {
				continue
			}
			allocated++
			good := 0
			domains := map[uint32]bool{}
			for _, d := range want.Disks {
				used[d]++
				domains[uint32(d-1)/2] = true
				if w.sync[d].State == InSync {
					good++
				}
			}
			if want.To != 0 {
				used[want.To]++
			}
			if good < v.Policy().Needed() || len(domains) != len(want.Disks) {
				t.Fatalf("extent %d on %d: %d in sync, %d domains", i, want.Disks, good, len(domains))
			}
		}
		for d := Disk(1); d <= 30; d++ {
			now, before := v.Sync(d), w.seen[d]
			if want := w.sync[d]; now.State != want.State || now.Generation != want.Generation || now.Proof != want.Proof || now.Disk != d {
				t.Fatalf("disk %d is %+v, want %+v", d, now, want)
			}
			in := before.State == Rebuilding && now.State == InSync && now.Generation == before.Generation
			if now.State != before.State && now.Generation <= before.Generation && !in || now.Generation < before.Generation {
				t.Fatalf("disk %d was %+v and is %+v: the generation comes again", d, before, now)
			}
			w.seen[d] = now
			if slices.Contains(v.Disks(), d) != w.keeps(d) {
				t.Fatalf("disk %d: the volume is on %d", d, v.Disks())
			}
		}
		if allocated != v.Allocated() {
			t.Fatalf("Allocated is %d, want %d", v.Allocated(), allocated)
		}
	}
	if n != len(model) {
		t.Fatalf("%d volumes, want %d", n, len(model))
	}
	for d := Disk(0); d <= 31; d++ {
		if m.Used(d) != used[d] {
			t.Fatalf("disk %d is used %d times, want %d", d, m.Used(d), used[d])
		}
	}
}

func dump(m Map) string {
	var b bytes.Buffer
	if _, err := m.WriteTo(&b); err != nil {
		panic(err)
	}
	return b.String()
}

func roundTrip(t *rapid.T, m Map) {
	written := dump(m)
	r := bytes.NewReader([]byte(written + "more"))
	back, err := Read(r)
	if err != nil || r.Len() != len("more") {
		t.Fatalf("%d bytes left: %v", r.Len(), err)
	}
	if back.Hash() != m.Hash() || dump(back) != written || !slices.Equal(back.used, m.used) {
		t.Fatal("what was read is not what was written")
	}
	for id, v := range m.Volumes() {
		if b := back.Volume(id); !slices.Equal(b.disks, v.disks) || !slices.Equal(b.uses, v.uses) {
			t.Fatalf("disks %d and %d, with %d and %d extents", b.disks, v.disks, b.uses, v.uses)
		}
	}
}

// The last disk that has an extent in sync is never called out of sync.
func TestTheLastCopyStays(t *testing.T) {
	id := VolumeID{1}
	m, err := Map{}.Create(id, Policy{Replicas: 2}, 4)
	for i, set := range [][]Disk{{1, 3}, {5, 7}} {
		if err == nil {
			m, err = m.Allocate(id, uint32(i), set, racks{10})
		}
	}
	for _, d := range []Disk{1, 5} { // two out, of different extents
		if err == nil {
			m, err = m.Mark(id, d, 0, MarkOut)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mark(id, 3, 0, MarkOut); !errors.Is(err, ErrLastCopy) {
		t.Errorf("the last copy went out of sync: %v", err)
	}
	if _, err := m.Mark(id, 1, 1, MarkIn); !errors.Is(err, ErrChange) {
		t.Errorf("a disk came back in sync without a rebuild: %v", err)
	}
	if _, err := m.Allocate(id, 2, []Disk{1, 9}, racks{10}); !errors.Is(err, ErrNotInSync) {
		t.Errorf("an extent was placed on a disk that is out of sync: %v", err)
	}
}

// With two copies the second disk of an extent can't follow the first.
func TestBothCopiesOutOfSync(t *testing.T) {
	id := VolumeID{1}
	m := Map{}
	m, err := m.Create(id, Policy{Replicas: 2}, 1)
	if err == nil {
		m, err = m.Allocate(id, 0, []Disk{1, 3}, racks{10})
	}
	if err == nil {
		m, err = m.Mark(id, 1, 0, MarkOut)
	}
	if err == nil {
		m, err = m.Mark(id, 1, 1, MarkRebuilding)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mark(id, 3, 0, MarkOut); !errors.Is(err, ErrLastCopy) {
		t.Errorf("both copies went out of sync: %v", err)
	}
}

// A move doesn't end on a disk that missed writes meanwhile; it can be canceled.
func TestAMoveNeedsItsTarget(t *testing.T) {
	id, move := VolumeID{1}, []Move{{Extent: 0, From: 1, To: 5}}
	m, err := Map{}.Create(id, Policy{Replicas: 2}, 1)
	if err == nil {
		m, err = m.Allocate(id, 0, []Disk{1, 3}, racks{10})
	}
	if err == nil {
		m, err = m.StartMoves(id, move, racks{10})
	}
	if err == nil {
		m, err = m.Mark(id, 5, 0, MarkOut)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.FinishMoves(id, move); !errors.Is(err, ErrNotInSync) {
		t.Errorf("the move ended on a disk out of sync: %v", err)
	}
	if m, err = m.CancelMoves(id, move); err != nil || m.Used(5) != 0 {
		t.Errorf("%d used after the move was canceled: %v", m.Used(5), err)
	}
	if s := m.Volume(id).Sync(5); s != (Sync{Disk: 5, State: InSync, Generation: 2}) {
		t.Errorf("a disk that has nothing any more is %+v", s)
	}
	if _, err := m.Mark(id, 5, 2, Keep); !errors.Is(err, ErrDisks) {
		t.Errorf("a disk that has nothing is kept: %v", err)
	}
}

// A proposal that comes late changes nothing, whatever came first.
func TestLateMarksAreRefused(t *testing.T) {
	id := VolumeID{1}
	m, err := Map{}.Create(id, Policy{Replicas: 3}, 1)
	if err == nil {
		m, err = m.Allocate(id, 0, []Disk{1, 3, 5}, racks{10})
	}
	for gen, c := range []Change{MarkOut, MarkRebuilding, MarkRebuilding, MarkIn, Keep, MarkOut} {
		if gen > 3 {
			gen-- // MarkIn has none of its own
		}
		if err == nil {
			m, err = m.Mark(id, 3, uint64(gen), c)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Volume(id).Sync(3); s != (Sync{Disk: 3, State: OutOfSync, Generation: 5}) {
		t.Fatalf("%+v", s)
	}
	for c := MarkOut; c <= Keep; c++ {
		for gen := range uint64(5) {
			if _, err := m.Mark(id, 3, gen, c); !errors.Is(err, ErrGeneration) {
				t.Errorf("%s of generation %d: %v", c, gen, err)
			}
		}
	}
	if s := m.Volume(id).Sync(1); s != (Sync{Disk: 1}) {
		t.Errorf("another disk is %+v", s)
	}
}

// Marking copies the head of a volume, however many extents it has.
func TestMarkCopiesTheHeadOnly(t *testing.T) {
	m := filled(t, 1<<17, Policy{Replicas: 3})
	gen := uint64(0)
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			next, err := m.Mark(VolumeID{1}, 1, gen, Keep)
			if err != nil {
				b.Fatal(err)
			}
			m, gen = next, gen+1
		}
	})
	if n := res.AllocedBytesPerOp(); n > 12<<10 { // 6 KiB of them are the root of the volumes
		t.Errorf("%d bytes a change", n)
	}
}

// OnDisk finds every extent of a disk, however small the steps.
func TestOnDisk(t *testing.T) {
	m, want := Map{}, []Ref(nil)
	for n := byte(1); n <= 3; n++ {
		id := VolumeID{n}
		m, _ = m.Create(id, Policy{Replicas: 1}, 600)
		for i := range uint32(600) {
			d := Disk(1 + i%7)
			m, _ = m.Allocate(id, i, []Disk{d}, racks{10})
			if d == 4 {
				want = append(want, Ref{id, i})
			}
		}
	}
	for _, size := range []int{1, 7, 1000} {
		var got []Ref
		from, more := Ref{}, true
		for more {
			var part []Ref
			part, from, more = m.OnDisk(4, from, make([]Ref, 0, size))
			got = append(got, part...)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("in steps of %d: %d extents, want %d", size, len(got), len(want))
		}
	}
}

// One change of a large volume copies a page and a node, not the volume.
func TestAChangeSharesTheRest(t *testing.T) {
	m := filled(t, 1<<17, Policy{Replicas: 3})
	id := VolumeID{1}
	next, err := m.Free(id, 70_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	shared, differ := 0, 0
	for number, p := range m.Volume(id).pages() {
		if &next.Volume(id).page(number).words[0] == &p.words[0] {
			shared++
		} else {
			differ++
		}
	}
	if differ != 1 || shared != 1<<17/pageExtents-1 {
		t.Errorf("%d pages differ, %d are shared", differ, shared)
	}
}

// filled is a map of one volume, all allocated over 1000 disks.
func filled(t testing.TB, extents uint32, p Policy) Map {
	t.Helper()
	id := VolumeID{1}
	m, err := Map{}.Create(id, p, extents)
	sets := make([]Disk, 0, BatchMax*p.Width())
	for first := uint32(0); first < extents && err == nil; first += uint32(len(sets) / p.Width()) {
		sets = sets[:0]
		for i := first; i < min(extents, first+4096); i++ {
			for k := range uint32(p.Width()) {
				sets = append(sets, Disk(1+2*((i*7+k*131)%500)))
			}
		}
		m, err = m.Allocate(id, first, sets, racks{1001})
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDamageIsFound(t *testing.T) {
	m := filled(t, 300, Policy{Replicas: 2})
	m, err := m.Mark(VolumeID{1}, 1, 0, MarkOut)
	if err != nil {
		t.Fatal(err)
	}
	whole := []byte(dump(m))
	for i := 0; i < len(whole); i += 1 + i/100 {
		bad := bytes.Clone(whole)
		bad[i] ^= 4
		if _, err := Read(bytes.NewReader(bad)); err == nil {
			t.Errorf("a flipped bit in byte %d was not found", i)
		}
		if _, err := Read(bytes.NewReader(whole[:i])); err == nil {
			t.Errorf("%d of %d bytes were read as a map", i, len(whole))
		}
	}
}

// Run it with -fuzzminimizetime 1x: a page has 2 KiB, nearly all of them zero,
// and making such inputs smaller takes all the time there is.
func FuzzRead(f *testing.F) {
	f.Add([]byte(dump(filled(f, 3, Policy{Replicas: 2}))))
	f.Add([]byte(dump(filled(f, 2, Policy{Data: 4, Parity: 2}))))
	m := filled(f, 2, Policy{Replicas: 2})
	for id, v := range m.Volumes() {
		var err error
		if m, err = m.Prove(id, v.Disks()[0], 7); err != nil {
			f.Fatal(err)
		}
	}
	f.Add([]byte(dump(m)))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Read(bytes.NewReader(in))
		if err == nil && !bytes.HasPrefix(in, []byte(dump(m))) {
			t.Fatalf("read %d bytes, wrote others", len(in))
		}
	})
}

func TestBatchesAreBounded(t *testing.T) {
	m, _ := Map{}.Create(VolumeID{1}, Policy{Replicas: 1}, 1<<20)
	if _, err := m.Allocate(VolumeID{1}, 0, make([]Disk, BatchMax+1), racks{3}); !errors.Is(err, ErrDisks) {
		t.Errorf("got %v", err)
	}
	if _, err := m.Free(VolumeID{1}, 0, BatchMax+1); !errors.Is(err, ErrExtent) {
		t.Errorf("got %v", err)
	}
	if _, err := m.Free(VolumeID{1}, 1<<32-2, 4); !errors.Is(err, ErrExtent) {
		t.Errorf("got %v", err)
	}
	if got := fmt.Sprint(Policy{Replicas: 3}, Policy{Data: 4, Parity: 2}, Rebuilding, MarkOut); got != "3 copies 4+2 rebuilding out of sync" {
		t.Errorf("words are %s", got)
	}
}
