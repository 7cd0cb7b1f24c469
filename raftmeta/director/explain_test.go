package director

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
)

func grantCmd(volume, node int, epoch uint64) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_GrantLease{GrantLease: &catalogpb.GrantLease{Volume: raw(volumeID(volume)), Node: raw(nodeID(node)), Incarnation: 1, ExpectEpoch: epoch}}
	})
}

func allocateCmd(volume int, sets ...uint32) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_AllocateExtents{AllocateExtents: &catalogpb.AllocateExtents{Volume: raw(volumeID(volume)), Sets: sets}}
	})
}

func markCmd(volume int, epoch uint64, disk uint32, generation uint64, change catalogpb.ReplicaChange) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_MarkReplica{MarkReplica: &catalogpb.MarkReplica{Volume: raw(volumeID(volume)), Epoch: epoch, Disk: disk, Generation: generation, Change: change}}
	})
}

func startMovesCmd(volume int, extent, from, to uint32) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_StartMoves{StartMoves: &catalogpb.StartMoves{Volume: raw(volumeID(volume)), Moves: []*catalogpb.Move{{Extent: extent, From: from, To: to}}}}
	})
}

func growCmd(volume int, extents int64) *catalogpb.Command {
	return command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_ResizeVolume{ResizeVolume: &catalogpb.ResizeVolume{Name: fmt.Sprintf("v%d", volume), SizeBytes: extents << 26}}
	})
}

func up(nodes ...int) (out []pulse.NodeView) {
	for _, n := range nodes {
		out = append(out, pulse.NodeView{Node: nodeID(n).String(), State: membership.Up, Incarnation: 1})
	}
	return out
}

func down(n int) pulse.NodeView {
	return pulse.NodeView{Node: nodeID(n).String(), State: membership.Down, Reason: "nothing heard for 10s", Since: time.Unix(1_800_000_000, 0)}
}

