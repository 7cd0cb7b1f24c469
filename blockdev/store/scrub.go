package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// ScrubError is a block that a scrub could not read or that fails its checksum.
type ScrubError struct {
	Volume VolumeID
	Offset int64 // bytes in the volume
	Err    error
}

// Scrub reads every block that exists, once, at no more than bytesPerSec (0: as
// fast as it goes), and calls report for each bad one. It returns when done, when
// ctx ends, or when the store is closed. Hosts go on meanwhile; what they write
// is not read again.
func (s *Store) Scrub(ctx context.Context, bytesPerSec int64, report func(ScrubError)) error {
	return s.ScrubFrom(ctx, ScrubPlace{}, bytesPerSec, func(ScrubPlace) {}, report)
}

// ScrubPlace is how far a scrub has come: it goes by the volumes' IDs.
type ScrubPlace struct {
	Volume VolumeID
	Offset int64 // bytes in it
}

// ScrubFrom is Scrub from a place on. reached is called after each step with the place
// from which another call goes on.
func (s *Store) ScrubFrom(ctx context.Context, from ScrubPlace, bytesPerSec int64, reached func(ScrubPlace), report func(ScrubError)) error {
	buf := disk.NewAligned(ChunkBytes)
	start := time.Now()
	total := int64(0)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for _, vi := range s.Volumes() {
		// No handle: a scrub must not keep a volume from being deleted. What is
		// gone reads as holes.
		s.mu.Lock()
		v := s.mu.vols[vi.ID]
		s.mu.Unlock()
		order := bytes.Compare(vi.ID[:], from.Volume[:])
		if v == nil || order < 0 {
			continue
		}
		begin := int64(0)
		if order == 0 {
			begin = max(0, from.Offset-from.Offset%BlockBytes)
		}
		err := s.scrubVolume(v, begin, vi.EndBytes, buf, report, func(end, n int64) error {
			total += n
			s.stats.scrubbedBytes.Add(n)
			reached(ScrubPlace{Volume: vi.ID, Offset: end})
			if err := ctx.Err(); err != nil || bytesPerSec <= 0 {
				return err
			}
			ahead := time.Duration(float64(total)/float64(bytesPerSec)*float64(time.Second)) - time.Since(start)
			if ahead <= 0 {
				return nil
			}
			timer.Reset(ahead)
			select {
			case <-timer.C:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) scrubVolume(v *Vol, begin, end int64, buf []byte, report func(ScrubError), pace func(end, n int64) error) error {
	for off := begin; off < end; {
		mapped, n, err := s.Mapped(v, off, end-off)
		if err != nil {
			if errors.Is(err, blockdev.ErrGone) {
				return err
			}
			report(ScrubError{Volume: v.id, Offset: off, Err: err}) // the page is bad
			off += SpanBytes - off%SpanBytes
			continue
		}
		if !mapped {
			off += n
			continue
		}
		n = min(n, ChunkBytes-off%ChunkBytes)
		if err := s.scrubRange(v, off, buf[:n], report); err != nil {
			return err
		}
		off += n
		if err := pace(off, n); err != nil {
			return err
		}
	}
	return nil
}

// scrubRange reads a range, and block by block when that fails.
func (s *Store) scrubRange(v *Vol, off int64, p []byte, report func(ScrubError)) error {
	op := &Op{Kind: OpRead, Raw: true, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}}
	err := s.wait(op)
	switch {
	case err == nil || errors.Is(err, blockdev.ErrBusy): // busy: hosts rewrite it right now
		return nil
	case !errors.Is(err, blockdev.ErrMedium):
		return fmt.Errorf("scrub of volume %x at %d: %w", v.id, off, err)
	case len(p) == BlockBytes:
		report(ScrubError{Volume: v.id, Offset: off, Err: err})
		return nil
	}
	for i := 0; i < len(p); i += BlockBytes {
		if err := s.scrubRange(v, off+int64(i), p[i:i+BlockBytes], report); err != nil {
			return err
		}
	}
	return nil
}
