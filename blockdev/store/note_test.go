package store

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

func stateOf(t testing.TB, s *Store, v *Vol) ReplicaState {
	t.Helper()
	st, err := s.ReplicaState(v)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func clearNoted(s *Store, v *Vol, seq uint64, n Note) error {
	return s.wait(&Op{Kind: OpClear, Vol: v, Len: BlockBytes, Ver: Version{1, seq}, Note: &n})
}

// TestTailIsBounded: a tail may have TailMax entries, also across an open; one
// more is refused and changes nothing, until a watermark makes room.
func TestTailIsBounded(t *testing.T) {
	d := sim.New(16<<20, sim.Options{NoTrace: true})
	f := testFormat()
	f.MaxPages = 2 * notesPagesMax
	if err := Format(d, f); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, d)
	v, _ := s.OpenVolume(VolumeID{7})
	for seq := range uint64(TailMax) {
		if err := clearNoted(s, v, seq+1, Note{Tail: true}); err != nil {
			t.Fatalf("entry %d: %v", seq+1, err)
		}
	}
	for _, again := range []bool{false, true} {
		if again {
			s = openTest(t, d)
			v, _ = s.OpenVolume(VolumeID{7})
		}
		st := stateOf(t, s, v)
		if len(st.Tail) != TailMax || st.Tail[TailMax-1].Ver.Seq != TailMax || st.Last != TailMax {
			t.Fatalf("%d entries, last %d", len(st.Tail), st.Last)
		}
		if err := clearNoted(s, v, TailMax+1, Note{Tail: true, Fence: 9}); !errors.Is(err, blockdev.ErrBusy) || !strings.Contains(err.Error(), "watermark") {
			t.Fatalf("one entry too many: %v", err)
		}
		if got := stateOf(t, s, v); !reflect.DeepEqual(got, st) {
			t.Fatalf("the refused op has changed the state: last %d, fenced %d", got.Last, got.Fenced)
		}
	}
	if err := clearNoted(s, v, TailMax+1, Note{Tail: true, Stable: 10}); err != nil {
		t.Fatalf("an entry with a watermark that makes room: %v", err)
	}
	if st := stateOf(t, s, v); len(st.Tail) != TailMax-9 || st.Stable != 10 {
		t.Errorf("%d entries above %d", len(st.Tail), st.Stable)
	}
	if st := s.Stats(); st.Replicas != 1 || st.TailEntries != TailMax-9 || st.Volumes != 1 {
		t.Errorf("stats: %d replicas, %d entries, %d volumes", st.Replicas, st.TailEntries, st.Volumes)
	}
}

// TestVoidOfManyPages: an op may void regions in far more spans than the page cache
// holds, written or not, and the cache is small again afterwards.
func TestVoidOfManyPages(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions()) // 4 pages in the cache, 16 on disk
	if err := write(s, v, 0, fill(BlockBytes, 1)); err != nil {
		t.Fatal(err)
	}
	var void []int64
	for i := range int64(12) {
		void = append(void, i*SpanBytes+i*ChunkBytes)
	}
	if err := s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Void: void, Stable: 5, Forget: true}}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for i, off := range void {
			vers := make([]Version, 2)
			if err := s.Versions(v, off, vers); err != nil {
				t.Fatal(err)
			}
			if vers[0] != NoVersion || vers[1] != (Version{}) {
				t.Errorf("void %d: versions %v", i, vers)
			}
		}
		if err := s.Checkpoint(); err != nil {
			t.Fatal(err)
		}
		if err := write(s, v, int64(14+round)*SpanBytes, fill(BlockBytes, 2)); err != nil { // loads a page
			t.Fatal(err)
		}
		if n := s.Stats().PagesCached; n > 4 {
			t.Errorf("%d pages in the cache", n)
		}
		s = openTest(t, d)
		v, _ = s.OpenVolume(VolumeID{7})
	}
	// No room for the pages of twelve spans more: all or nothing.
	for i := range void {
		void[i] += ExtentBytes
	}
	if err := s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Void: void, Fence: 3}}); !errors.Is(err, blockdev.ErrNoSpace) {
		t.Fatalf("void without room: %v", err)
	}
	if st := stateOf(t, s, v); st.Fenced != 0 || st.Stable != 5 {
		t.Errorf("state %+v", st)
	}
	var out bytes.Buffer
	if r, err := Check(d, &out); err != nil || r.Problems != 0 || r.NoVersion != 12 || r.Replicas != 1 {
		t.Errorf("check: %+v, %v: %s", r, err, out.String())
	}
}

