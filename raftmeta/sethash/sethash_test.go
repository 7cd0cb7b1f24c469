package sethash

import (
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"
)

// However elements come and go, the hash depends on those that are there.
func TestOrderLeavesNoTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := map[byte]bool{}
		var s Sum
		for _, e := range rapid.SliceOf(rapid.ByteRange(0, 5)).Draw(t, "toggles") {
			if h := sha256.Sum256([]byte{e}); in[e] {
				s = s.Sub(h)
				delete(in, e)
			} else {
				s = s.Add(h)
				in[e] = true
			}
		}
		var want Sum
		for e := range in {
			want = want.Add(sha256.Sum256([]byte{e}))
		}
		if s != want || s.Bytes() != want.Bytes() {
			t.Fatalf("%v after toggling, %v of %v", s, want, in)
		}
		if len(in) > 0 && s == (Sum{}) {
			t.Fatal("a set of some hashes like the empty one")
		}
	})
}
