package localvol

import (
	"path/filepath"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
	"blockd.dev/blockdev/store"
)

// small is a configuration in which every limit is met all the time.
var small = store.Options{DirtyBytes: 64 * store.BlockBytes, PagesMax: 4, BatchBlocks: 32, InFlight: 3}

func newVolume(t testing.TB, d disk.Disk, o store.Options, vo Options) *Volume {
	t.Helper()
	if err := store.Format(d, store.FormatOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(d, o)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(s, [16]byte{1}, vo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// TestConformance runs the suite of every device on a simulated disk that is
// tiny, on a real file, and for both block sizes.
func TestConformance(t *testing.T) {
	for name, bs := range map[string]int{"512": 512, "4096": 4096} {
		t.Run("sim/"+name, func(t *testing.T) {
			devtest.Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
				d := sim.New(64<<20, sim.Options{Mode: sim.Async, Shuffle: true, NoTrace: true})
				t.Cleanup(func() { d.Close() })
				return newVolume(t, d, small, Options{SizeBytes: 8 << 20, BlockSize: bs}), nil
			})
		})
		t.Run("file/"+name, func(t *testing.T) {
			devtest.Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
				a, err := arena.New(arena.Config{SizeBytes: 32 << 20})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { a.Close() })
				path := filepath.Join(t.TempDir(), "disk")
				if _, err := disk.Create(path, 64<<20); err != nil {
					t.Fatal(err)
				}
				d, err := disk.Open(path, disk.Options{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { d.Close() })
				return newVolume(t, d, store.Options{}, Options{SizeBytes: 8 << 20, BlockSize: bs}), a
			})
		})
	}
}