func checkQuietly(d disk.Disk) error {
	var out bytes.Buffer
	r, err := Check(d, &out)
	if err == nil && r.Problems != 0 {
		err = fmt.Errorf("%d problems: %s", r.Problems, out.String())
	}
	return err
}

// TestNotesOfADeletedVolumeAreGone, and a new volume of the same ID starts from
// nothing.
func TestNotesOfADeletedVolumeAreGone(t *testing.T) {
	for _, home := range []bool{false, true} { // only in the log, or on their page
		d, s, v := newTest(t, 16<<20, testOptions())
		before := s.Stats()
		if err := clearNoted(s, v, 8, Note{Tail: true, Fence: 4, Void: []int64{0}}); err != nil {
			t.Fatal(err)
		}
		if home {
			if err := s.Checkpoint(); err != nil {
				t.Fatal(err)
			}
		}
		if vi := s.Volumes(); len(vi) != 1 || !vi[0].Replica {
			t.Errorf("volumes: %+v", vi)
		}
		s.CloseVolume(v)
		if err := s.DeleteVolume(VolumeID{7}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			v, _ = s.OpenVolume(VolumeID{7})
			if st := stateOf(t, s, v); !reflect.DeepEqual(st, ReplicaState{}) {
				t.Errorf("state %+v", st)
			}
			if vi := s.Volumes(); len(vi) != 0 {
				t.Errorf("volumes: %+v", vi)
			}
			if st := s.Stats(); st.MetaPages != before.MetaPages || st.Extents != before.Extents || st.Replicas != 0 {
				t.Errorf("pages %d, extents %d, replicas %d", st.MetaPages, st.Extents, st.Replicas)
			}
			s = openTest(t, d)
		}
	}
}

