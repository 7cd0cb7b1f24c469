package director

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/placement"
)

// simRebuildAfter is longer than any node is away in TestSimulation, so nothing
// is replaced there.
const simRebuildAfter = 5 * time.Second

// own does for the volumes that the node holds what their owners do: they say which
// copies are lost, make those good that can be, and copy the extents that move, each in its
// time. One that finds that the volume is on other disks gives its lease back.
func (n *simNode) own(ctx context.Context) {
	w := n.w
	for pause(ctx, 50*time.Millisecond+w.upTo(50*time.Millisecond)) {
		s := n.cat.State()
		w.mu.Lock()
		var held []catalog.ID
		for v, l := range n.leases {
			if e, _ := s.Lease(v); e.Epoch == l.Epoch && l.Valid(n.Now()) {
				held = append(held, v)
			}
		}
		w.mu.Unlock()
		for _, v := range held {
			e, _ := s.Lease(v)
			if vol := s.VolumeByID(v); vol == nil || e.Epoch <= vol.EndedIn() {
				n.Recalled(v)
				continue
			}
			n.finish(ctx, s, v, e.Epoch)
			for _, r := range s.Replicas(v) {
				change := w.changeOf(s, r)
				if change == 0 {
					continue
				}
				_, _ = n.cat.DoContext(ctx, command(func(c *catalogpb.Command) { // it is looked at again
					c.Kind = &catalogpb.Command_MarkReplica{MarkReplica: &catalogpb.MarkReplica{Volume: v[:], Epoch: e.Epoch, Disk: uint32(r.Disk), Generation: r.Generation, Change: change}}
				}))
			}
		}
	}
}

// finish says of the extents that move, now and then, that they are where they move to.
func (n *simNode) finish(ctx context.Context, s *catalog.State, v catalog.ID, epoch uint64) {
	m := s.Map().Volume(extmap.VolumeID(v))
	if m == nil {
		return
	}
	var to []extmap.Disk
	for move := range m.Moves() {
		if !slices.Contains(to, move.To) {
			to = append(to, move.To)
		}
	}
	for _, d := range to {
		n.w.mu.Lock()
		there := !n.w.nodes[n.w.nodeOf(d)].dead && m.Sync(d).State == extmap.InSync && n.w.rng.IntN(5) == 0
		n.w.mu.Unlock()
		if there {
			_, _ = n.cat.DoContext(ctx, command(func(c *catalogpb.Command) { // it is looked at again
				c.Kind = &catalogpb.Command_FinishMoves{FinishMoves: &catalogpb.FinishMoves{Volume: v[:], Epoch: epoch, Disk: uint32(d), Generation: m.Sync(d).Generation}}
			}))
		}
	}
}

// nodeOf is the place in w.nodes of the node of a disk: each has w.disks of them, registered
// one after the other.
func (w *world) nodeOf(d extmap.Disk) int { return (int(d) - 1) / max(1, w.disks) }

// changeOf is what an owner would have of a copy now, or 0.
func (w *world) changeOf(s *catalog.State, r catalog.Replica) catalogpb.ReplicaChange {
	w.mu.Lock()
	defer w.mu.Unlock()
	dead := w.nodes[s.NodeByID(r.Node).Number-1].dead
	switch {
	case dead && r.Sync == extmap.InSync:
		return catalogpb.ReplicaChange_REPLICA_CHANGE_OUT
	case !dead && r.Sync == extmap.OutOfSync:
		return catalogpb.ReplicaChange_REPLICA_CHANGE_REBUILDING
	case !dead && r.Sync == extmap.Rebuilding && w.rng.IntN(5) == 0:
		return catalogpb.ReplicaChange_REPLICA_CHANGE_IN
	}
	return 0
}

// judgeMoves says when a move costs an extent a good copy, and when there are more at a
// time than there should be. The caller has w.mu.
func (w *world) judgeMoves(before, after *catalog.State, data []byte) {
	cmd := &catalogpb.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		panic(err)
	}
	if before.Revision == after.Revision {
		return
	}
	var volume []byte
	switch {
	case cmd.GetStartMoves() != nil:
		volume = cmd.GetStartMoves().GetVolume()
		w.started += len(cmd.GetStartMoves().GetMoves())
	case cmd.GetFinishMoves() != nil:
		volume = cmd.GetFinishMoves().GetVolume()
		w.finished++
	case cmd.GetCancelMoves() != nil:
		volume = cmd.GetCancelMoves().GetVolume()
		w.canceled++
	default:
		return
	}
	id := catalog.ID(volume)
	was, is := before.Map().Volume(extmap.VolumeID(id)), after.Map().Volume(extmap.VolumeID(id))
	for i := range is.Layout().Extents() {
		if a, b := good(was, i), good(is, i); b < a {
			w.violation = fmt.Sprintf("extent %d of volume %s had %d good copies, and has %d after %v", i, id, a, b, cmd)
		}
	}
	busy := 0
	for _, m := range after.Map().Volumes() {
		moving := false
		for range m.Moves() {
			moving = true
		}
		if moving {
			busy++
		}
	}
	if busy > movingMax {
		w.violation = fmt.Sprintf("extents of %d volumes move at a time", busy)
	}
}

