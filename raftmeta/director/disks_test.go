package director

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// secondDisk gives node n another disk, whose number follows that of its first.
func secondDisk(n int) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_RegisterDisk{RegisterDisk: &catalogpb.RegisterDisk{Id: raw(testID(6, n)), Node: raw(nodeID(n)), Path: "/e", CapacityBytes: 1 << 40}}
	})
}

// usedOf are the extents on each disk, by number.
func usedOf(s *catalog.State) (used []uint32) {
	for i := range s.Disks {
		used = append(used, s.Map().Used(s.Disks[i].Number))
	}
	return used
}

// deposeLeader has another node lead, if one does.
func (w *world) deposeLeader() {
	w.mu.Lock()
	leader := w.leader
	w.mu.Unlock()
	if leader != nil {
		w.depose(leader)
	}
}

const diskVolumes = 9

// simulateDisks is three nodes of two disks, all of which have extents of all volumes. It
// returns what is wrong, or "".
func simulateDisks(t *testing.T, seed uint64) string {
	w, end := begin(t, seed, &world{owners: true, disks: 2}, 4)
	defer end()
	w.insist(initCmd())
	add := func(n int) {
		for _, cmd := range append(nodeCmds(n, fmt.Sprintf("127.0.0.1:%d", n)), secondDisk(n)) {
			w.insist(cmd)
		}
	}
	for n := 1; n <= 3; n++ {
		add(n)
	}
	w.insist(poolCmd(3))
	for v := 1; v <= diskVolumes; v++ {
		w.insist(volumeCmd(v, 8))
	}
	time.Sleep(5 * time.Second) // sleep: simulated time
	if used := usedOf(w.truth.State()); fmt.Sprint(used) != "[36 36 36 36 36 36]" {
		return fmt.Sprintf("at first, the disks have %d", used)
	}

	// One fails, while messages are lost and leaders change.
	w.insist(diskStateCmd(1, catalog.DiskFailed))
	for range 3 {
		time.Sleep(3 * time.Second) // sleep: simulated time
		w.deposeLeader()
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	time.Sleep(20 * time.Second) // sleep: simulated time
	s := w.truth.State()
	if used := usedOf(s); fmt.Sprint(used) != "[0 72 36 36 36 36]" {
		return fmt.Sprintf("a disk has failed, and they have %d; %s", used, w.copiesLeft(1))
	}

	// With another node, nothing moves before that is asked for; then no more than it takes.
	add(4)
	time.Sleep(10 * time.Second) // sleep: simulated time
	w.mu.Lock()
	started := w.started
	w.mu.Unlock()
	if used := usedOf(w.truth.State()); fmt.Sprint(used) != "[0 72 36 36 36 36 0 0]" {
		return fmt.Sprintf("by itself, it became %d", used)
	}
	least := 0
	for _, m := range PlanRebalance(w.truth.State(), func(string) bool { return true }) {
		least += m.Extents
	}
	w.insist(jobCmd(1, JobRebalance, RebalanceSubject))
	if w.movesTo() == nil {
		return "the job moves nothing"
	}
	w.deposeLeader()
	// Paused it begins nothing, and what is on the move arrives.
	w.insist(jobStateCmd(1, catalog.JobPaused))
	time.Sleep(10 * time.Second) // sleep: simulated time
	for id, m := range w.truth.State().Map().Volumes() {
		for move := range m.Moves() {
			return fmt.Sprintf("the job is paused, and volume %x has %+v", id, move)
		}
	}
	if left := PlanRebalance(w.truth.State(), func(string) bool { return true }); len(left) == 0 {
		return "the job went on while it was paused"
	}
	w.insist(jobStateCmd(1, catalog.JobRunning))
	time.Sleep(30 * time.Second) // sleep: simulated time
	s = w.truth.State()
	j := s.Job(testID(5, 1))
	if j.State != catalog.JobDone || j.StepsTotal == 0 || j.StepsDone != j.StepsTotal {
		return fmt.Sprintf("the job is %+v, the disks have %d", j, usedOf(s))
	}
	w.mu.Lock()
	moved := w.started - started
	w.mu.Unlock()
	// Seven disks share 216 extents.
	for d, used := range usedOf(s) {
		if share := 216 / 7; d > 0 && (int(used) < share-2 || int(used) > share+3) {
			return fmt.Sprintf("after the job, the disks have %d", usedOf(s))
		}
	}
	if moved > least+least/10 {
		return fmt.Sprintf("%d moves were started, and %d would have done", moved, least)
	}

	// A disk is drained, and its node's other one and the new node's take what it has.
	w.insist(diskStateCmd(2, catalog.DiskDraining))
	time.Sleep(30 * time.Second) // sleep: simulated time
	if d := w.truth.State().DiskByID(diskID(2)); d.State != catalog.DiskDrained || w.truth.State().Map().Used(d.Number) > 0 {
		return fmt.Sprintf("disk %d is %s, the disks have %d", d.Number, d.State, usedOf(w.truth.State()))
	}

	// Extents that move to a node which dies go elsewhere.
	w.insist(diskStateCmd(3, catalog.DiskDraining))
	dead := w.movesTo()
	if dead == nil {
		return "nothing began to move"
	}
	dead.kill()
	time.Sleep(60 * time.Second) // sleep: simulated time
	t.Logf("seed %d: %d moves started, %d times finished and %d canceled; the rebalance moved %d", seed, w.started, w.finished, w.canceled, moved)
	if bad := w.copiesLeft(extmap.Disk(2*dead.number-1), extmap.Disk(2*dead.number), 5); bad != "" {
		return bad
	}
	if bad := w.broken(); bad != "" {
		return bad
	}
	return w.judge()
}

// movesTo waits for extents that move, and returns the node that they move to.
func (w *world) movesTo() *simNode {
	for range 1000 {
		for _, m := range w.truth.State().Map().Volumes() {
			for move := range m.Moves() {
				return w.nodes[w.nodeOf(move.To)]
			}
		}
		time.Sleep(10 * time.Millisecond) // sleep: simulated time
	}
	return nil
}

func jobStateCmd(n int, to catalog.JobState) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetJobState{SetJobState: &catalogpb.SetJobState{Id: raw(testID(5, n)), State: string(to)}}
	})
}

// Disks fail, come and go where all have extents of all volumes; leaders change in the middle.
func TestSimulationOfDisks(t *testing.T) {
	for seed := uint64(1); seed <= diskSeeds; seed++ {
		synctest.Test(t, func(t *testing.T) {
			if bad := simulateDisks(t, seed); bad != "" {
				t.Errorf("seed %d: %s", seed, bad)
			}
		})
	}
}
