package replica

// regionSet is a set of regions by number, a bit each.
type regionSet map[int64]uint64

func (s regionSet) has(n int64) bool { return s[n>>6]>>(n&63)&1 == 1 }
func (s regionSet) add(n int64)      { s[n>>6] |= 1 << (n & 63) }

// windowMax bounds how far the IDs of a session may spread: far more than an
// owner can have in flight before the oldest request is overdue.
const windowMax = 1 << 26

// window knows the IDs of a session that were taken, from the oldest on that
// the owner waits for.
type window struct {
	oldest uint64
	base   uint64   // multiple of 64: ID of the first bit in words
	words  []uint64 // a bit for each ID taken
}

// reset forgets everything; no ID up to oldest will be taken.
func (w *window) reset(oldest uint64) {
	w.oldest, w.base = oldest+1, (oldest+1)&^63
	w.words = w.words[:0]
}

// first tells whether id comes for the first time, and takes it.
func (w *window) first(id, oldest uint64) bool {
	if id < w.oldest || id-w.oldest > windowMax {
		return false
	}
	i, bit := int((id-w.base)>>6), uint64(1)<<(id&63)
	for len(w.words) <= i {
		w.words = append(w.words, 0)
	}
	if w.words[i]&bit != 0 {
		return false
	}
	w.words[i] |= bit
	if oldest > w.oldest && oldest <= id {
		w.oldest = oldest
		if n := int((oldest - w.base) >> 6); n > 0 {
			w.words = w.words[:copy(w.words, w.words[n:])]
			w.base += uint64(n) << 6
		}
	}
	return true
}
