package director

import (
	"context"
	"errors"
	"fmt"
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
// copies are lost, and make those good that can be, each in its time. One that finds that a
// disk has taken the place of another gives its lease back.
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
			if vol := s.VolumeByID(v); vol == nil || e.Epoch <= vol.ReplacedIn {
				n.Recalled(v)
				continue
			}
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

// judgeReplacement says when a replacement costs an extent a copy that writes need,
// or when there are more at a time than there should be. The caller has w.mu.
func (w *world) judgeReplacement(before, after *catalog.State, data []byte) {
	cmd := &catalogpb.Command{}
	if err := proto.Unmarshal(data, cmd); err != nil {
		panic(err)
	}
	if cmd.GetReplaceReplica() == nil || before.Revision == after.Revision {
		return
	}
	id := catalog.ID(cmd.GetReplaceReplica().GetVolume())
	w.replaced++
	was, is := before.Map().Volume(extmap.VolumeID(id)), after.Map().Volume(extmap.VolumeID(id))
	for i := range is.Layout().Extents() {
		if a, b := good(was, i), good(is, i); b < min(a, 2) {
			w.violation = fmt.Sprintf("extent %d of volume %s had %d good copies, and has %d when a disk takes the place of another", i, id, a, b)
		}
	}
	busy := 0
	for _, m := range after.Map().Volumes() {
		for _, d := range m.Disks() {
			if m.Sync(d).State != extmap.InSync && !w.nodes[d-1].dead {
				busy++
				break
			}
		}
	}
	if busy > replacementsMax {
		w.violation = fmt.Sprintf("%d volumes get copies at a time", busy)
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

// copiesLeft is what is wrong with the copies while a disk must have none, unless
// no other may take its place.
func (w *world) copiesLeft(from extmap.Disk) string {
	s := w.truth.State()
	for id, m := range s.Map().Volumes() {
		for _, d := range m.Disks() {
			if d != from && m.Sync(d).State != extmap.InSync {
				return fmt.Sprintf("volume %x is %v on disk %d", id, m.Sync(d), d)
			}
		}
		if m.Uses(from) == 0 {
			continue
		}
		c, err := Cluster(s, "p", func(node string) bool { return !w.nodes[nodeNumber(s, node)-1].dead })
		if err != nil {
			panic(err)
		}
		if to, err := c.Replace(m, from, 2); err == nil {
			return fmt.Sprintf("volume %x is on disk %d, and disk %d can take its place", id, from, to)
		}
	}
	return ""
}

func nodeNumber(s *catalog.State, id string) uint16 {
	node, _ := catalog.ParseID(id)
	return s.NodeByID(node).Number
}

// insist does a command until it is done.
func (w *world) insist(cmd *catalogpb.Command) {
	for w.do(cmd) != nil {
		time.Sleep(10 * time.Millisecond) // sleep: simulated time
	}
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
	if bad := w.broken(); bad != "" {
		return bad
	}
	w.mu.Lock()
	w.calm = true
	w.mu.Unlock()
	time.Sleep(20 * time.Second) // sleep: simulated time
	if bad := w.copiesLeft(extmap.Disk(lost)); bad != "" {
		return "with no spare disk, " + bad
	}
	early := w.replaced

	// A disk that has nothing can take all that is left.
	w.insist(diskStateCmd(lossNodes, catalog.DiskActive))
	time.Sleep(40 * time.Second) // sleep: simulated time
	if n := w.truth.State().Map().Used(extmap.Disk(lost)); n > 0 {
		return fmt.Sprintf("%d extents are on the lost disk: %s", n, w.copiesLeft(extmap.Disk(lost)))
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
	t.Logf("seed %d: node %d lost, %d replacements without a spare disk and %d in all, %d commands", seed, lost, early, w.replaced, len(w.committed))
	if bad := w.broken(); bad != "" {
		return bad
	}
	return w.judge()
}

// When a node is lost for good its copies are made anew elsewhere, a few volumes at
// a time, and never at the price of one that writes need; so when a node or a disk is emptied.
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
func TestReplacementsInWords(t *testing.T) {
	s := apply(t, build(t, nodesAndPool(4)...), volumeCmd(1, 2), allocateCmd(1, 1, 2, 3, 1, 2, 4))
	m := s.Map().Volume(extmap.VolumeID(volumeID(1)))
	all := func(string) bool { return true }
	c, err := Cluster(s, "p", all)
	if err != nil {
		t.Fatal(err)
	}
	if to, err := c.Replace(m, 3, 2); err != nil || to != 4 || c.Used(4) != 2 {
		t.Errorf("disk %d: %v", to, err)
	}
	// Both extents are on disk 1: one may go to disk 3, and the other to disk 4 later.
	if to, err := c.Replace(m, 1, 2); err != nil || to != 3 {
		t.Errorf("disk %d: %v", to, err)
	}
	out := apply(t, s, grantCmd(1, 2, 0), markCmd(1, 1, 1, 0, catalogpb.ReplicaChange_REPLICA_CHANGE_OUT))
	for _, tc := range []struct {
		s     *catalog.State
		from  extmap.Disk
		alive func(string) bool
		want  string
	}{
		{out, 1, all, "each of the 3 that might keeps other extents of the volume beside it"},
		{out, 2, all, "before 1 that are out of sync for the volume are in sync again"},
		{s, 3, func(node string) bool { return node != nodeID(4).String() }, "none that is up is on another host"},
	} {
		c, err := Cluster(tc.s, "p", tc.alive)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Replace(tc.s.Map().Volume(extmap.VolumeID(volumeID(1))), tc.from, 2)
		var impossible *placement.Impossible
		if !errors.As(err, &impossible) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("disk %d: %v, want %q", tc.from, err, tc.want)
		}
	}
}
