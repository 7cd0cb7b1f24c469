package extmap

import (
	"fmt"
	"slices"
)

// SyncState says whether a disk has all acknowledged writes of a volume.
type SyncState uint8

// The states. In sync is what a disk is that nothing else is said of.
const (
	InSync     SyncState = iota // has every acknowledged write
	OutOfSync                   // missed writes since the epoch and sequence given
	Rebuilding                  // takes new writes, and the others are being copied
)

// String is the word for it.
func (s SyncState) String() string {
	switch s {
	case InSync:
		return "in sync"
	case OutOfSync:
		return "out of sync"
	case Rebuilding:
		return "rebuilding"
	}
	return fmt.Sprintf("sync state %d", uint8(s))
}

// Sync is the state of one disk for one volume.
type Sync struct {
	Disk  Disk
	State SyncState
	// Epoch and Sequence are of the first write that the disk may miss.
	Epoch, Sequence uint64
}

// Sync returns the state of a disk for the volume.
func (v *Volume) Sync(d Disk) Sync {
	if i, ok := v.findSync(d); ok {
		return v.outOfSync[i]
	}
	return Sync{Disk: d}
}

// NotInSync returns the disks that are not in sync, by number. It belongs to
// the map: do not change it.
func (v *Volume) NotInSync() []Sync { return v.outOfSync }

func (v *Volume) state(d Disk) SyncState { return v.Sync(d).State }

func (v *Volume) findSync(d Disk) (int, bool) {
	return slices.BinarySearchFunc(v.outOfSync, d, func(s Sync, d Disk) int { return int(s.Disk) - int(d) })
}

// SetSync records a disk's state for a volume. A disk becomes in sync from
// rebuilding only, unless it keeps nothing of the volume; a rebuild begins
// from out of sync and keeps its epoch and sequence. What is said twice is no
// error. Errors: ErrNoVolume, ErrNotInSync for another order of states,
// ErrLastCopy when an extent could not be read any more.
func (m Map) SetSync(id VolumeID, s Sync) (Map, error) {
	v, err := m.get(id)
	if err != nil {
		return m, err
	}
	was := v.Sync(s.Disk)
	if was.State != InSync && s.State != InSync {
		s.Epoch, s.Sequence = was.Epoch, was.Sequence // what was missed first counts
	}
	if s.State == InSync {
		s.Epoch, s.Sequence = 0, 0
	}
	if was == s {
		return m, nil
	}
	leaves := s.State == InSync && !v.keeps(s.Disk)
	orderly := s.State == OutOfSync || s.State == Rebuilding && was.State == OutOfSync || s.State == InSync && was.State == Rebuilding
	if s.Disk == 0 || !orderly && !leaves {
		return m, fmt.Errorf("extmap: disk %d is %s for volume %x and can't become %s: %w", s.Disk, was.State, id, s.State, ErrNotInSync)
	}
	n := *v
	i, found := v.findSync(s.Disk)
	n.outOfSync = slices.Clone(v.outOfSync)
	switch {
	case s.State == InSync:
		n.outOfSync = slices.Delete(n.outOfSync, i, i+1)
	case found:
		n.outOfSync[i] = s
	default:
		n.outOfSync = slices.Insert(n.outOfSync, i, s)
		if extent, ok := n.unreadable(); ok {
			return m, fmt.Errorf("extmap: mark disk %d out of sync for volume %x: extent %d: %w", s.Disk, id, extent, ErrLastCopy)
		}
	}
	n.sum = n.sum.Sub(v.headHash()).Add(n.headHash())
	return m.replace(&n), nil
}

// unreadable finds an extent with too few disks in sync. It looks only when
// more disks are out of sync than any extent can spare.
func (v *Volume) unreadable() (extent uint32, found bool) {
	if len(v.outOfSync) <= v.policy.Width()-v.policy.Needed() {
		return 0, false
	}
	out := make([]bool, 1<<16)
	for _, s := range v.outOfSync {
		out[s.Disk] = true
	}
	stride := v.stride()
	for number, p := range v.pages() {
		for i := 0; i < len(p.words); i += stride {
			good := 0
			for _, d := range p.words[i+genWords : i+stride] {
				if !out[d] {
					good++ // a disk that is 0 counts: nothing is kept, nothing is lost
				}
			}
			if good < v.policy.Needed() {
				return number*pageExtents + uint32(i/stride), true
			}
		}
	}
	return 0, false
}

// keeps reports whether a disk has, or is to have, an extent of the volume.
func (v *Volume) keeps(d Disk) bool {
	found := false
	v.eachDisk(func(o Disk) { found = found || o == d })
	return found
}