// TestDamagedNotesCostOneVolume: the others go on, this one says so, and can be
// deleted.
func TestDamagedNotesCostOneVolume(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions())
	other, _ := s.OpenVolume(VolumeID{8})
	for _, v := range []*Vol{v, other} {
		if err := clearNoted(s, v, 8, Note{Tail: true, Fence: 4}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	p := v.notes.ext.pages[0]
	d.Corrupt(s.slotOff(p.slot, s.copyB(p.slot))+70, 1)
	if err := clearNoted(s, v, 9, Note{Tail: true}); err != nil { // in the log, over what can't be read
		t.Fatal(err)
	}
	if err := checkQuietly(d); err == nil || !strings.Contains(err.Error(), "replica state") {
		t.Errorf("check says %v", err)
	}
	s = openTest(t, d)
	v, _ = s.OpenVolume(VolumeID{7})
	if _, err := s.ReplicaState(v); !errors.Is(err, ErrCorrupt) {
		t.Errorf("state of the damaged volume: %v", err)
	}
	if err := clearNoted(s, v, 10, Note{Tail: true}); !errors.Is(err, blockdev.ErrMedium) {
		t.Errorf("note for the damaged volume: %v", err)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, d) // nothing has made it look whole
	v, _ = s.OpenVolume(VolumeID{7})
	if _, err := s.ReplicaState(v); !errors.Is(err, ErrCorrupt) {
		t.Errorf("state of the damaged volume, later: %v", err)
	}
	other, _ = s.OpenVolume(VolumeID{8})
	if st := stateOf(t, s, other); st.Fenced != 4 || len(st.Tail) != 1 {
		t.Errorf("the other volume has %+v", st)
	}
	s.CloseVolume(v)
	if err := s.DeleteVolume(VolumeID{7}); err != nil {
		t.Fatal(err)
	}
	if err := checkQuietly(d); err != nil {
		t.Error(err)
	}
}

// TestStoreWithNotesIsRefusedByOlderPrograms: by its superblock, and before that
// is written by the records in the log. What has no notes says nothing new.
func TestStoreWithNotesIsRefusedByOlderPrograms(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions())
	if err := write(s, v, 0, fill(BlockBytes, 1)); err != nil {
		t.Fatal(err)
	}
	older := func() (super, log bool) {
		p := disk.NewAligned(superBytes)
		d.ReadRaw(p, 0)
		super = leU32(p[superOffFields:])&featNotes != 0
		d.ReadRaw(p[:BlockBytes], s.sb.logOff+s.mu.lg.applied-2*BlockBytes) // header of the last batch
		return super, p[batchHeader+1]&^byte(edgesAll) != 0
	}
	if super, log := older(); super || log {
		t.Errorf("a store without notes is refused: superblock %v, log %v", super, log)
	}
	op := &Op{Kind: OpWrite, Vol: v, Len: BlockBytes, Data: [][]byte{fill(BlockBytes, 2)}, Note: &Note{Tail: true}, Ver: Version{1, 1}}
	if err := s.wait(op); err != nil {
		t.Fatal(err)
	}
	if super, log := older(); super || !log {
		t.Errorf("notes in the log: superblock %v, log %v", super, log)
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	if super, _ := older(); !super {
		t.Error("notes in a checkpoint: the superblock does not say so")
	}
}

// TestUnprovenStoreIsRefusedByOlderPrograms: from when its machine has gone down on. What says in
// the log that a replica was vouched for is there only in such a store, and volumes that are new to it, or
// that it has lost, are unproven too.
func TestUnprovenStoreIsRefusedByOlderPrograms(t *testing.T) {
	d, s, v := newTest(t, 16<<20, testOptions())
	o := testOptions()
	o.Boot = Boot{1}
	reopen := func() {
		t.Helper()
		var err error
		if s, err = Open(d, o); err != nil {
			t.Fatal(err)
		}
		if v, err = s.OpenVolume(VolumeID{1}); err != nil {
			t.Fatal(err)
		}
	}
	vouch := func() (logged bool) {
		t.Helper()
		if err := s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Vouch: true}}); err != nil {
			t.Fatal(err)
		}
		p := disk.NewAligned(BlockBytes)
		d.ReadRaw(p, s.sb.logOff+s.mu.lg.applied-BlockBytes)
		return p[batchHeader+recordHeader]&noteVouch != 0
	}
	is := func(what string, want bool) {
		t.Helper()
		sb, err := readSuper(d)
		if err != nil {
			t.Fatal(err)
		}
		if sb.incompat&featUnproven == 0 || stateOf(t, s, v).Unproven != want {
			t.Errorf("%s: features %#x in the superblock, unproven %v, want %v", what, sb.incompat, stateOf(t, s, v).Unproven, want)
		}
	}
	reopen()
	if vouch() {
		t.Error("what is not in doubt is vouched for in the log")
	}
	o.Boot = Boot{2}
	reopen()
	is("the machine went down", true)
	var out fmtBuffer
	if r, err := Check(d, &out); err != nil || r.Unproven != 1 || r.Problems != 0 || s.Stats().Unproven != 1 {
		t.Errorf("%v, %+v: %s", err, r, out)
	}
	if !vouch() {
		t.Error("it is not in the log that the replica was vouched for")
	}
	if err := s.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	is("vouched for", false)
	o.Boot = Boot{}
	reopen()
	is("opened by somebody who knows no boots", true)
	vouch()
	o.Boot = Boot{3}
	reopen()
	is("after that", false)
	unknown := func(what string, want bool) {
		t.Helper()
		v, err := s.OpenVolume(VolumeID{2})
		if err != nil {
			t.Fatal(err)
		}
		if got := stateOf(t, s, v).Unproven; got != want {
			t.Errorf("a volume that the disk may have lost, %s: unproven %v, want %v", what, got, want)
		}
	}
	unknown("before its first note", true)
	if v, err := s.OpenVolume(VolumeID{2}); err != nil || s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Fence: 1}}) != nil {
		t.Fatal(err)
	}
	unknown("after it", true)
	reopen()
	unknown("opened again", true)
	if v, err := s.OpenVolume(VolumeID{2}); err != nil || s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Vouch: true}}) != nil {
		t.Fatal(err)
	}
	reopen()
	unknown("vouched for", false)
}

