package localvol

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
)

// breakable is a disk whose writes and syncs fail when told to.
type breakable struct {
	disk.Disk
	mu     sync.Mutex
	broken bool
}

func (d *breakable) setBroken() {
	d.mu.Lock()
	d.broken = true
	d.mu.Unlock()
}

func (d *breakable) Submit(batch []*disk.IO) {
	d.mu.Lock()
	broken := d.broken
	d.mu.Unlock()
	for _, io := range batch {
		if broken && io.Op != disk.Read {
			io.Err = syscall.EIO
			io.Done(io)
			continue
		}
		d.Disk.Submit([]*disk.IO{io})
	}
}

// TestFailedStoreMakesVolumesReadOnly: every volume of a store that fails says so
// by a change notice, keeps serving reads, and a Resize under way ends.
func TestFailedStoreMakesVolumesReadOnly(t *testing.T) {
	d := &breakable{Disk: sim.New(64<<20, sim.Options{NoTrace: true})}
	if err := store.Format(d, store.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(d, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var vols []*Volume
	var changes []blockdev.Change
	for i := range byte(2) {
		v, err := Open(s, [16]byte{i + 1}, Options{SizeBytes: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if err := blockdev.WriteAt(v, bytes.Repeat([]byte{i + 1}, 8192), 1<<20); err != nil {
			t.Fatal(err)
		}
		v.Watch(func(c blockdev.Change) { changes = append(changes, c) })
		vols = append(vols, v)
	}
	d.setBroken()
	if err := vols[0].Resize(64 << 10); !errors.Is(err, blockdev.ErrIO) {
		t.Errorf("shrink on a failing disk: %v", err)
	}
	if !slices.Equal(changes, []blockdev.Change{blockdev.ChangeReadOnly, blockdev.ChangeReadOnly}) {
		t.Errorf("changes: %v", changes)
	}
	for i, v := range vols {
		g := v.Geometry()
		if !g.ReadOnly || g.SizeBytes != 4<<20 {
			t.Errorf("volume %d: geometry %+v", i, g)
		}
		p := make([]byte, 8192)
		if err := blockdev.ReadAt(v, p, 1<<20); err != nil || p[0] != byte(i+1) {
			t.Errorf("volume %d: read: %v", i, err)
		}
		if err := blockdev.WriteAt(v, p, 0); !errors.Is(err, blockdev.ErrReadOnly) {
			t.Errorf("volume %d: write: %v", i, err)
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); !errors.Is(err, syscall.EIO) {
		t.Errorf("close of the store: %v", err)
	}
}

// TestShrinkForgets: what a shrink cuts off never comes back, also when a crash
// came between the shrink of the record elsewhere and that of the data.
func TestShrinkForgets(t *testing.T) {
	d := sim.New(64<<20, sim.Options{NoTrace: true})
	if err := store.Format(d, store.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(d, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	open := func(size int64) *Volume {
		v, err := Open(s, [16]byte{1}, Options{SizeBytes: size, BlockSize: 512})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	full := bytes.Repeat([]byte{0x5a}, 3<<20)
	check := func(v *Volume, keep int) {
		t.Helper()
		got := make([]byte, 3<<20)
		if err := blockdev.ReadAt(v, got, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[:keep], full[:keep]) || !bytes.Equal(got[keep:], make([]byte, 3<<20-keep)) {
			t.Errorf("after a shrink to %d and growth: wrong content", keep)
		}
	}
	v := open(3 << 20)
	if err := blockdev.WriteAt(v, full, 0); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{2<<20 + 4096, 68 << 10} {
		if err := errors.Join(v.Resize(size), v.Resize(3<<20)); err != nil {
			t.Fatal(err)
		}
		check(v, int(size))
	}
	if err := errors.Join(blockdev.WriteAt(v, full, 0), v.Close()); err != nil {
		t.Fatal(err)
	}
	v = open(1 << 20)
	if err := v.Resize(3 << 20); err != nil {
		t.Fatal(err)
	}
	check(v, 1<<20)
	if err := Delete(s, [16]byte{1}); !errors.Is(err, store.ErrBusy) {
		t.Errorf("delete of an open volume: %v", err)
	}
	if err := errors.Join(v.Close(), Delete(s, [16]byte{1})); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.UsedBytes != 0 || st.Extents != 0 || st.MetaPages != 0 {
		t.Errorf("after deletion %d bytes, %d extents, %d pages are in use", st.UsedBytes, st.Extents, st.MetaPages)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