func good(m *extmap.Volume, extent uint32) (n int) {
	e, _ := m.Extent(extent)
	for _, d := range e.Disks {
		if m.Sync(d).State == extmap.InSync {
			n++
		}
	}
	return n
}

// copiesLeft is what is wrong with the copies while disks must have none, unless
// no other may take their place.
func (w *world) copiesLeft(from ...extmap.Disk) string {
	s := w.truth.State()
	leaving := func(d extmap.Disk) bool { return slices.Contains(from, d) }
	for id, m := range s.Map().Volumes() {
		for _, d := range m.Disks() {
			if !leaving(d) && m.Sync(d).State != extmap.InSync {
				return fmt.Sprintf("volume %x is %v on disk %d", id, m.Sync(d), d)
			}
		}
		for move := range m.Moves() {
			return fmt.Sprintf("volume %x has %+v", id, move)
		}
		c, err := Cluster(s, "p", func(node string) bool { return !w.nodes[nodeNumber(s, node)-1].dead })
		if err != nil {
			panic(err)
		}
		if moves, _ := c.Evacuate(m, leaving, batch); len(moves) > 0 {
			return fmt.Sprintf("volume %x could have %+v", id, moves[0])
		}
	}
	return ""
}

func nodeNumber(s *catalog.State, id string) uint16 {
	node, _ := catalog.ParseID(id)
	return s.NodeByID(node).Number
}

// insist does a command, again and again for half a minute.
func (w *world) insist(cmd *catalogpb.Command) {
	var err error
	for range 3000 {
		if err = w.do(cmd); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // sleep: simulated time
	}
	w.t.Fatalf("%v: %v", cmd, err)
}

const (
	lossNodes   = 6 // the last one has nothing at first
	lossVolumes = 10
)

