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
	OutOfSync                   // has missed writes
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

// Sync is the state of one disk for one volume. Generation grows with every
// change but MarkIn and never comes again, so a change that was decided on an
// older one is known to be late (docs/REPLICATION.md, I10).
type Sync struct {
	Disk       Disk
	State      SyncState
	Generation uint64
	// Proof is a watermark that the disk had made durable after all that was copied to it, when it was last said
	// to have that (docs/REPLICATION.md): one that has a lower one has lost some of it. 0 proves nothing.
	Proof uint64
}

// Change is what may become of a disk's state for a volume.
type Change uint8

// The changes.
const (
	MarkOut        Change = iota + 1 // to out of sync, next generation; never for the last one in sync
	MarkRebuilding                   // from out of sync or rebuilding to rebuilding, next generation
	MarkIn                           // from rebuilding to in sync
	Keep                             // stays in sync, next generation
)

// String is the word for it.
func (c Change) String() string {
	if c < MarkOut || c > Keep {
		return fmt.Sprintf("change %d", uint8(c))
	}
	return [...]string{"out of sync", "rebuilding", "in sync", "kept in sync"}[c-MarkOut]
}

// Sync returns the state of a disk for the volume.
func (v *Volume) Sync(d Disk) Sync {
	if i, ok := v.findSync(d); ok {
		return v.syncs[i]
	}
	return Sync{Disk: d}
}

func (v *Volume) state(d Disk) SyncState { return v.Sync(d).State }

func (v *Volume) findSync(d Disk) (int, bool) {
	return slices.BinarySearchFunc(v.syncs, d, func(s Sync, d Disk) int { return int(s.Disk) - int(d) })
}

// after is the state after a change; ok is false when it is not one from s.
func (s Sync) after(c Change) (_ Sync, ok bool) {
	switch {
	case c == MarkOut && s.State != OutOfSync:
		s.State, s.Generation = OutOfSync, s.Generation+1
	case c == MarkRebuilding && s.State != InSync:
		s.State, s.Generation = Rebuilding, s.Generation+1
	case c == MarkIn && s.State != OutOfSync: // what is said twice is no error
		s.State = InSync
	case c == Keep && s.State == InSync:
		s.Generation++
	default:
		return s, false
	}
	return s, true
}

// Mark changes the state of a disk that keeps something of the volume, if its
// generation is still the one that the change was decided on. It copies the
// volume's head and none of its extents. Errors: ErrNoVolume, ErrDisks when
// the disk keeps nothing of it, ErrGeneration, ErrChange when there is no
// such change from the present state, ErrLastCopy when an extent could not be
// read any more.
func (m Map) Mark(id VolumeID, d Disk, generation uint64, c Change) (Map, error) {
	v, err := m.get(id)
	if err != nil {
		return m, err
	}
	was := v.Sync(d)
	s, ok := was.after(c)
	switch _, keeps := slices.BinarySearch(v.disks, d); {
	case !keeps:
		err = fmt.Errorf("it keeps nothing of it: %w", ErrDisks)
	case was.Generation != generation:
		err = fmt.Errorf("decided at generation %d, now it is %d: %w", generation, was.Generation, ErrGeneration)
	case !ok:
		err = fmt.Errorf("it is %s: %w", was.State, ErrChange)
	case s == was:
		return m, nil
	}
	n := *v
	if err == nil {
		n.syncs = v.withSync(s)
		if extent, lost := n.unreadable(); lost && c == MarkOut {
			err = fmt.Errorf("extent %d: %w", extent, ErrLastCopy)
		}
	}
	if err != nil {
		return m, fmt.Errorf("extmap: mark disk %d of volume %x %s: %w", d, id, c, err)
	}
	n.sum = n.sum.Sub(v.headHash()).Add(n.headHash())
	return m.replace(&n), nil
}

// Prove raises the Proof of a disk that keeps something of the volume; a lower one changes nothing.
// Errors: ErrNoVolume, ErrDisks when the disk keeps nothing of it.
func (m Map) Prove(id VolumeID, d Disk, proof uint64) (Map, error) {
	v, err := m.get(id)
	if err != nil {
		return m, err
	}
	s := v.Sync(d)
	if _, keeps := slices.BinarySearch(v.disks, d); !keeps {
		return m, fmt.Errorf("extmap: proof of disk %d of volume %x: it keeps nothing of it: %w", d, id, ErrDisks)
	}
	if proof <= s.Proof {
		return m, nil
	}
	s.Proof = proof
	n := *v
	n.syncs = v.withSync(s)
	n.sum = n.sum.Sub(v.headHash()).Add(n.headHash())
	return m.replace(&n), nil
}

// withSync is the states with s in the place of its disk's.
func (v *Volume) withSync(s Sync) []Sync {
	i, found := v.findSync(s.Disk)
	if !found {
		return slices.Insert(slices.Clip(v.syncs), i, s)
	}
	syncs := slices.Clone(v.syncs)
	if s == (Sync{Disk: s.Disk}) {
		return slices.Delete(syncs, i, i+1)
	}
	syncs[i] = s
	return syncs
}

// unreadable finds an extent with too few disks in sync. It looks only when
// more disks are not in sync than any extent can spare.
func (v *Volume) unreadable() (extent uint32, found bool) {
	out := make([]bool, 0, 64)
	n := 0
	for _, s := range v.syncs {
		if s.State == InSync {
			continue
		}
		n++
		out = append(out, make([]bool, int(s.Disk)+1-len(out))...)
		out[s.Disk] = true
	}
	if n <= v.policy.Width()-v.policy.Needed() {
		return 0, false
	}
	stride := v.stride()
	for number, p := range v.pages() {
		for i := 0; i < len(p.words); i += stride {
			good := 0
			for _, d := range p.words[i+genWords : i+stride] {
				if int(d) >= len(out) || !out[d] {
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