// What an operator reads, for the ways in which a volume can be.
func TestExplain(t *testing.T) {
	base := apply(t, build(t, nodesAndPool(3)...), volumeCmd(1, 1))
	disks := func(s *catalog.State) (d []uint32) {
		for i := range s.Disks {
			d = append(d, uint32(s.Disks[i].Number))
		}
		return d
	}
	placed := apply(t, base, allocateCmd(1, disks(base)...))
	served := apply(t, placed, grantCmd(1, 1, 0))
	third := served.DiskByID(diskID(3)).Number
	second := served.DiskByID(diskID(2)).Number
	out := apply(t, served, markCmd(1, 1, uint32(third), 0, catalogpb.ReplicaChange_REPLICA_CHANGE_OUT))
	rebuilding := apply(t, out, markCmd(1, 1, uint32(third), 1, catalogpb.ReplicaChange_REPLICA_CHANGE_REBUILDING))
	alone := apply(t, out, markCmd(1, 1, uint32(second), 0, catalogpb.ReplicaChange_REPLICA_CHANGE_OUT))
	if alone.Map().Volume(extmap.VolumeID(volumeID(1))).Sync(second).State != extmap.OutOfSync {
		t.Fatal("the disk is not out of sync")
	}
	four := apply(t, build(t, nodesAndPool(4)...), volumeCmd(1, 1), allocateCmd(1, 1, 2, 3), grantCmd(1, 1, 0))
	failed := apply(t, four, diskStateCmd(2, catalog.DiskFailed))
	for _, c := range []struct {
		name    string
		state   *catalog.State
		members []pulse.NodeView
		want    Health
		words   []string
	}{
		{"new, and too few nodes", base, append(up(1, 2), down(3)), Stuck, []string{"1 of its 1 extents have no disks yet", "need 3 different hosts", "no node serves it yet"}},
		{"new", base, up(1, 2, 3), Starting, []string{"they get disks now"}},
		{"placed", placed, up(1, 2, 3), Starting, []string{"no node serves it yet", "chooses one; hosts wait until then"}},
		{"asked of a node that has just started", served, nil, Starting, []string{"has not heard yet", "n1, n2, n3", "ask again"}},
		{"new, and others have just joined", base, up(1), Starting, []string{"has not heard yet how these nodes are: n2, n3", "ask again"}},
		{"served, and others have just joined", served, up(1), Starting, []string{"has not heard yet how these nodes are: n2, n3"}},
		{"a node has just joined that makes no difference", four, up(1, 2, 3), Healthy, []string{"all 3 copies are in sync"}},
		{"a node has just joined, and they are too few in any case", base, append(up(1), down(3)), Stuck, []string{"need 3 different hosts"}},
		{"well", served, up(1, 2, 3), Healthy, []string{"node n1 serves it since 2027", "all 3 copies are in sync", "for 2 at least"}},
		{"owner down", served, append(up(2, 3), down(1)), Stuck, []string{"was served by node n1, which is down since 2027", "nothing heard for 10s", "1.21s after", "start node n1"}},
		{"owner down, and nobody else", served, []pulse.NodeView{down(1), down(2), down(3)}, Stuck, []string{"nobody can take it", "start a node"}},
		{"copy out, node down", out, append(up(1, 2), down(3)), Degraded, []string{"is out of sync", "2 of 3 copies are in sync", "what disk 3 has missed is copied", "start node n3"}},
		{"copy out, node up", out, up(1, 2, 3), Degraded, []string{"has missed writes", "begins to copy to disk 3"}},
		{"copy rebuilding", rebuilding, up(1, 2, 3), Degraded, []string{"is rebuilding", "disk 3 is in sync when"}},
		{"too few copies", alone, append(up(1), down(2), down(3)), Stuck, []string{"1 of 3 copies are in sync", "so it can't be written now", "when 2 copies are in sync again"}},
		{"too few that can be reached", out, append(up(1), down(2), down(3)), Stuck, []string{"only 1 of those in sync can be reached"}},
		{"moving", apply(t, served, moveCmd(1, 2)), up(1, 2, 3), Healthy, []string{"it moves to node n2"}},
		{"draining", apply(t, served, nodeStateCmd(1, catalog.NodeDraining)), up(1, 2, 3), Healthy, []string{"moves away from node n1"}},
		{"lost, and a spare", four, append(up(1, 2, 4), down(3)), Degraded, []string{"if node n3 stays away for 10m0s, its copies are made anew: disk 4 takes the place of disk 3"}},
		{"lost, and no spare", served, append(up(1, 2), down(3)), Degraded, []string{"made anew: no disk can take the place of disk 3: none that is up is on another host", "add a disk or a host"}},
		{"drained for an upgrade", apply(t, four, nodeStateCmd(3, catalog.NodeDraining)), append(up(1, 2, 4), down(3)), Degraded, []string{"start node n3"}},
		{"failed disk", failed, up(1, 2, 3, 4), Degraded, []string{"disk 2 on node n2 has failed", "disk 4 takes the place of disk 2"}},
		{"draining disk", apply(t, four, diskStateCmd(1, catalog.DiskDraining)), up(1, 2, 3, 4), Healthy, []string{"disk 4 takes the place of disk 1"}},
		{"moving away", apply(t, four, startMovesCmd(1, 0, 1, 4)), up(1, 2, 3, 4), Healthy, []string{"1 of its 1 extents are being copied to other disks: to 4"}},
		{"grows", apply(t, served, growCmd(1, 2)), up(1, 2, 3), Stuck, []string{"1 of its 2 extents have no disks yet", "they get disks now"}},
		{"deleted", apply(t, served, retireCmd(1)), up(1, 2, 3), Healthy, []string{"it was deleted", "free its data"}},
	} {
		e, ok := Explain(c.state, c.members, volumeID(1), RebuildAfter)
		text := strings.Join(append(append(append([]string{}, e.Because...), e.Next...), e.Advice...), "\n")
		if !ok || e.State != c.want {
			t.Errorf("%s: %v, %s:\n%s", c.name, ok, e.State, text)
		}
		for _, w := range c.words {
			if !strings.Contains(text, w) {
				t.Errorf("%s: it does not say %q, but\n%s", c.name, w, text)
			}
		}
	}
	if _, ok := Explain(served, nil, volumeID(9), RebuildAfter); ok {
		t.Error("a volume that does not exist is explained")
	}
}
