package store

import (
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
	for _, p := range s.pieces(v, func(index uint32) bool { return (int64(index)+1)*ExtentBytes > off }) {
		if err := s.clearPiece(v, p, off, func() Version { return Version{Seq: s.NextSeq()} }); err != nil {
			return err
		}
	}
	return nil
}
