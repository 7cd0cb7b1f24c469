package director

import (
	"testing"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pulse"
)

// decided is what a term that has heard these nodes proposes about moves, by volume.
func decided(t *testing.T, s *catalog.State, rebuildAfter time.Duration, at time.Duration, nodes ...int) map[catalog.ID]*catalogpb.Command {
	t.Helper()
	start := clock.Mono(time.Hour)
	term := newTerm(7, nodeID(1).String(), pulse.Defaults, start)
	term.rebuildAfter = rebuildAfter
	out := map[catalog.ID]*catalogpb.Command{}
	for now := start; now <= start.Add(at); now = now.Add(pulse.Defaults.Every) {
		for _, n := range nodes {
			term.life(now, nodeID(n).String(), &blockdv1.PulseRequest{Incarnation: 1})
		}
		for _, p := range term.look(now, time.Now(), s).proposals {
			if id := p.cmd.GetStartMoves().GetVolume(); id != nil {
				out[catalog.ID(id)] = p.cmd
			}
			if id := p.cmd.GetCancelMoves().GetVolume(); id != nil {
				out[catalog.ID(id)] = p.cmd
			}
		}
	}
	return out
}

// Volumes that nobody serves for long don't hold up the others, and nothing of them begins to move.
func TestOnlyWhatIsServedMoves(t *testing.T) {
	s := build(t, nodesAndPool(5)...)
	for v := 1; v <= movingMax+1; v++ {
		s = apply(t, s, volumeCmd(v, 1), allocateCmd(v, 1, 2, 3), grantCmd(v, 5, 0), startMovesCmd(v, 0, 1, 4))
	}
	s = apply(t, s, volumeCmd(20, 1), allocateCmd(20, 1, 2, 3), grantCmd(20, 1, 0),
		volumeCmd(21, 1), allocateCmd(21, 1, 2, 3), grantCmd(21, 5, 0), diskStateCmd(3, catalog.DiskFailed))
	got := decided(t, s, time.Hour, unservedAfter+2*time.Second, 1, 2, 3, 4)
	if early := decided(t, s, time.Hour, unservedAfter/2, 1, 2, 3, 4); len(early) > 0 {
		t.Errorf("while owners may only be changing: %v", early)
	}
	m := got[volumeID(20)].GetStartMoves().GetMoves()
	if len(got) != 1 || len(m) != 1 || m[0].GetFrom() != 3 || m[0].GetTo() != 4 {
		t.Errorf("%v", got)
	}
}

// Extents that move to a disk that gets none any more stay; a node that is away for a
// short time is waited for.
func TestMovesAreCanceled(t *testing.T) {
	s := apply(t, build(t, nodesAndPool(4)...), volumeCmd(1, 2), allocateCmd(1, 1, 2, 3, 1, 2, 3), grantCmd(1, 1, 0), startMovesCmd(1, 0, 1, 4))
	for _, c := range []struct {
		what   string
		s      *catalog.State
		at     time.Duration
		nodes  []int
		cancel bool
	}{
		{"nothing is wrong", s, 2 * time.Second, []int{1, 2, 3, 4}, false},
		{"the disk drains", apply(t, s, diskStateCmd(4, catalog.DiskDraining)), 2 * time.Second, []int{1, 2, 3, 4}, true},
		{"the disk has failed", apply(t, s, diskStateCmd(4, catalog.DiskFailed)), 2 * time.Second, []int{1, 2, 3, 4}, true},
		{"the disk has failed, and its rebuild was canceled", apply(t, s, diskStateCmd(4, catalog.DiskFailed), jobCmd(1, JobRebuild, diskID(4).String()), jobStateCmd(1, catalog.JobCanceled)),
			2 * time.Second, []int{1, 2, 3, 4}, true},
		{"its node is away", s, cancelAfter / 2, []int{1, 2, 3}, false},
		{"its node is away for long", s, 2 * cancelAfter, []int{1, 2, 3}, true},
		{"the disk that they leave is away", s, 2 * cancelAfter, []int{2, 3, 4}, false},
	} {
		got := decided(t, c.s, time.Hour, c.at, c.nodes...)
		if cmd := got[volumeID(1)].GetCancelMoves(); (cmd != nil) != c.cancel || cmd != nil && cmd.GetDisk() != 4 || len(got) > 1 {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
