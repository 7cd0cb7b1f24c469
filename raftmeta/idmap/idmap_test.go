package idmap

import (
	"bytes"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A Map does what a built-in map does, in order, and older maps stay what
// they were.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m Map[int]
		model := map[ID]int{}
		type version struct {
			m     Map[int]
			model map[ID]int
		}
		var old []version
		for step := range rapid.IntRange(1, 60).Draw(t, "steps") {
			var id ID
			id[0] = rapid.SampledFrom([]byte{0, 7, 255}).Draw(t, "bucket")
			id[15] = rapid.ByteRange(0, 9).Draw(t, "id")
			if rapid.Bool().Draw(t, "remove") {
				m = m.Without(id)
				delete(model, id)
			} else {
				m = m.With(id, step)
				model[id] = step
			}
			old = append(old, version{m, maps.Clone(model)})
		}
		for _, v := range old {
			same(t, v.m, v.model)
		}
	})
}

func same(t *rapid.T, m Map[int], model map[ID]int) {
	if m.Len() != len(model) {
		t.Fatalf("Len is %d, want %d", m.Len(), len(model))
	}
	got, last := map[ID]int{}, []byte(nil)
	for id, v := range m.All() {
		if bytes.Compare(last, id[:]) >= 0 && last != nil {
			t.Fatalf("%x comes after %x", id, last)
		}
		last, got[id] = bytes.Clone(id[:]), v
		if w, ok := m.Get(id); !ok || w != v {
			t.Fatalf("Get(%x) = %d, %t, All said %d", id, w, ok, v)
		}
	}
	if !maps.Equal(got, model) {
		t.Fatalf("got %v, want %v", got, model)
	}
}

func TestGetDoesNotAllocate(t *testing.T) {
	m := Map[int]{}.With(ID{3}, 4)
	if n := testing.AllocsPerRun(100, func() { m.Get(ID{3}) }); n != 0 {
		t.Errorf("Get allocates %g times", n)
	}
}
