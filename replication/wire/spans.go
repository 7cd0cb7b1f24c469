package wire

import "slices"

// span is bytes from to to, without to.
type span struct{ from, to int }

// spans is a set of bytes: sorted spans that don't touch.
type spans []span

// add puts from..to in, and returns how many bytes of it were new. It fails,
// having done nothing, when the set would have more than limit spans.
func (s *spans) add(from, to, limit int) (fresh int, ok bool) {
	set := *s
	// The usual case: it goes on where the last one ended.
	if n := len(set); n > 0 && set[n-1].to == from {
		set[n-1].to = to
		return to - from, true
	}
	i := 0
	for i < len(set) && set[i].to < from {
		i++
	}
	j, merged := i, span{from, to}
	fresh = to - from
	for j < len(set) && set[j].from <= to {
		fresh -= max(0, min(to, set[j].to)-max(from, set[j].from))
		merged.from = min(merged.from, set[j].from)
		merged.to = max(merged.to, set[j].to)
		j++
	}
	if i == j {
		if len(set) >= limit {
			return 0, false
		}
		*s = slices.Insert(set, i, merged)
		return fresh, true
	}
	set[i] = merged
	*s = slices.Delete(set, i+1, j)
	return fresh, true
}

// lead is how many bytes from 0 on are there without a gap.
func (s spans) lead() int {
	if len(s) == 0 || s[0].from > 0 {
		return 0
	}
	return s[0].to
}