// simulateLoss loses one of five nodes for good. It returns what is wrong then, or "".
func simulateLoss(t *testing.T, seed uint64) string {
	w, end := begin(t, seed, &world{owners: true}, lossNodes)
	defer end()
	for _, cmd := range nodesAndPool(lossNodes) {
		w.insist(cmd)
	}
	w.insist(diskStateCmd(lossNodes, catalog.DiskDrained))
	for v := 1; v <= lossVolumes; v++ {
		w.insist(volumeCmd(v, 1+int64(v%3)))
	}
	time.Sleep(5 * time.Second) // sleep: simulated time
	lost := 1 + int(w.upTo(lossNodes-1))
	w.nodes[lost-1].kill()
	time.Sleep(30 * time.Second) // sleep: simulated time, in which messages are lost
	w.deposeLeader()             // another goes on with what this one has begun
	if bad := w.broken(); bad != "" {
		return bad
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	time.Sleep(20 * time.Second) // sleep: simulated time
	if bad := w.copiesLeft(extmap.Disk(lost)); bad != "" {
		return bad
	}
	if n := w.truth.State().Map().Used(extmap.Disk(lost)); n > 0 {
		return fmt.Sprintf("%d extents are on the lost disk", n)
	}

	if bad := jobDone(w.truth.State(), JobRebuild, lost); bad != "" {
		return bad
	}

	// A disk that has nothing gets nothing by itself, and its share when that is asked for.
	w.insist(diskStateCmd(lossNodes, catalog.DiskActive))
	time.Sleep(10 * time.Second) // sleep: simulated time
	if n := w.truth.State().Map().Used(lossNodes); n > 0 {
		return fmt.Sprintf("%d extents went to a new disk, and nobody has asked for it", n)
	}
	w.insist(jobCmd(9, JobRebalance, RebalanceSubject))
	time.Sleep(30 * time.Second) // sleep: simulated time
	if bad := w.uneven(lost); bad != "" {
		return bad
	}

	// A node that is up is emptied by a job, and a disk without one.
	empty, disk := 1+lost%(lossNodes-1), 1+(lost+1)%(lossNodes-1)
	w.insist(jobCmd(1, JobRemove, nodeName(empty)))
	time.Sleep(60 * time.Second) // sleep: simulated time
	s := w.truth.State()
	if j := s.Job(testID(5, 1)); j.State != catalog.JobDone || s.Node(nodeName(empty)).State != catalog.NodeDrained {
		return fmt.Sprintf("the node is %s, the job %+v", s.Node(nodeName(empty)).State, j)
	}
	w.insist(nodeStateCmd(empty, catalog.NodeActive))
	w.insist(diskStateCmd(disk, catalog.DiskDraining))
	time.Sleep(60 * time.Second) // sleep: simulated time
	s = w.truth.State()
	if d := s.DiskByID(diskID(disk)); d.State != catalog.DiskDrained || s.Map().Used(d.Number) > 0 {
		return fmt.Sprintf("disk %d is %s with %d extents", disk, d.State, s.Map().Used(d.Number))
	}
	if bad := jobDone(s, JobDrainDisk, disk); bad != "" {
		return bad
	}
	t.Logf("seed %d: node %d lost, %d moves started, %d times finished and %d canceled, %d commands", seed, lost, w.started, w.finished, w.canceled, len(w.committed))
	if bad := w.broken(); bad != "" {
		return bad
	}
	return w.judge()
}

// jobDone is what is wrong with the only job of a kind about the disk of a node, or "". There may be
// none: proposals are lost, and the little that is on these disks can be gone before the next one.
func jobDone(s *catalog.State, kind string, disk int) string {
	jobs := slices.DeleteFunc(slices.Clone(s.Jobs), func(j catalog.Job) bool { return j.Kind != kind || j.Subject != diskID(disk).String() })
	if len(jobs) == 0 {
		return ""
	}
	if len(jobs) != 1 || jobs[0].State != catalog.JobDone || jobs[0].StepsDone != jobs[0].StepsTotal || jobs[0].StepsTotal == 0 {
		return fmt.Sprintf("disk %d has the jobs %+v", disk, jobs)
	}
	return ""
}

// uneven is what is wrong after a JobRebalance, or "".
func (w *world) uneven(dead int) string {
	s := w.truth.State()
	alive := func(node string) bool { return nodeNumber(s, node) != uint16(dead) }
	if j := s.Job(testID(5, 9)); j.State != catalog.JobDone || j.StepsDone != j.StepsTotal {
		return fmt.Sprintf("the job is %+v, to move: %+v", j, PlanRebalance(s, alive))
	}
	if left := PlanRebalance(s, alive); len(left) > 0 || s.Map().Used(lossNodes) == 0 {
		return fmt.Sprintf("%d extents are on the new disk, and there is left to move: %+v", s.Map().Used(lossNodes), left)
	}
	return ""
}

// When a node is lost for good its copies are made anew elsewhere, a few volumes at
// a time, and never at the price of a good one; so when a node or a disk is emptied.
func TestSimulationOfLoss(t *testing.T) {
	for seed := uint64(1); seed <= lossSeeds; seed++ {
		synctest.Test(t, func(t *testing.T) {
			if bad := simulateLoss(t, seed); bad != "" {
				t.Errorf("seed %d: %s", seed, bad)
			}
		})
	}
}

// What is chosen, of what there is, and why nothing is.
func TestMovesInWords(t *testing.T) {
	s := apply(t, build(t, nodesAndPool(4)...), volumeCmd(1, 2), allocateCmd(1, 1, 2, 3, 1, 2, 4))
	all := func(string) bool { return true }
	plan := func(s *catalog.State, alive func(string) bool, from extmap.Disk) ([]extmap.Move, error) {
		c, err := Cluster(s, "p", alive)
		if err != nil {
			t.Fatal(err)
		}
		return c.Evacuate(s.Map().Volume(extmap.VolumeID(volumeID(1))), func(d extmap.Disk) bool { return d == from }, batch)
	}
	if moves, err := plan(s, all, 3); err != nil || !slices.Equal(moves, []extmap.Move{{Extent: 0, From: 3, To: 4}}) {
		t.Errorf("%+v, %v", moves, err)
	}
	// Both extents are on disk 1: one goes to disk 4, and the other to disk 3.
	if moves, err := plan(s, all, 1); err != nil || !slices.Equal(moves, []extmap.Move{{Extent: 0, From: 1, To: 4}, {Extent: 1, From: 1, To: 3}}) {
		t.Errorf("%+v, %v", moves, err)
	}
	out := apply(t, s, grantCmd(1, 2, 0), markCmd(1, 1, 4, 0, catalogpb.ReplicaChange_REPLICA_CHANGE_OUT))
	for _, tc := range []struct {
		s     *catalog.State
		from  extmap.Disk
		alive func(string) bool
		want  string
	}{
		{out, 3, all, "before 1 that might are in sync for the volume again"},
		{s, 3, func(node string) bool { return node != nodeID(4).String() }, "none that is up is on another host"},
	} {
		_, err := plan(tc.s, tc.alive, tc.from)
		var impossible *placement.Impossible
		if !errors.As(err, &impossible) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("disk %d: %v, want %q", tc.from, err, tc.want)
		}
	}
}
