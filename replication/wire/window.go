package wire

// A sequence remembers which of the last sequenceSpan numbers were taken, so
// that each is taken once: packet numbers against replay, message IDs against
// delivering twice. It is a ring of bits; base is the number below which all
// count as taken.
type sequence struct {
	base uint64 // multiple of 64
	next uint64 // above every number taken
	bits [sequenceSpan / 64]uint64
}

// sequenceSpan is how far numbers may lie apart: several round trips at a
// million packets a second, and twice what a sender may have under way.
const sequenceSpan = 16384

// fresh tells whether number was not taken, and is not too old to know.
func (s *sequence) fresh(number uint64) bool {
	if number < s.base {
		return false
	}
	if number >= s.next {
		return true
	}
	return s.bits[number/64%(sequenceSpan/64)]&(1<<(number%64)) == 0
}

// take notes number as taken, dropping the oldest numbers when it lies too
// far ahead. It returns false if it was taken before.
func (s *sequence) take(number uint64) bool {
	if !s.fresh(number) {
		return false
	}
	if number >= s.base+sequenceSpan {
		base := number&^63 - sequenceSpan + 64
		if base-s.base >= sequenceSpan {
			clear(s.bits[:])
		} else {
			for n := s.base; n < base; n += 64 {
				s.bits[n/64%(sequenceSpan/64)] = 0
			}
		}
		s.base = base
	}
	s.bits[number/64%(sequenceSpan/64)] |= 1 << (number % 64)
	s.next = max(s.next, number+1)
	return true
}

// settle moves base past what is taken without a gap, and returns the first
// number that is not. It is for sequences that must not forget: see fits.
func (s *sequence) settle() uint64 {
	for s.bits[s.base/64%(sequenceSpan/64)] == ^uint64(0) {
		s.bits[s.base/64%(sequenceSpan/64)] = 0
		s.base += 64
	}
	return s.base
}

// fits tells that number can be taken without forgetting any that wasn't.
func (s *sequence) fits(number uint64) bool { return number < s.base+sequenceSpan }
