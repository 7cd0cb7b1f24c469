package extmap

import (
	"errors"
	"slices"
	"testing"
)

// placed is a volume with these sets of disks; those of out are out of sync.
func placed(t *testing.T, p Policy, out []Disk, sets ...[]Disk) Map {
	t.Helper()
	id := VolumeID{1}
	m, err := Map{}.Create(id, p, uint32(len(sets)))
	for i, set := range sets {
		if err == nil {
			m, err = m.Allocate(id, uint32(i), set, racks{30})
		}
	}
	for _, d := range out {
		if err == nil {
			m, err = m.Mark(id, d, 0, MarkOut)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A disk takes the place of another where nothing is lost by it: writes need as many
// disks in sync as before, and the last good copy is never touched.
func TestReplace(t *testing.T) {
	three, two, id := Policy{Replicas: 3}, Policy{Replicas: 2}, VolumeID{1}
	for _, c := range []struct {
		what     string
		m        Map
		from, to Disk
		min      int
		want     error
		sets     [][]Disk
	}{
		{"a spare for a lost disk", placed(t, three, []Disk{5}, []Disk{1, 3, 5}, []Disk{5, 7, 1}), 5, 9, 2, nil, [][]Disk{{1, 3, 9}, {9, 7, 1}}},
		{"a spare for one in sync", placed(t, three, nil, []Disk{1, 3, 5}), 5, 9, 2, nil, [][]Disk{{1, 3, 9}}},
		{"beside the lost disk", placed(t, three, []Disk{5}, []Disk{1, 3, 5}), 5, 6, 2, nil, [][]Disk{{1, 3, 6}}},
		{"beside another copy", placed(t, three, []Disk{5}, []Disk{1, 3, 5}), 5, 2, 2, ErrDisks, nil},
		{"one that has another extent", placed(t, three, []Disk{5}, []Disk{1, 3, 5}, []Disk{7, 9, 11}), 5, 7, 2, nil, [][]Disk{{1, 3, 7}, {7, 9, 11}}},
		{"one that shares an extent with the lost disk", placed(t, three, []Disk{5}, []Disk{1, 3, 5}, []Disk{1, 7, 5}), 5, 7, 2, ErrLastCopy, nil},
		{"the same, and one in sync is enough for writes", placed(t, three, []Disk{5}, []Disk{1, 3, 5}, []Disk{1, 7, 5}), 5, 7, 1, nil, [][]Disk{{1, 3, 7}, {1, 7, 5}}},
		{"the same, and the disk is not lost", placed(t, three, nil, []Disk{1, 3, 5}, []Disk{1, 7, 5}), 5, 7, 2, nil, [][]Disk{{1, 3, 7}, {1, 7, 5}}},
		{"one in sync of which writes need it", placed(t, three, []Disk{1}, []Disk{1, 3, 5}), 5, 9, 2, ErrLastCopy, nil},
		{"the last one in sync", placed(t, three, []Disk{1, 3}, []Disk{1, 3, 5}), 5, 9, 1, ErrLastCopy, nil},
		{"a lost one of two, of which writes need both", placed(t, two, []Disk{3}, []Disk{1, 3}), 3, 9, 2, nil, [][]Disk{{1, 9}}},
		{"a good one of two, of which writes need both", placed(t, two, nil, []Disk{1, 3}), 3, 9, 2, ErrLastCopy, nil},
		{"one that is out of sync itself", placed(t, two, []Disk{7}, []Disk{1, 3}, []Disk{7, 9}), 3, 7, 1, ErrNotInSync, nil},
		{"one that does not exist", placed(t, three, nil, []Disk{1, 3, 5}), 5, 31, 2, ErrDisks, nil},
		{"one that keeps nothing", placed(t, three, nil, []Disk{1, 3, 5}), 7, 9, 2, ErrDisks, nil},
	} {
		next, err := c.m.Replace(id, c.from, c.to, c.m.Volume(id).Sync(c.from).Generation, c.min, racks{30})
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		for i, want := range c.sets {
			if e, _ := next.Volume(id).Extent(uint32(i)); !slices.Equal(e.Disks, want) {
				t.Errorf("%s: extent %d is on %d, want %d", c.what, i, e.Disks, want)
			}
		}
		if s := next.Volume(id).Sync(c.to); err == nil && (s.State != OutOfSync || s.Generation != 1) {
			t.Errorf("%s: %+v", c.what, s)
		}
	}
	m := placed(t, three, []Disk{5}, []Disk{1, 3, 5})
	if _, err := m.Replace(id, 5, 9, 0, 2, racks{30}); !errors.Is(err, ErrGeneration) {
		t.Errorf("decided on an older generation: %v", err)
	}
	// A disk that comes back later begins above what it ever had.
	m, err := m.Replace(id, 5, 9, 1, 2, racks{30})
	for _, c := range []Change{MarkRebuilding, MarkIn} {
		if err == nil {
			m, err = m.Mark(id, 9, m.Volume(id).Sync(9).Generation, c)
		}
	}
	if err == nil {
		m, err = m.Replace(id, 9, 5, 2, 2, racks{30})
	}
	if s := m.Volume(id).Sync(5); err != nil || s != (Sync{Disk: 5, State: OutOfSync, Generation: 3}) {
		t.Errorf("%+v, %v", s, err)
	}
}
