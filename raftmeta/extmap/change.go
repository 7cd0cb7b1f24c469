package extmap

import (
	"fmt"
	"slices"
	"sort"
)

// BatchMax is the most extents that one change may name. It bounds how long
// applying it holds up the group.
const BatchMax = 16384

// Create adds a volume with this many extents, none of them allocated.
// Errors: ErrExists, a policy or size out of range.
func (m Map) Create(id VolumeID, p Policy, extents uint32) (Map, error) {
	if m.Volume(id) != nil {
		return m, fmt.Errorf("extmap: create volume %x: %w", id, ErrExists)
	}
	if err := p.Validate(); err != nil {
		return m, err
	}
	v := &Volume{id: id, policy: p}
	return m.grow(v, extents)
}

// Grow gives a volume more extents. Errors: ErrNoVolume, fewer than it has, too many.
func (m Map) Grow(id VolumeID, extents uint32) (Map, error) {
	v, err := m.get(id)
	if err != nil {
		return m, err
	}
	return m.grow(v, extents)
}

func (m Map) grow(v *Volume, extents uint32) (Map, error) {
	layout, err := v.layout.grow(v.policy, extents)
	if err != nil {
		return m, err
	}
	n := *v
	n.layout = layout
	n.root = make([]*node, (extents+pageExtents*nodePages-1)/(pageExtents*nodePages))
	copy(n.root, v.root)
	if m.Volume(v.id) != nil {
		n.sum = n.sum.Sub(v.headHash())
	}
	n.sum = n.sum.Add(n.headHash())
	return m.replace(&n), nil
}

// Delete takes a volume out of the map with all its extents. What the disks
// keep of it is theirs to free.
func (m Map) Delete(id VolumeID) (Map, error) {
	v, err := m.get(id)
	if err != nil {
		return m, err
	}
	used := slices.Clone(m.used)
	for i, d := range v.disks {
		used[d] -= v.uses[i]
	}
	return Map{m.volumes.Without(id), trim(used), m.sum.Minus(v.sum)}, nil
}

// Allocate gives disks to extents first, first+1, and so on: sets has the
// disks of one after those of another, as many as the policy is wide. The
// leader has chosen them; here each set is checked: distinct, known to topo,
// in distinct domains, in sync for the volume. Errors: ErrNoVolume, ErrExtent
// when one is allocated or beyond the volume, ErrDisks, ErrNotInSync.
func (m Map) Allocate(id VolumeID, first uint32, sets []Disk, topo Topology) (Map, error) {
	e, err := m.edit(id)
	if err != nil {
		return m, err
	}
	width := e.v.policy.Width()
	if len(sets) == 0 || len(sets)%width != 0 || len(sets)/width > BatchMax {
		return m, fmt.Errorf("extmap: %d disks are not 1 to %d sets of %d: %w", len(sets), BatchMax, width, ErrDisks)
	}
	for i := range uint32(len(sets) / width) {
		set := sets[int(i)*width : (int(i)+1)*width]
		words, _, err := e.extent(first + i)
		if err == nil && words[genWords] != 0 {
			err = fmt.Errorf("it is allocated: %w", ErrExtent)
		}
		if err == nil {
			err = e.usable(set, topo)
		}
		if err != nil {
			return m, fmt.Errorf("extmap: allocate extent %d of volume %x: %w", first+i, id, err)
		}
		e.put(words, set)
		e.v.allocated++
	}
	return e.done(), nil
}

// Free takes the disks away from count extents from first on; those that have
// none stay as they are. Their generation grows. Errors: ErrNoVolume,
// ErrExtent when one is being moved or beyond the volume.
func (m Map) Free(id VolumeID, first, count uint32) (Map, error) {
	e, err := m.edit(id)
	if err != nil {
		return m, err
	}
	if count > BatchMax {
		return m, fmt.Errorf("extmap: free %d extents at once, at most %d: %w", count, BatchMax, ErrExtent)
	}
	none := make([]Disk, e.v.policy.Width())
	for i := first; i-first < count; i++ {
		was, ok := m.Volume(id).Extent(i)
		if !ok && i < e.v.layout.Extents() {
			continue
		}
		words, _, err := e.extent(i)
		if err == nil && was.To != 0 {
			err = fmt.Errorf("it is being moved: %w", ErrExtent)
		}
		if err != nil {
			return m, fmt.Errorf("extmap: free extent %d of volume %x: %w", i, id, err)
		}
		e.put(words, none)
		e.v.allocated--
	}
	return e.done(), nil
}

