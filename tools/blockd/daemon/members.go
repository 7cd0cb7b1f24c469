package daemon

import (
	"slices"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	replicated "blockd.dev/replication/volume"
)

// What the extent map says of a volume, in the words of its owner, and the owner's
// proposals in the words of the catalog. A member of the owner is the place of a disk in the
// list of the volume's disks.

var syncStates = map[extmap.SyncState]replicated.Sync{
	extmap.InSync: replicated.InSync, extmap.OutOfSync: replicated.Out, extmap.Rebuilding: replicated.Rebuilding,
}

var replicaChanges = map[replicated.Change]catalogpb.ReplicaChange{
	replicated.MarkOut: catalogpb.ReplicaChange_REPLICA_CHANGE_OUT, replicated.MarkRebuilding: catalogpb.ReplicaChange_REPLICA_CHANGE_REBUILDING,
	replicated.MarkIn: catalogpb.ReplicaChange_REPLICA_CHANGE_IN, replicated.Keep: catalogpb.ReplicaChange_REPLICA_CHANGE_KEEP,
}

// setsOf returns a function that gives the members which keep an extent.
func setsOf(v *extmap.Volume) func(extent int64) []int {
	disks := v.Disks()
	return func(extent int64) []int {
		e, ok := v.Extent(uint32(extent))
		if !ok {
			return nil
		}
		set := make([]int, 0, len(e.Disks))
		for _, number := range e.Disks {
			if i, found := slices.BinarySearch(disks, number); found {
				set = append(set, i)
			}
		}
		return set
	}
}

// arrivingOf returns a function that gives the member which an extent moves to, or -1, and the
// first epoch whose owner could know of it; nil when none moves.
func arrivingOf(state *catalog.State, v *extmap.Volume, id catalog.ID) (arriving func(extent int64) int, since uint64) {
	disks := v.Disks()
	for range v.Moves() {
		return func(extent int64) int {
			if e, _ := v.Extent(uint32(extent)); e.To != 0 {
				i, _ := slices.BinarySearch(disks, e.To)
				return i
			}
			return -1
		}, state.VolumeByID(id).ReplacedIn + 1
	}
	return nil, 0
}

// proposed is the command for what an owner proposes about one of its disks.
func proposed(id catalog.ID, p replicated.Proposal, disk uint16) *catalogpb.Command {
	if p.Change == replicated.Finish {
		return &catalogpb.Command{Kind: &catalogpb.Command_FinishMoves{FinishMoves: &catalogpb.FinishMoves{
			Volume: id[:], Epoch: p.Epoch, Disk: uint32(disk), Generation: p.Gen, Proof: p.Proof}}}
	}
	return &catalogpb.Command{Kind: &catalogpb.Command_MarkReplica{MarkReplica: &catalogpb.MarkReplica{
		Volume: id[:], Epoch: p.Epoch, Disk: uint32(disk), Generation: p.Gen, Change: replicaChanges[p.Change], Proof: p.Proof}}}
}
