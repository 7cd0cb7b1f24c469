package store

import (
	"cmp"
	"fmt"
	"slices"
)

// Extents lists the extents of a volume that have data or metadata, in order.
func (s *Store) Extents(id VolumeID) []uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.mu.vols[id]
	if v == nil {
		return nil
	}
	list := make([]uint32, 0, len(v.exts))
	for i := range v.exts {
		list = append(list, i)
	}
	slices.Sort(list)
	return list
}

// FreeExtents makes extents of v holes that were never written, and gives back
// their metadata. Interrupted by a crash it may be called again; no region that has lost its
// data has a version then, so none is taken for what it was. No other Op may touch these
// extents meanwhile. It waits.
func (s *Store) FreeExtents(v *Vol, extents []uint32) error {
	for _, p := range s.pieces(v, func(index uint32) bool { return slices.Contains(extents, index) }) {
		if err := s.clearPiece(v, p, 0, func() Version { return NoVersion }); err != nil {
			return fmt.Errorf("free extent %d: %w", p.index, err)
		}
	}
	return nil
}

// piece is an extent that is to be cleared.
type piece struct {
	index uint32
	pages uint32 // bit per page that may have data
}

// pieces returns the extents of v that is chooses, in order.
func (s *Store) pieces(v *Vol, is func(index uint32) bool) (list []piece) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range v.exts {
		if !is(i) {
			continue
		}
		p := piece{index: i}
		for no := range pagesPerExtent {
			ref := uint32(0)
			if e.inDir {
				_, de := s.entryOf(e)
				ref = de.ref(no)
			}
			if ref != 0 || e.pages[no] != nil {
				p.pages |= 1 << no
			}
		}
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b piece) int { return cmp.Compare(a.index, b.index) })
	return list
}

// clearPiece makes what is at off or later of an extent holes of the versions that
// version gives, and drops the extent if that is all of it.
func (s *Store) clearPiece(v *Vol, p piece, off int64, version func() Version) error {
	start := int64(p.index) * ExtentBytes
	done := make(chan *Op, pagesPerExtent)
	var ops []*Op
	for no := range pagesPerExtent {
		at := start + int64(no)*SpanBytes
		from := max(at, off)
		if p.pages&(1<<no) == 0 || from >= at+SpanBytes {
			continue
		}
		ops = append(ops, &Op{Kind: OpClear, Vol: v, Off: from, Len: int(at + SpanBytes - from),
			Ver: version(), Done: func(op *Op) { done <- op }})
	}
	s.Submit(ops)
	var err error
	for range ops {
		if op := <-done; op.Err != nil && err == nil {
			err = fmt.Errorf("%w: %w", op.Err, op.Cause)
		}
	}
	if err != nil || start < off {
		return err
	}
	return s.wait(&Op{Kind: opDrop, Vol: v, Off: start, Len: BlockBytes, Ver: Version{Seq: s.NextSeq()}})
}
