package replica

import (
	"testing"

	"pgregory.net/rapid"
)

// The window says of every ID what a map of all of them would.
func TestWindowAgreesWithMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		start := rapid.Uint64Range(0, 200).Draw(t, "start")
		w.reset(start)
		seen, oldest, highest := map[uint64]bool{}, start+1, start
		for range rapid.IntRange(1, 300).Draw(t, "requests") {
			id := rapid.Uint64Range(max(oldest, 40)-40, highest+40).Draw(t, "id")
			claims := rapid.Uint64Range(oldest, max(id, oldest)).Draw(t, "oldest")
			want := id >= oldest && !seen[id]
			if got := w.first(id, claims); got != want {
				t.Fatalf("ID %d with oldest %d: first is %v, want %v", id, claims, got, want)
			}
			if want {
				seen[id] = true
				oldest, highest = max(oldest, min(claims, id)), max(highest, id)
			}
		}
		if len(w.words) > int(highest-oldest)/64+2 {
			t.Fatalf("%d words for the IDs from %d to %d", len(w.words), oldest, highest)
		}
	})
}

// An ID far ahead is no reason to take memory for all those before it.
func TestWindowIsBounded(t *testing.T) {
	var w window
	w.reset(1)
	if w.first(1<<40, 1) || len(w.words) > 0 {
		t.Error("took an ID far beyond any that an owner could have in flight")
	}
}

func TestRegionSet(t *testing.T) {
	s := regionSet{}
	for n := int64(0); n < 300; n += 3 {
		s.add(n)
	}
	for n := range int64(300) {
		if s.has(n) != (n%3 == 0) {
			t.Errorf("has(%d) = %v", n, s.has(n))
		}
	}
}
