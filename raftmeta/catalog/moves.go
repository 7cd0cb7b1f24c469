package catalog

import (
	"slices"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// The commands of moves. Which extents move where is the Raft leader's choice, and that
// a disk has them its owner's word; so none of it is in the audit log. The disks of a volume
// don't change under a living owner: whatever changes here, the owner of that epoch
// ends, and the next one knows.

// startMoves begins the moves of a volume, all at once. It has no others, so there is
// an end to each batch before the next one is chosen.
func (f *fold) startMoves(c *catalogpb.StartMoves) error {
	v, err := f.inMap(c.GetVolume())
	if err != nil {
		return err
	}
	for range f.extents.Volume(v.ID).Moves() {
		return refuse(ErrConflict, "extents of volume %q are being moved already; those end first", v.Name)
	}
	moves := make([]extmap.Move, len(c.GetMoves()))
	for i, m := range c.GetMoves() {
		if m.GetFrom() > numberMax || m.GetTo() > numberMax {
			return refuse(ErrInvalid, "disk numbers %d and %d: want 1 to %d", m.GetFrom(), m.GetTo(), numberMax)
		}
		moves[i] = extmap.Move{Extent: m.GetExtent(), From: extmap.Disk(m.GetFrom()), To: extmap.Disk(m.GetTo())}
	}
	if len(moves) == 0 {
		return refuse(ErrInvalid, "no extent of volume %q is named", v.Name)
	}
	topo, _ := f.topology(f.Pool(v.Pool).Domain)
	m, err := f.extents.StartMoves(v.ID, moves, topo)
	if err != nil {
		return refuse(ErrConflict, "volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.endOwner(v, func(v *Volume, epoch uint64) { v.ReplacedIn = epoch })
	f.quietly("volume.move", v.Name, "%d extents begin to move", len(moves))
	return nil
}

// finishMoves is what an owner says that has sent all writes since the moves began to
// the disk, and has copied all from before.
func (f *fold) finishMoves(c *catalogpb.FinishMoves) error {
	v, moves, err := f.movesTo(c.GetVolume(), c.GetDisk())
	if err != nil {
		return err
	}
	disk, l := extmap.Disk(c.GetDisk()), f.leases.Get(v.ID)
	now := f.extents.Volume(v.ID).Sync(disk).Generation
	switch {
	case l.Owner == "" || l.Epoch != c.GetEpoch():
		return refuse(ErrConflict, "the owner of volume %q in epoch %d asked, and it is at epoch %d with owner %q: another node has it, or nobody", v.Name, c.GetEpoch(), l.Epoch, l.Owner)
	case l.Epoch <= v.ReplacedIn:
		return refuse(ErrConflict, "the moves of volume %q were started in epoch %d, and its owner began before that", v.Name, v.ReplacedIn)
	case now != c.GetGeneration():
		return refuse(ErrConflict, "volume %q: decided at generation %d of disk %d, now it is %d", v.Name, c.GetGeneration(), disk, now)
	}
	m, err := f.extents.FinishMoves(v.ID, moves)
	if err == nil {
		m, err = m.Prove(v.ID, disk, c.GetProof())
	}
	if err != nil {
		return refuse(ErrConflict, "volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.endOwner(v, func(v *Volume, epoch uint64) { v.MovedIn = epoch })
	f.quietly("volume.move", v.Name, "%d extents are on disk %d now", len(moves), disk)
	return nil
}

// cancelMoves leaves extents where they are.
func (f *fold) cancelMoves(c *catalogpb.CancelMoves) error {
	v, moves, err := f.movesTo(c.GetVolume(), c.GetDisk())
	if err != nil {
		return err
	}
	m, err := f.extents.CancelMoves(v.ID, moves)
	if err != nil {
		return refuse(ErrConflict, "volume %q: %v", v.Name, err)
	}
	f.extents = m
	f.endOwner(v, func(v *Volume, epoch uint64) { v.ReplacedIn = epoch })
	f.quietly("volume.move", v.Name, "%d extents don't move to disk %d", len(moves), c.GetDisk())
	return nil
}

// movesTo finds a volume, and its moves to a disk.
func (f *fold) movesTo(id []byte, disk uint32) (v *Volume, moves []extmap.Move, err error) {
	if v, err = f.inMap(id); err != nil {
		return nil, nil, err
	}
	if disk <= numberMax {
		moves = f.extents.Volume(v.ID).MovesTo(extmap.Disk(disk))
	}
	if len(moves) == 0 {
		return nil, nil, refuse(ErrConflict, "no extent of volume %q moves to disk %d", v.Name, disk)
	}
	return v, moves, nil
}

// endOwner notes that the owner of a volume works with other disks than those it is on
// now; mark sets one of the epochs of Volume.EndedIn.
func (f *fold) endOwner(v *Volume, mark func(v *Volume, epoch uint64)) {
	i := slices.IndexFunc(f.Volumes, func(e Volume) bool { return e.ID == v.ID })
	changed := *v
	mark(&changed, f.leases.Get(v.ID).Epoch)
	f.Volumes = replaced(f.Volumes, i, changed)
}
