package store

import "math/bits"

// allocator hands out chunks. It knows more chunks as taken than the bitmap on
// disk does: those promised to writes whose record is not durable yet, and
// those freed but still under a write to their old owner's place.
//
// It keeps extents together: a new extent gets a run of 64 MiB that is wholly
// free when there is one, and its regions go to their place in that run while
// that is free. What has no place goes to runs that are partly used already, so
// that whole runs last as long as possible.
type allocator struct {
	words    []uint64 // bit set: taken
	runFree  []uint16 // free chunks per run of chunksPerRun
	chunks   uint32
	free     uint32 // not taken
	reserved uint32 // promised to small writes into regions that have no chunk
	cursor   uint32 // run where the last search ended
}

func newAllocator(chunks uint32) *allocator {
	runs := (chunks + chunksPerRun - 1) / chunksPerRun
	a := &allocator{words: make([]uint64, runs*chunksPerRun/64), runFree: make([]uint16, runs), chunks: chunks, free: chunks}
	for r := range runs {
		a.runFree[r] = uint16(min(chunks-r*chunksPerRun, chunksPerRun))
	}
	for c := chunks; c < runs*chunksPerRun; c++ { // beyond the disk: never free
		a.words[c/64] |= 1 << (c % 64)
	}
	return a
}

func (a *allocator) taken(c uint32) bool { return a.words[c/64]&(1<<(c%64)) != 0 }

// take marks chunk c; false when it is taken already.
func (a *allocator) take(c uint32) bool {
	if a.taken(c) {
		return false
	}
	a.words[c/64] |= 1 << (c % 64)
	a.runFree[c/chunksPerRun]--
	a.free--
	return true
}

// release gives chunk c back; false when it was not taken.
func (a *allocator) release(c uint32) bool {
	if !a.taken(c) {
		return false
	}
	a.words[c/64] &^= 1 << (c % 64)
	a.runFree[c/chunksPerRun]++
	a.free++
	return true
}

// available is how many chunks can be promised or taken now.
func (a *allocator) available() uint32 { return a.free - a.reserved }

// reserve promises n chunks to writes that take them later with alloc and
// unreserve.
func (a *allocator) reserve(n uint32) bool {
	if a.available() < n {
		return false
	}
	a.reserved += n
	return true
}

func (a *allocator) unreserve(n uint32) { a.reserved -= n }

// alloc takes one chunk: hint when that is free, else the next free one after
// the last search. The caller holds a reservation or has looked at available.
func (a *allocator) alloc(hint uint32) (uint32, bool) {
	if a.free == 0 {
		return noChunk, false
	}
	if hint < a.chunks && a.take(hint) {
		return hint, true
	}
	runs := uint32(len(a.runFree))
	for _, whole := range [2]bool{false, true} {
		for i := range runs {
			r := (a.cursor + i) % runs
			if a.runFree[r] == 0 || (!whole && a.runFree[r] == chunksPerRun) {
				continue
			}
			a.cursor = r
			for w := r * chunksPerRun / 64; ; w++ {
				if free := ^a.words[w]; free != 0 {
					c := w*64 + uint32(bits.TrailingZeros64(free))
					a.take(c)
					return c, true
				}
			}
		}
	}
	return noChunk, false
}

// findRun returns the first chunk of a wholly free run, or noChunk.
func (a *allocator) findRun() uint32 {
	for r, n := range a.runFree {
		if n == chunksPerRun {
			return uint32(r) * chunksPerRun
		}
	}
	return noChunk
}
