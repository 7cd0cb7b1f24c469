package store

import (
	"bytes"
	"slices"
	"testing"
)

// Extents that are freed were never written: their metadata is given back, and the
// others, and the notes, stay as they are, also after the next start.
func TestFreeExtents(t *testing.T) {
	d, s, v := newTest(t, 64<<20, testOptions())
	before := s.Stats()
	for _, extent := range []int64{0, 1, 3} {
		for _, at := range []int64{0, 5 * SpanBytes} {
			op := &Op{Kind: OpWrite, Vol: v, Off: extent*ExtentBytes + at, Len: ChunkBytes, Data: [][]byte{fill(ChunkBytes, uint64(extent+1))}, Ver: Version{2, 7}, Note: &Note{Tail: true}}
			if err := s.wait(op); err != nil {
				t.Fatal(err)
			}
		}
	}
	notes := stateOf(t, s, v)
	if got := s.Extents(VolumeID{7}); !slices.Equal(got, []uint32{0, 1, 3}) || s.Extents(VolumeID{9}) != nil {
		t.Fatal(got)
	}
	for range 2 { // what is not there is free
		if err := s.FreeExtents(v, []uint32{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if got := s.Extents(VolumeID{7}); !slices.Equal(got, []uint32{0}) {
			t.Errorf("extents %d", got)
		}
		if st := s.Stats(); st.Extents != before.Extents+2 { // of the data, and of the notes
			t.Errorf("%d entries, before there were %d", st.Extents, before.Extents)
		}
		if st := stateOf(t, s, v); !slices.Equal(st.Tail, notes.Tail) {
			t.Errorf("notes %+v", st)
		}
		for extent, want := range []Version{{2, 7}, {}, {}, {}} {
			vers, data := make([]Version, 1), make([]byte, BlockBytes)
			off := int64(extent)*ExtentBytes + 5*SpanBytes
			err := s.Versions(v, off, vers)
			if err == nil {
				err = s.wait(&Op{Kind: OpRead, Vol: v, Off: off, Len: BlockBytes, Data: [][]byte{data}})
			}
			zero := bytes.Equal(data, make([]byte, BlockBytes))
			if err != nil || vers[0] != want || zero != (extent > 0) {
				t.Errorf("extent %d: version %v, zero %v, %v", extent, vers[0], zero, err)
			}
		}
		s = openTest(t, d)
		v, _ = s.OpenVolume(VolumeID{7})
	}
}

// When only part of an extent was freed, as after a crash, no region without its data has a
// version.
func TestPartOfAnExtentThatIsFreedHasNoVersions(t *testing.T) {
	_, s, v := newTest(t, 16<<20, testOptions())
	for _, at := range []int64{0, SpanBytes} {
		if err := s.wait(&Op{Kind: OpWrite, Vol: v, Off: at, Len: ChunkBytes, Data: [][]byte{fill(ChunkBytes, 1)}, Ver: Version{2, 7}, Note: &Note{Tail: true}}); err != nil {
			t.Fatal(err)
		}
	}
	p := s.pieces(v, func(uint32) bool { return true })[0]
	if err := s.clearPiece(v, p, SpanBytes, func() Version { return NoVersion }); err != nil {
		t.Fatal(err)
	}
	vers := make([]Version, 1)
	for at, want := range map[int64]Version{0: {2, 7}, SpanBytes: NoVersion} {
		if err := s.Versions(v, at, vers); err != nil || vers[0] != want {
			t.Errorf("at %d: %v, want %v: %v", at, vers[0], want, err)
		}
	}
}