// TestInvalidNotesAreRefused.
func TestInvalidNotesAreRefused(t *testing.T) {
	_, s, v := newTest(t, 16<<20, testOptions())
	buf := [][]byte{disk.NewAligned(BlockBytes)}
	for name, op := range map[string]*Op{
		"of a read":              {Kind: OpRead, Len: BlockBytes, Data: buf, Note: &Note{}},
		"of poison":              {Kind: OpPoison, Len: BlockBytes, Note: &Note{}},
		"none":                   {Kind: OpNote},
		"tail of nothing":        {Kind: OpNote, Note: &Note{Tail: true}},
		"part of a region":       {Kind: OpNote, Note: &Note{Void: []int64{BlockBytes}}},
		"before the volume":      {Kind: OpNote, Note: &Note{Void: []int64{-ChunkBytes}}},
		"too many voids":         {Kind: OpNote, Note: &Note{Void: make([]int64, VoidMax+1)}},
		"versions of a read":     {Kind: OpRead, Len: BlockBytes, Data: buf, Vers: make([]Version, 2)},
		"versions of no regions": {Kind: OpVersions, Len: BlockBytes},
	} {
		op.Vol = v
		if err := s.wait(op); !errors.Is(err, blockdev.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st := stateOf(t, s, v); !reflect.DeepEqual(st, ReplicaState{}) {
		t.Errorf("state %+v", st)
	}
}

// TestVersionsAreThoseOfTheData: a read beside writes, each of which gives all
// blocks of a region its number, has the version of just the data it returns; and
// what ReplicaState and Stats say beside them is never torn.
func TestVersionsAreThoseOfTheData(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := disk.Create(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := Format(d, FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(d, Options{DirtyBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v, err := s.OpenVolume(VolumeID{7})
	if err != nil {
		t.Fatal(err)
	}
	const regions, writes = 3, 150
	var wg sync.WaitGroup
	var ended atomic.Bool
	for r := range int64(regions) {
		wg.Go(func() {
			p := disk.NewAligned(ChunkBytes)
			for seq := uint64(1); seq <= writes; seq++ {
				for b := range int64(blocksPerChunk) {
					stampBlock(p[b*BlockBytes:][:BlockBytes], seq, b)
				}
				off, n := r*ChunkBytes, ChunkBytes
				if r == 2 {
					n = 3 * BlockBytes // through the log
				}
				op := &Op{Kind: OpWrite, Vol: v, Off: off, Len: n, Data: [][]byte{p[:n]}, Ver: Version{1, seq},
					Note: &Note{Tail: true, Stable: seq - 1}}
				if err := s.wait(op); err != nil {
					t.Errorf("write %d of region %d: %v", seq, r, err)
					return
				}
			}
		})
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		p, vers := disk.NewAligned(regions*ChunkBytes), make([]Version, regions)
		for !ended.Load() {
			op := &Op{Kind: OpRead, Vol: v, Len: len(p), Data: [][]byte{p}, Vers: vers}
			if err := s.wait(op); err != nil {
				if errors.Is(err, blockdev.ErrBusy) {
					continue // rewritten too often meanwhile
				}
				t.Errorf("read: %v", err)
				return
			}
			for r, ver := range vers {
				n := blocksPerChunk
				if r == 2 {
					n = 3
				}
				for b := range n {
					want := make([]byte, BlockBytes)
					if ver.Seq != 0 {
						stampBlock(want, ver.Seq, int64(b))
					}
					if !bytes.Equal(want, p[r*ChunkBytes+b*BlockBytes:][:BlockBytes]) {
						t.Errorf("region %d block %d does not hold what version %v is", r, b, ver)
						return
					}
				}
			}
		}
	})
	readers.Go(func() {
		for !ended.Load() {
			st, err := s.ReplicaState(v)
			if err != nil || slices.ContainsFunc(st.Tail, func(e TailEntry) bool { return e.Ver.Seq <= st.Stable || e.Ver.Seq > st.Last }) {
				t.Errorf("state %+v, %v", st, err)
				return
			}
			if n := s.Stats().TailEntries; n > regions*2 {
				t.Errorf("%d entries in the tail", n)
				return
			}
		}
	})
	wg.Wait()
	ended.Store(true)
	readers.Wait()
	if st := stateOf(t, s, v); st.Last != writes || st.Stable != writes-1 {
		t.Errorf("state %+v", st)
	}
}

// TestFailedOpLeavesNoNote: an op that fails, because its data can't be written or
// the page of a region that it voids can't be read, changes no state and keeps
// nothing of what it had claimed.
func TestFailedOpLeavesNoNote(t *testing.T) {
	mem := sim.New(16<<20, sim.Options{NoTrace: true})
	if err := Format(mem, testFormat()); err != nil {
		t.Fatal(err)
	}
	d := &failing{Disk: mem, pick: func(*disk.IO) error { return nil }}
	s := openTest(t, d)
	v, _ := s.OpenVolume(VolumeID{7})
	if err := write(s, v, 0, fill(2*ChunkBytes, 1)); err != nil {
		t.Fatal(err)
	}
	if err := write(s, v, SpanBytes, fill(BlockBytes, 1)); err != nil {
		t.Fatal(err)
	}
	if err := clearNoted(s, v, 5, Note{Tail: true, Fence: 2}); err != nil {
		t.Fatal(err)
	}
	want := stateOf(t, s, v)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, d) // pages are on disk only
	v, _ = s.OpenVolume(VolumeID{7})
	vers := make([]Version, 2)
	if err := s.Versions(v, 0, vers); err != nil {
		t.Fatal(err)
	}
	p := v.exts[0].pages[0]
	note := Note{Tail: true, Stable: 3, Fence: 9, Void: []int64{ChunkBytes}}
	for what, c := range map[string]struct {
		op   *Op
		fail func(*disk.IO) bool
		want error
	}{
		"data": {&Op{Kind: OpWrite, Len: ChunkBytes, Data: [][]byte{fill(ChunkBytes, 2)}},
			func(io *disk.IO) bool { return io.Op == disk.Write && io.Off >= s.sb.dataOff }, blockdev.ErrIO},
		"page of a void, clear": {&Op{Kind: OpClear, Len: ChunkBytes},
			func(io *disk.IO) bool { return io.Op == disk.Read && io.Off < s.sb.logOff }, blockdev.ErrMedium},
		"page of a void, write": {&Op{Kind: OpWrite, Len: BlockBytes, Data: [][]byte{fill(BlockBytes, 2)}},
			func(io *disk.IO) bool { return io.Op == disk.Read && io.Off < s.sb.logOff }, blockdev.ErrMedium},
	} {
		op, n := c.op, note
		if c.want == blockdev.ErrMedium {
			n.Void = append(slices.Clone(n.Void), SpanBytes)
		}
		op.Vol, op.Ver, op.Note = v, Version{2, 8}, &n
		d.pick = func(io *disk.IO) error {
			if c.fail(io) {
				return syscall.EIO
			}
			return nil
		}
		if err := s.wait(op); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		d.pick = func(*disk.IO) error { return nil }
		if got := stateOf(t, s, v); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: state %+v, want %+v", what, got, want)
		}
		got := make([]Version, 2)
		if err := s.Versions(v, 0, got); err != nil || !slices.Equal(got, vers) {
			t.Errorf("%s: versions %v, want %v, %v", what, got, vers, err)
		}
		if p.pins.Load() != 0 || p.clears != 0 || v.notes.pending != 0 || s.mu.alloc.reserved != 0 {
			t.Errorf("%s: %d pins, %d clears, %d places in the tail, %d chunks kept", what, p.pins.Load(), p.clears, v.notes.pending, s.mu.alloc.reserved)
		}
	}
	if err := clearNoted(s, v, 8, note); err != nil {
		t.Errorf("the next op: %v", err)
	}
}