// StartMoves begins to move extents. Errors: ErrNoVolume, ErrExtent when one
// has no disks or moves already, ErrDisks when From is not in its set, To is,
// or the set with To in the place of From breaks the domain rule; ErrNotInSync
// when To is not in sync for the volume.
func (m Map) StartMoves(id VolumeID, moves []Move, topo Topology) (Map, error) {
	return m.eachMove(id, moves, func(e *edit, words []Disk, p *page, at int, found bool, move Move) error {
		set := slices.Clone(words[genWords:])
		i := slices.Index(set, move.From)
		switch {
		case set[0] == 0 || found:
			return fmt.Errorf("it has no disks or is being moved: %w", ErrExtent)
		case i < 0 || slices.Contains(set, move.To):
			return fmt.Errorf("its disks are %d: %w", set, ErrDisks)
		}
		set[i] = move.To
		if err := e.usableOne(set, i, topo); err != nil {
			return err
		}
		p.moves = slices.Insert(p.moves, at, move)
		e.count(move.To, 1)
		return nil
	})
}

// FinishMoves ends moves whose target has all data: To takes the place of
// From, and the generation grows. Errors: ErrNoVolume, ErrExtent when there is
// no such move, ErrNotInSync when To has fallen out of sync meanwhile.
func (m Map) FinishMoves(id VolumeID, moves []Move) (Map, error) {
	return m.eachMove(id, moves, func(e *edit, words []Disk, p *page, at int, found bool, move Move) error {
		if !found || p.moves[at] != move {
			return fmt.Errorf("there is no such move: %w", ErrExtent)
		}
		if e.v.state(move.To) != InSync {
			return fmt.Errorf("disk %d: %w", move.To, ErrNotInSync)
		}
		set := slices.Clone(words[genWords:])
		set[slices.Index(set, move.From)] = move.To
		e.put(words, set)
		e.count(move.To, -1) // it was counted as a target
		p.moves = slices.Delete(p.moves, at, at+1)
		return nil
	})
}

// CancelMoves ends moves without effect. Errors: ErrNoVolume, ErrExtent when
// there is no such move.
func (m Map) CancelMoves(id VolumeID, moves []Move) (Map, error) {
	return m.eachMove(id, moves, func(e *edit, _ []Disk, p *page, at int, found bool, move Move) error {
		if !found || p.moves[at] != move {
			return fmt.Errorf("there is no such move: %w", ErrExtent)
		}
		e.count(move.To, -1)
		p.moves = slices.Delete(p.moves, at, at+1)
		return nil
	})
}

// MovesTo returns the moves of the volume to a disk, in the order of extents.
func (v *Volume) MovesTo(d Disk) (moves []Move) {
	for move := range v.Moves() {
		if move.To == d {
			moves = append(moves, move)
		}
	}
	return moves
}

// eachMove calls do for each move, with a page that do may change and the
// place of the extent's move in it.
func (m Map) eachMove(id VolumeID, moves []Move, do func(e *edit, words []Disk, p *page, at int, found bool, move Move) error) (Map, error) {
	e, err := m.edit(id)
	if err != nil {
		return m, err
	}
	if len(moves) > BatchMax {
		return m, fmt.Errorf("extmap: %d moves at once, at most %d: %w", len(moves), BatchMax, ErrExtent)
	}
	for _, move := range moves {
		words, p, err := e.extent(move.Extent)
		if err == nil {
			at, found := findMove(p.moves, move.Extent)
			err = do(e, words, p, at, found, move)
		}
		if err != nil {
			return m, fmt.Errorf("extmap: move extent %d of volume %x from disk %d to %d: %w", move.Extent, id, move.From, move.To, err)
		}
	}
	return e.done(), nil
}

func findMove(moves []Move, extent uint32) (int, bool) {
	i := sort.Search(len(moves), func(i int) bool { return moves[i].Extent >= extent })
	return i, i < len(moves) && moves[i].Extent == extent
}
