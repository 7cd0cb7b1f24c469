package localvol

import (
	"bytes"
	"errors"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
)

// TestPoisonOutlivesTheStore: single sectors, in data and in a hole, stay
// unreadable over a crash and over a proper restart; check and scrub find
// nothing wrong in that, and a write heals what it covers and no more.
func TestPoisonOutlivesTheStore(t *testing.T) {
	d := sim.New(64<<20, sim.Options{NoTrace: true})
	if err := store.Format(d, store.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	open := func() (*store.Store, *Volume) {
		t.Helper()
		s, err := store.Open(d, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(s, [16]byte{1}, Options{SizeBytes: 8 << 20, BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		return s, v
	}
	shut := func(s *store.Store, v *Volume) {
		t.Helper()
		if err := errors.Join(v.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	const inData, inHole = 4096 + 3*512, 4<<20 + 512
	data := bytes.Repeat([]byte{7}, 64<<10)
	expect := func(v *Volume) {
		t.Helper()
		for _, off := range []int64{inData, inHole} {
			if err := blockdev.ReadAt(v, make([]byte, 512), off); !errors.Is(err, blockdev.ErrPoisoned) {
				t.Fatalf("sector at %d: %v", off, err)
			}
			for _, beside := range []int64{off - 512, off + 512} {
				p := make([]byte, 512)
				if err := blockdev.ReadAt(v, p, beside); err != nil {
					t.Fatalf("sector at %d: %v", beside, err)
				}
				if want := byte(7 * (1 - beside>>22)); p[0] != want || p[511] != want {
					t.Fatalf("sector at %d holds %d, want %d", beside, p[0], want)
				}
			}
		}
	}
	_, v := open() // never closed: it crashes
	if err := blockdev.WriteAt(v, data, 0); err != nil {
		t.Fatal(err)
	}
	used, _ := v.Provisioning()
	for _, off := range []int64{inData, inHole} {
		if err := blockdev.Do(v, &blockdev.Request{Op: blockdev.OpPoison, Offset: off, Length: 512}); err != nil {
			t.Fatal(err)
		}
	}
	if now, _ := v.Provisioning(); now != used {
		t.Errorf("poison took %d bytes", now-used)
	}
	expect(v)
	s, v := open()
	expect(v)
	shut(s, v)
	s, v = open()
	expect(v)
	if err := s.Scrub(t.Context(), 0, func(e store.ScrubError) { t.Errorf("scrub: %v at %d", e.Err, e.Offset) }); err != nil {
		t.Fatal(err)
	}
	if n := s.Stats().BadBlocks; n != 0 {
		t.Errorf("%d bad blocks", n)
	}
	shut(s, v)
	var out bytes.Buffer
	r, err := store.Check(d, &out)
	if err != nil || r.Problems != 0 || r.Poisoned != 2 {
		t.Fatalf("check: %+v, %v\n%s", r, err, out.String())
	}
	s, v = open()
	if err := blockdev.WriteAt(v, data[:512], inData-512); err != nil { // the same block, not the sector
		t.Fatal(err)
	}
	expect(v)
	for _, off := range []int64{inData, inHole} {
		if err := blockdev.WriteAt(v, data[:512], off); err != nil {
			t.Fatal(err)
		}
		if err := blockdev.ReadAt(v, make([]byte, 4096), off/4096*4096); err != nil {
			t.Errorf("healed block at %d: %v", off, err)
		}
	}
	shut(s, v)
}
