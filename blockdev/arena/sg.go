package arena

import (
	"math/bits"
)

// SG is a scatter-gather list over buffers that it owns. The zero value is
// empty; the struct is meant to be embedded and reused: Release keeps the
// capacity of its slices, so in the steady state nothing is allocated.
// It must not be copied while it holds buffers.
type SG struct {
	// Segs are the segments in order. Their total is the length asked for;
	// each but the last is a multiple of 4 KiB long, each starts aligned to
	// 4 KiB. Callers may read the slice and the memory, but not reorder it.
	Segs [][]byte

	bufs []*Buf
}

// GetSG fills sg, which must be empty, with buffers of exactly n bytes in
// total, in few segments: a class is used when it would be filled by more than
// half. It returns false, and keeps nothing, when the arena can't lend that
// much or n is negative.
func (a *Arena) GetSG(n int, sg *SG) bool {
	if len(sg.bufs) != 0 {
		panic("arena: GetSG into a scatter-gather list that still holds buffers; Release it first")
	}
	if n < 0 {
		return false
	}
	sg.Segs = sg.Segs[:0]
	for left := n; left > 0; {
		b := a.getPiece(left)
		if b == nil {
			a.classes[pieceClass(left)].failures.Add(1)
			sg.Release()
			return false
		}
		b.n = int32(min(left, b.slab.class.sizeBytes))
		left -= int(b.n)
		sg.Add(b)
	}
	return true
}

// getPiece lends a buffer for the front of n bytes: of the fitting class,
// else of the next smaller ones that have some, else of the larger ones.
func (a *Arena) getPiece(n int) *Buf {
	best := pieceClass(n)
	for ci := best; ci >= 0; ci-- {
		if b := a.take(ci); b != nil {
			return b
		}
	}
	for ci := best + 1; ci < numClasses; ci++ {
		if b := a.take(ci); b != nil {
			return b
		}
	}
	return nil
}

// pieceClass is the class for the front of n bytes: the largest that n would
// fill by more than half, so that at most as much memory is lent again as is
// asked for.
func pieceClass(n int) int {
	if n <= pageBytes {
		return 0
	}
	// 2n-1 >= size, that is n > size/2; classes grow by 4 from 4 KiB (2^12).
	return min((bits.Len(uint(2*n-1))-1-12)/2, numClasses-1)
}

// Add appends b, whose ownership passes to sg, as the last segment.
func (sg *SG) Add(b *Buf) {
	sg.bufs = append(sg.bufs, b)
	sg.Segs = append(sg.Segs, b.Bytes())
}

// Len is the total of the segments in bytes.
func (sg *SG) Len() int {
	n := 0
	for _, s := range sg.Segs {
		n += len(s)
	}
	return n
}

// Release gives every buffer back and empties sg for reuse. Releasing an
// empty one does nothing.
func (sg *SG) Release() {
	for i, b := range sg.bufs {
		b.Release()
		sg.bufs[i] = nil
	}
	clear(sg.Segs)
	sg.bufs, sg.Segs = sg.bufs[:0], sg.Segs[:0]
}

// CopyIn copies p into the list from byte off on and returns how many bytes
// fitted.
func (sg *SG) CopyIn(off int, p []byte) int {
	done := 0
	for _, s := range sg.Segs {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		n := copy(s[off:], p[done:])
		done += n
		off = 0
		if done == len(p) {
			break
		}
	}
	return done
}

// CopyOut copies from byte off of the list on into p and returns how many
// bytes there were.
func (sg *SG) CopyOut(off int, p []byte) int {
	done := 0
	for _, s := range sg.Segs {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		n := copy(p[done:], s[off:])
		done += n
		off = 0
		if done == len(p) {
			break
		}
	}
	return done
}

// Slice appends to dst the segments that cover bytes [off, off+n) and returns
// it. They alias the list's memory. A range beyond the end is cut short.
func (sg *SG) Slice(off, n int, dst [][]byte) [][]byte { return Slice(sg.Segs, off, n, dst) }

// Slice is SG.Slice of any list.
func Slice(segs [][]byte, off, n int, dst [][]byte) [][]byte {
	for _, s := range segs {
		if n <= 0 {
			break
		}
		if off >= len(s) {
			off -= len(s)
			continue
		}
		s = s[off:min(len(s), off+n)]
		off = 0
		n -= len(s)
		dst = append(dst, s)
	}
	return dst
}
