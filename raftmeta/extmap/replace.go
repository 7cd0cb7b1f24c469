package extmap

import (
	"fmt"
	"slices"
)

// Replaceable returns the extents in which disk to may take the place of from:
// all that have from, but for those that have another disk in the domain of to.
// While its copy is being made, to is out of sync for the volume as a whole, also for
// what it keeps already. So each extent that has it must do without: the others
// in sync are minInSync, or no fewer than before, and enough to read it.
// topo tells the domain also of disks that take nothing new. It changes nothing.
// Errors: ErrDisks, ErrNotInSync, ErrExtent when one is being moved, ErrLastCopy.
func (v *Volume) Replaceable(from, to Disk, minInSync int, topo Topology) (extents []uint32, err error) {
	domain, ok := topo.Domain(to)
	_, keeps := slices.BinarySearch(v.disks, from)
	switch {
	case to == 0 || to == from || !ok:
		return nil, fmt.Errorf("nothing may be placed on disk %d: %w", to, ErrDisks)
	case !keeps:
		return nil, fmt.Errorf("disk %d keeps nothing of it: %w", from, ErrDisks)
	case v.state(to) != InSync:
		return nil, fmt.Errorf("disk %d: %w", to, ErrNotInSync)
	}
	apart := func(d Disk) bool {
		other, _ := topo.Domain(d)
		return d == from || d != to && other != domain
	}
	stride := v.stride()
	for number, p := range v.pages() {
		for i := 0; i < len(p.words); i += stride {
			set := p.words[i+genWords : i+stride]
			takes := slices.Contains(set, from) && !slices.ContainsFunc(set, func(d Disk) bool { return !apart(d) })
			if set[0] == 0 || !takes && !slices.Contains(set, to) {
				continue
			}
			extent := number*pageExtents + uint32(i/stride)
			before, after := 0, 0
			for _, d := range set {
				if v.state(d) == InSync {
					before++
					if d != to && !(takes && d == from) {
						after++
					}
				}
			}
			if after < v.policy.Needed() || after < minInSync && after < before {
				return nil, fmt.Errorf("extent %d would have %d disks in sync while disk %d gets its copy: %w", extent, after, to, ErrLastCopy)
			}
			if _, moving := findMove(p.moves, extent); moving {
				return nil, fmt.Errorf("extent %d is being moved: %w", extent, ErrExtent)
			}
			if takes {
				extents = append(extents, extent)
			}
		}
	}
	if len(extents) == 0 {
		return nil, fmt.Errorf("all extents on disk %d have another disk in the failure domain of disk %d: %w", from, to, ErrDisks)
	}
	return extents, nil
}

// Replace puts disk to in the place of from in all extents that Replaceable
// tells, if generation is still that of from. Disk to is out of sync then, in its next
// generation. When from has nothing of the volume any more, it has left it. It looks at every
// extent of the volume. Errors: ErrNoVolume, ErrGeneration, those of Replaceable.
func (m Map) Replace(id VolumeID, from, to Disk, generation uint64, minInSync int, topo Topology) (Map, error) {
	e, err := m.edit(id)
	if err != nil {
		return m, err
	}
	var extents []uint32
	if now := e.v.Sync(from).Generation; now != generation {
		err = fmt.Errorf("decided at generation %d, now it is %d: %w", generation, now, ErrGeneration)
	} else {
		extents, err = e.v.Replaceable(from, to, minInSync, topo)
	}
	if err != nil {
		return m, fmt.Errorf("extmap: put disk %d in the place of disk %d of volume %x: %w", to, from, id, err)
	}
	for _, extent := range extents {
		words, _, err := e.extent(extent)
		if err != nil {
			return m, err
		}
		set := slices.Clone(words[genWords:])
		set[slices.Index(set, from)] = to
		e.put(words, set)
	}
	s := e.v.Sync(to)
	s.State, s.Generation = OutOfSync, s.Generation+1
	e.v.syncs = e.v.withSync(s)
	return e.done(), nil
}
