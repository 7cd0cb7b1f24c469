package extmap

import (
	"fmt"
	"slices"
)

// edit is a change of one volume in the making. What it touches is copied once.
type edit struct {
	m     Map // the one before
	v     *Volume
	used  []uint32
	pages map[uint32]*page // copies, by number
}

func (m Map) edit(id VolumeID) (*edit, error) {
	v, err := m.get(id)
	if err != nil {
		return nil, err
	}
	n := *v
	return &edit{m, &n, slices.Clone(m.used), map[uint32]*page{}}, nil
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

func (e *edit) count(d Disk, by int) { e.used = count(e.used, d, by) }

func count(used []uint32, d Disk, by int) []uint32 {
	if d == 0 {
		return used
	}
	if int(d) >= len(used) {
		used = append(used, make([]uint32, int(d)+1-len(used))...)
	}
	used[d] = uint32(int(used[d]) + by)
	return used
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

// done returns the Map after the change.
func (e *edit) done() Map {
	old := e.m.Volume(e.v.id)
	e.v.root = slices.Clone(old.root)
	fresh := map[uint32]*node{}
	for number, p := range e.pages { // sums commute, so the order is of no account
		if was := old.page(number); was != nil {
			e.v.sum = e.v.sum.Sub(old.pageHash(number, was))
		}
		e.v.sum = e.v.sum.Add(e.v.pageHash(number, p))
		if len(p.moves) == 0 {
			p.moves = nil
		}
		i := number / nodePages
		n := fresh[i]
		if n == nil {
			n = &node{}
			if e.v.root[i] != nil {
				*n = *e.v.root[i]
			}
			fresh[i], e.v.root[i] = n, n
		}
		n[number%nodePages] = *p
	}
	m := e.m.replace(e.v)
	m.used = trim(e.used)
	return m
}
