package catalog

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

func startMovesCmd(volume, extent, from, to uint32, more ...uint32) *catalogpb.Command {
	all := append([]uint32{extent, from, to}, more...)
	return at(0, func(c *catalogpb.Command) {
		start := &catalogpb.StartMoves{Volume: testID(volume)}
		for m := range slices.Chunk(all, 3) {
			start.Moves = append(start.Moves, &catalogpb.Move{Extent: m[0], From: m[1], To: m[2]})
		}
		c.Kind = &catalogpb.Command_StartMoves{StartMoves: start}
	})
}

func finishMovesCmd(volume uint32, epoch uint64, disk uint32, generation uint64) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_FinishMoves{FinishMoves: &catalogpb.FinishMoves{Volume: testID(volume), Epoch: epoch, Disk: disk, Generation: generation}}
	})
}

func cancelMovesCmd(volume, disk uint32) *catalogpb.Command {
	return at(0, func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_CancelMoves{CancelMoves: &catalogpb.CancelMoves{Volume: testID(volume), Disk: disk}}
	})
}

// five is three with a fourth node, whose disk is 4, and a second disk of the first, 5.
func five(t testing.TB) *State {
	return mustApply(t, three(t), tokenCmd(0, 4, 3600), admitCmd(1, 4, nodeMsg(104, "n4")), diskCmd(204, 104), diskCmd(205, 101))
}

// Extents move to disks that may have them, and the owner that began after that
// says when they are there.
func TestMoves(t *testing.T) {
	s, id := five(t), testingID(60)
	refusedWith(t, s, startMovesCmd(77, 0, 3, 4), ErrNotFound, "no volume")
	refusedWith(t, s, startMovesCmd(10, 0, 3, 4), ErrConflict, "lives on one disk")
	refusedWith(t, s, startMovesCmd(60, 0, 3, 1<<16+4), ErrInvalid, "want 1 to")
	refusedWith(t, s, startMovesCmd(60, 9, 3, 4), ErrConflict, "has 3 extents")
	refusedWith(t, s, startMovesCmd(60, 0, 4, 5), ErrConflict, "its disks are")
	refusedWith(t, s, startMovesCmd(60, 0, 3, 5), ErrConflict, "one failure domain")
	refusedWith(t, s, startMovesCmd(60, 0, 3, 4, 0, 1, 5), ErrConflict, "is being moved")
	refusedWith(t, mustApply(t, s, diskStateCmd(204, "draining")), startMovesCmd(60, 0, 3, 4), ErrConflict, "disk 4")
	refusedWith(t, mustApply(t, s, nodeStateCmd("n4", "held")), startMovesCmd(60, 0, 3, 4), ErrConflict, "disk 4")
	refusedWith(t, s, finishMovesCmd(60, 1, 4, 0), ErrConflict, "no extent of volume")
	refusedWith(t, s, cancelMovesCmd(60, 4), ErrConflict, "no extent of volume")
	empty := startMovesCmd(60, 0, 3, 4)
	empty.GetStartMoves().Moves = nil
	refusedWith(t, s, empty, ErrInvalid, "no extent")

	audits := len(s.Audits)
	s = mustApply(t, s, startMovesCmd(60, 0, 3, 4, 1, 1, 5, 2, 2, 4))
	refusedWith(t, s, startMovesCmd(60, 0, 3, 4), ErrConflict, "moved already")
	// The disks are the same as before, and those that extents come to are taken.
	if e, _ := s.Map().Volume(id).Extent(0); !slices.Equal(e.Disks, []extmap.Disk{1, 2, 3}) || e.To != 4 || s.ReplicasOn(testingID(104)) != 1 {
		t.Errorf("%+v", e)
	}
	refusedWith(t, s, removeDiskCmd(204, true), ErrConflict, "other disks must have first")
	// The owner of before does not write there, and has no say any more.
	refusedWith(t, s, finishMovesCmd(60, 1, 4, 0), ErrConflict, "its owner began before")
	refusedWith(t, s, markCmd(60, 1, 1, 0, toKept), ErrConflict, "begins anew")
	s = mustApply(t, s, releaseCmd(60, 101, 7, 1), grantCmd(60, 102, 1, 1))
	refusedWith(t, s, finishMovesCmd(60, 1, 4, 0), ErrConflict, "at epoch 2")
	refusedWith(t, s, finishMovesCmd(60, 2, 4, 1), ErrConflict, "now it is 0")
	refusedWith(t, mustApply(t, s, markCmd(60, 2, 4, 0, toOut)), finishMovesCmd(60, 2, 4, 1), ErrConflict, "not in sync")
	s = mustApply(t, s, markCmd(60, 2, 3, 0, toOut))

	// It finishes one disk after the other, and marks nothing in between.
	s = mustApply(t, s, finishMovesCmd(60, 2, 4, 0))
	refusedWith(t, s, finishMovesCmd(60, 2, 4, 0), ErrConflict, "no extent of volume")
	refusedWith(t, s, markCmd(60, 2, 3, 1, toRebuilding), ErrConflict, "begins anew")
	part := s
	last := finishMovesCmd(60, 2, 5, 0)
	last.GetFinishMoves().Proof, last.Version = 12, CommandVersion
	s = mustApply(t, s, last)
	if r := s.Map().Volume(id).Sync(5); r != (extmap.Sync{Disk: 5, Proof: 12}) {
		t.Errorf("%+v", r)
	}
	want := [][]extmap.Disk{{1, 2, 4}, {2, 3, 5}, {3, 1, 4}}
	for i, set := range want {
		if e, _ := s.Map().Volume(id).Extent(uint32(i)); !slices.Equal(e.Disks, set) || e.To != 0 {
			t.Errorf("extent %d is on %d, want %d", i, e.Disks, set)
		}
	}
	if v := s.Volume("v"); v.ReplacedIn != 1 || v.MovedIn != 2 || v.EndedIn() != 2 || len(s.Audits) != audits {
		t.Errorf("%+v, %d more audits", v, len(s.Audits)-audits)
	}
	back, err := ReadState(pipe(t, s))
	if err != nil || *back.Volume("v") != *s.Volume("v") || back.Hash() != s.Hash() {
		t.Fatal(err)
	}
	mustApply(t, s, releaseCmd(60, 102, 1, 2), grantCmd(60, 102, 1, 2), markCmd(60, 3, 3, 1, toRebuilding))

	// What is canceled stays where it is.
	s = mustApply(t, part, cancelMovesCmd(60, 5))
	refusedWith(t, s, cancelMovesCmd(60, 5), ErrConflict, "no extent of volume")
	if e, _ := s.Map().Volume(id).Extent(1); !slices.Equal(e.Disks, []extmap.Disk{2, 3, 1}) || s.Volume("v").ReplacedIn != 2 || s.Check() != 0 {
		t.Errorf("%+v", e)
	}
	// Moves end with their volume, and a disk that got nothing has nothing.
	s = mustApply(t, part, retireCmd("v"))
	if s.Map().Used(5) != 0 || s.Check() != 0 {
		t.Error(s.Map().Used(5))
	}
}

// apart fails unless each extent is on disks of different nodes: 1 and 5 are of one.
func apart(t *rapid.T, v *extmap.Volume) {
	for i := range v.Layout().Extents() {
		e, ok := v.Extent(i)
		sorted := slices.Sorted(slices.Values(e.Disks))
		if ok && (len(slices.Compact(sorted)) != 3 || slices.Contains(e.Disks, 1) && slices.Contains(e.Disks, 5)) {
			t.Fatalf("extent %d is on %d", i, e.Disks)
		}
	}
}
