package volume

import "slices"

// regions are offsets of regions, each once, that are tried in turns.
type regions struct {
	list []int64 // sorted
	from int64   // where the next turn begins
}

func (s *regions) add(off int64) {
	if i, found := slices.BinarySearch(s.list, off); !found {
		s.list = slices.Insert(s.list, i, off)
	}
}

func (s *regions) has(off int64) bool {
	_, found := slices.BinarySearch(s.list, off)
	return found
}

// next takes one out of the list, which is not empty.
func (s *regions) next() int64 {
	i, _ := slices.BinarySearch(s.list, s.from)
	if i == len(s.list) {
		i = 0
	}
	off := s.list[i]
	s.list, s.from = slices.Delete(s.list, i, i+1), off+1
	return off
}

// regionsAt yields the regions that p touches.
func (o *Owner) regionsAt(p *piece) func(func(int64) bool) {
	return func(yield func(int64) bool) {
		for off := p.off - p.off%o.cfg.RegionBytes; off < p.off+p.len; off += o.cfg.RegionBytes {
			if !yield(off) {
				return
			}
		}
	}
}
