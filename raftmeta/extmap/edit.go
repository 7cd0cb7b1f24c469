package extmap

import (
	"fmt"
	"slices"
)

// edit is a change of one volume in the making. What it touches is copied once.
type edit struct {
	m     Map // the one before
	v     *Volume
	delta []uint32         // by disk: how many extents more, modulo 2^32
	pages map[uint32]*page // copies, by number
}

func (m Map) edit(id VolumeID) (*edit, error) {
	v, err := m.get(id)
	if err != nil {
		return nil, err
	}
	n := *v
	return &edit{m: m, v: &n, pages: map[uint32]*page{}}, nil
}

// extent returns the words of an extent and its page, both to be changed.
func (e *edit) extent(index uint32) ([]Disk, *page, error) {
	if index >= e.v.layout.Extents() {
		return nil, nil, fmt.Errorf("the volume has %d extents: %w", e.v.layout.Extents(), ErrExtent)
	}
	stride, number := e.v.stride(), index/pageExtents
	p := e.pages[number]
	if p == nil {
		p = &page{}
		if old := e.v.page(number); old != nil {
			p.words, p.moves = slices.Clone(old.words), slices.Clone(old.moves)
		} else {
			p.words = make([]Disk, pageExtents*stride)
		}
		e.pages[number] = p
	}
	at := int(index%pageExtents) * stride
	return p.words[at : at+stride], p, nil
}

// put gives an extent other disks, and the next generation.
func (e *edit) put(words, set []Disk) {
	if words[0]++; words[0] == 0 {
		words[1]++
	}
	for i, d := range words[genWords:] {
		e.count(d, -1)
		e.count(set[i], 1)
	}
	copy(words[genWords:], set)
}

func (e *edit) count(d Disk, by int) { e.delta = count(e.delta, d, uint32(by)) }

func count(used []uint32, d Disk, by uint32) []uint32 {
	if d == 0 {
		return used
	}
	if int(d) >= len(used) {
		used = append(used, make([]uint32, int(d)+1-len(used))...)
	}
	used[d] += by
	return used
}

// plus returns the sum of two counts.
func plus(used, delta []uint32) []uint32 {
	out := slices.Clone(used)
	for d, by := range delta {
		out = count(out, Disk(d), by)
	}
	return trim(out)
}

// trim drops zeroes at the end, so that equal maps have equal counts.
func trim(used []uint32) []uint32 {
	for len(used) > 0 && used[len(used)-1] == 0 {
		used = used[:len(used)-1]
	}
	return used
}

// usable checks that set may be the disks of an extent.
func (e *edit) usable(set []Disk, topo Topology) error {
	for i := range set {
		if err := e.usableOne(set[:i+1], i, topo); err != nil {
			return err
		}
	}
	return nil
}

// usableOne checks that set[i] fits to the others of set.
func (e *edit) usableOne(set []Disk, i int, topo Topology) error {
	d := set[i]
	domain, ok := topo.Domain(d)
	if d == 0 || !ok {
		return fmt.Errorf("nothing may be placed on disk %d: %w", d, ErrDisks)
	}
	if e.v.state(d) != InSync {
		return fmt.Errorf("disk %d: %w", d, ErrNotInSync)
	}
	for k, o := range set {
		if k == i {
			continue
		}
		if o == d {
			return fmt.Errorf("disk %d is named twice: %w", d, ErrDisks)
		}
		if other, ok := topo.Domain(o); ok && other == domain {
			return fmt.Errorf("disks %d and %d are in one failure domain: %w", o, d, ErrDisks)
		}
	}
	return nil
}

// tally takes over how many extents each disk has. A disk that has none any
// more is in sync, in the next generation if it was not, and proves nothing: what was
// copied to it is free.
func (v *Volume) tally(used []uint32) {
	v.disks, v.uses = nil, nil
	for d, n := range used {
		if n > 0 {
			v.disks, v.uses = append(v.disks, Disk(d)), append(v.uses, n)
		}
	}
	for _, s := range v.syncs {
		if s.State == InSync && s.Proof == 0 || int(s.Disk) < len(used) && used[s.Disk] != 0 {
			continue
		}
		if s.Proof = 0; s.State != InSync {
			s.State, s.Generation = InSync, s.Generation+1
		}
		v.syncs = v.withSync(s)
	}
}

// used is the inverse of tally.
func (v *Volume) used() (used []uint32) {
	for i, d := range v.disks {
		used = count(used, d, v.uses[i])
	}
	return used
}

// done returns the Map after the change.
func (e *edit) done() Map {
	old := e.m.Volume(e.v.id)
	e.v.root = slices.Clone(old.root)
	changed := map[uint32]map[uint32]*page{} // by node
	for number, p := range e.pages {         // sums commute, so the order is of no account
		if was := old.page(number); was != nil {
			e.v.sum = e.v.sum.Sub(old.pageHash(number, *was))
		}
		e.v.sum = e.v.sum.Add(e.v.pageHash(number, *p))
		i := number / nodePages
		if changed[i] == nil {
			changed[i] = map[uint32]*page{}
		}
		changed[i][number%nodePages] = p
	}
	for i, pages := range changed {
		e.v.root[i] = e.v.root[i].with(pages)
	}
	e.v.tally(plus(e.v.used(), e.delta))
	if !slices.Equal(e.v.syncs, old.syncs) {
		e.v.sum = e.v.sum.Sub(old.headHash()).Add(e.v.headHash())
	}
	m := e.m.replace(e.v)
	m.used = plus(m.used, e.delta)
	return m
}
