package daemon

import (
	"context"
	"errors"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/replication/message"
)

// freeEvery is the time between two looks for copies that no volume has any more
// on the disk that keeps them.
const freeEvery = 10 * time.Second

// freeReplaced frees the copies on this node whose disk another has taken the place
// of, also while the node was away, until ctx ends.
func (s *sharing) freeReplaced(ctx context.Context) {
	tick := time.NewTicker(freeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, t := range s.replaced() {
				if err := s.freeCopy(ctx, t); err != nil && ctx.Err() == nil && s.d.errorGate.pass("free "+catalog.ID(t.Volume).String()) {
					s.d.events.add(levelWarning, "volume.free", s.d.volumeNamed(t.Volume), err.Error())
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// replaced are the copies on this node's disks of volumes that are on other disks, by
// the catalog as this node has it.
func (s *sharing) replaced() (out []message.Target) {
	m := s.d.catalog.State().Map()
	for number, on := range s.routes.Load().stores {
		for _, v := range on.Volumes() {
			if m.Volume(v.ID) != nil && !s.keeps(v.ID, number) {
				out = append(out, message.Target{Volume: v.ID, Disk: number})
			}
		}
	}
	return out
}

// freeCopy frees what a disk keeps of a volume, if that is so by all that the group
// has acknowledged. This node may be behind, above all when it has just started: the copy
// may be newer than what it knows, and be the good one. From before it is certain until the copy
// is gone nobody can begin another in its place.
func (s *sharing) freeCopy(ctx context.Context, t message.Target) error {
	s.freeing.Store(t, true)
	defer s.freeing.Delete(t)
	if err := s.d.catalog.Barrier(ctx); err != nil {
		return err
	}
	on := s.routes.Load().stores[t.Disk]
	if on == nil || s.keeps(t.Volume, t.Disk) || s.d.catalog.State().Map().Volume(t.Volume) == nil {
		return nil
	}
	err := errors.Join(s.stores.DropFrom(t.Volume, t.Disk), deleteCopy(on, t.Volume))
	if err == nil {
		s.d.events.add(levelInfo, "volume.free", s.d.volumeNamed(t.Volume), "its copy on a disk of this node is gone: another disk has taken the place of it")
	}
	return err
}
