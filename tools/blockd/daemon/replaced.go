package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/replication/message"
	"blockd.dev/replication/serve"
)

// freeEvery is the time between two looks for copies that no volume has any more
// on the disk that keeps them.
const freeEvery = 10 * time.Second

// freeReplaced frees what disks of this node keep of volumes or extents that are on other disks
// now, also since this node was away, until ctx ends.
func (s *sharing) freeReplaced(ctx context.Context) {
	tick := time.NewTicker(freeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			for _, t := range s.replaced() {
				s.freed(ctx, t, s.freeCopy(ctx, t))
			}
			for _, t := range s.movedFrom() {
				s.freed(ctx, t, s.freeMoved(ctx, t))
			}
		case <-ctx.Done():
			return
		}
	}
}

// freed says when something could not be freed.
func (s *sharing) freed(ctx context.Context, t message.Target, err error) {
	if err != nil && !errors.Is(err, serve.ErrNotYet) && ctx.Err() == nil && s.d.errorGate.pass("free "+catalog.ID(t.Volume).String()) {
		s.d.events.add(levelWarning, "volume.free", s.d.volumeNamed(t.Volume), err.Error())
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
	on, state := s.routes.Load().stores[t.Disk], s.d.catalog.State()
	if on == nil || s.keeps(t.Volume, t.Disk) || state.Map().Volume(t.Volume) == nil {
		return nil
	}
	if _, over := ownersOver(state, t.Volume); !over {
		return serve.ErrNotYet // its last owner may still write it here
	}
	err := errors.Join(s.stores.DropFrom(t.Volume, t.Disk), deleteCopy(on, t.Volume))
	if err == nil {
		s.d.events.add(levelInfo, "volume.free", s.d.volumeNamed(t.Volume), "its copy on a disk of this node is gone: another disk has taken the place of it")
	}
	return err
}

// ownersOver returns the epoch of a volume's present lease; over is true when all owners are over
// for certain that began when the volume was on other disks than now.
func ownersOver(state *catalog.State, volume catalog.ID) (epoch uint64, over bool) {
	v := state.VolumeByID(volume)
	l, _ := state.Lease(volume)
	return l.Epoch, v != nil && l.Epoch > v.EndedIn()
}

// movedFrom are the copies on this node's disks that have extents which are on other disks, by
// the catalog as this node has it.
func (s *sharing) movedFrom() (out []message.Target) {
	state := s.d.catalog.State()
	for number, on := range s.routes.Load().stores {
		for _, v := range on.Volumes() {
			if t := (message.Target{Volume: v.ID, Disk: number}); len(strays(state, on, t)) > 0 {
				out = append(out, t)
			}
		}
	}
	return out
}

// strays are the extents that a disk has of a volume that it keeps, and that are on other disks.
func strays(state *catalog.State, on *store.Store, t message.Target) (extents []uint32) {
	v, disk := state.Map().Volume(t.Volume), extmap.Disk(t.Disk)
	if v == nil || !slices.Contains(v.Disks(), disk) {
		return nil
	}
	for _, i := range on.Extents(t.Volume) {
		if e, ok := v.Extent(i); ok && e.To != disk && !slices.Contains(e.Disks, disk) {
			extents = append(extents, i)
		}
	}
	return extents
}

// freeMoved frees the extents that a disk has of a volume and that are on other disks by all that
// the group has acknowledged. The volume is served meanwhile; see serve.Freeing for what
// keeps owners of other epochs away from them.
func (s *sharing) freeMoved(ctx context.Context, t message.Target) error {
	if err := s.d.catalog.Barrier(ctx); err != nil {
		return err
	}
	on, state := s.routes.Load().stores[t.Disk], s.d.catalog.State()
	if on == nil {
		return nil
	}
	epoch, over := ownersOver(state, t.Volume)
	extents := strays(state, on, t)
	if len(extents) == 0 || !over {
		return nil
	}
	err := s.stores.Free(t, serve.Freeing{Extents: extents, After: state.VolumeByID(t.Volume).EndedIn(), Until: epoch})
	if err == nil {
		s.d.events.add(levelInfo, "volume.free", s.d.volumeNamed(t.Volume), fmt.Sprintf("%s of it are gone from a disk of this node: other disks have them", countOf(len(extents), "extent")))
	}
	return err
}
