package store

import (
	"cmp"
	"fmt"
	"slices"
)

// wait submits op and waits for it.
func (s *Store) wait(op *Op) error {
	ch := make(chan struct{})
	op.Done = func(*Op) { close(ch) }
	s.Submit([]*Op{op})
	<-ch
	if op.Err != nil && op.Cause != nil {
		return fmt.Errorf("%w: %w", op.Err, op.Cause)
	}
	return op.Err
}

// NextSeq returns a sequence number above every one that the store has seen,
// for writers that have no sequence of their own. It does not block for long
// and never returns the same number twice, also across restarts.
func (s *Store) NextSeq() uint64 { return s.seq.Add(1) }

// Mapped reports whether the block of v at off exists and how many bytes from
// there on share that state, at most limit. Both are multiples of BlockBytes.
// It may wait for metadata to be read.
func (s *Store) Mapped(v *Vol, off, limit int64) (mapped bool, runBytes int64, err error) {
	for runBytes < limit {
		at := off + runBytes
		n, state, stop := int64(0), false, false
		s.mu.Lock()
		e := v.exts[uint32(at/ExtentBytes)]
		s.mu.Unlock()
		if e == nil {
			n = ExtentBytes - at%ExtentBytes
		} else {
			op := &Op{Kind: opVisit, Vol: v, Off: at / BlockBytes * BlockBytes, Len: BlockBytes}
			op.visit = func(p *page) {
				n = SpanBytes - at%SpanBytes
				if p == nil {
					return
				}
				b := int(at % SpanBytes / BlockBytes)
				state = p.img.exists(b)
				i := b + 1
				for i < blocksPerPage && p.img.exists(i) == state {
					i++
				}
				n, stop = int64(i-b)*BlockBytes, i < blocksPerPage
			}
			if err := s.wait(op); err != nil {
				return false, 0, err
			}
		}
		if runBytes == 0 {
			mapped = state
		} else if state != mapped {
			break
		}
		runBytes += n
		if stop {
			break
		}
	}
	return mapped, min(runBytes, limit), nil
}

// Versions copies the versions of the regions of v from off on, one per
// ChunkBytes, to dst. Regions never written have the zero Version. It may wait
// for metadata to be read.
func (s *Store) Versions(v *Vol, off int64, dst []Version) error {
	r0 := off / ChunkBytes
	for i := 0; i < len(dst); {
		r := r0 + int64(i)
		n := min(len(dst)-i, regionsPerPage-int(r%regionsPerPage))
		op := &Op{Kind: opVisit, Vol: v, Off: r * ChunkBytes, Len: BlockBytes}
		op.visit = func(p *page) {
			for k := range n {
				if p == nil {
					dst[i+k] = Version{}
				} else {
					dst[i+k] = p.img.version(int(r)%regionsPerPage + k)
				}
			}
		}
		if err := s.wait(op); err != nil {
			return err
		}
		i += n
	}
	return nil
}

// VolumeInfo is what the store knows about a volume.
type VolumeInfo struct {
	ID        VolumeID
	Extents   int
	UsedBytes int64 // in whole chunks
	EndBytes  int64 // end of the last extent
	Open      bool
	Replica   bool // it had a Note
}

// Volumes lists the volumes that have data or notes, sorted by ID.
func (s *Store) Volumes() []VolumeInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []VolumeInfo
	for id, v := range s.mu.vols {
		if len(v.exts) == 0 && v.notes == nil {
			continue
		}
		vi := VolumeInfo{ID: id, Replica: v.notes != nil, Extents: len(v.exts), UsedBytes: v.chunks * ChunkBytes, Open: v.users > 0}
		for i := range v.exts {
			vi.EndBytes = max(vi.EndBytes, (int64(i)+1)*ExtentBytes)
		}
		list = append(list, vi)
	}
	slices.SortFunc(list, func(a, b VolumeInfo) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return list
}

// DeleteVolume frees everything that a volume has, its notes last. It waits, and fails with
// ErrBusy while a handle is open. Interrupted by a crash it may be called again:
// extents go one by one.
func (s *Store) DeleteVolume(id VolumeID) error {
	s.mu.Lock()
	v := s.mu.vols[id]
	if v == nil {
		s.mu.Unlock()
		return nil
	}
	if v.users > 0 || v.deleted {
		s.mu.Unlock()
		return fmt.Errorf("delete volume %x: %w", id, ErrBusy)
	}
	v.deleted = true
	noted := v.notes != nil
	s.mu.Unlock()
	err := s.ClearFrom(v, 0)
	if err == nil && noted {
		err = s.wait(&Op{Kind: opForget, Vol: v})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.deleted = false
	if err != nil {
		return fmt.Errorf("delete volume %x: %w", id, err)
	}
	if len(v.exts) == 0 {
		delete(s.mu.vols, id)
	}
	return nil
}

// ClearFrom makes everything of v from off on a hole and gives back the
// metadata of whole extents. off is a multiple of BlockBytes. No other Op may
// touch that part meanwhile. It waits.
func (s *Store) ClearFrom(v *Vol, off int64) error {
	type piece struct {
		index uint32
		pages uint32 // bit per page that may have data
	}
	var list []piece
	s.mu.Lock()
	for i, e := range v.exts {
		if (int64(i)+1)*ExtentBytes <= off {
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
	s.mu.Unlock()
	slices.SortFunc(list, func(a, b piece) int { return cmp.Compare(a.index, b.index) })
	for _, p := range list {
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
				Ver: Version{Seq: s.NextSeq()}, Done: func(op *Op) { done <- op }})
		}
		s.Submit(ops)
		var err error
		for range ops {
			if op := <-done; op.Err != nil && err == nil {
				err = fmt.Errorf("%w: %w", op.Err, op.Cause)
			}
		}
		if err != nil {
			return err
		}
		if start >= off {
			if err := s.wait(&Op{Kind: opDrop, Vol: v, Off: start, Len: BlockBytes, Ver: Version{Seq: s.NextSeq()}}); err != nil {
				return err
			}
		}
	}
	return nil
}
