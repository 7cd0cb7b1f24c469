package disk_test

import (
	"path/filepath"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
	"blockd.dev/blockdev/disk/sim"
)

// open makes a file of disktest.SizeBytes and opens it.
func open(t *testing.T, o disk.Options) disk.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if _, err := disk.Create(path, disktest.SizeBytes); err != nil {
		t.Fatal(err)
	}
	d, err := disk.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestConformance runs the one suite over every way to drive a disk.
func TestConformance(t *testing.T) {
	makers := map[string]disktest.Maker{
		"io_uring":        func(t *testing.T) disk.Disk { return open(t, disk.Options{Driver: disk.DriverURing}) },
		"io_uring-depth3": func(t *testing.T) disk.Disk { return open(t, disk.Options{Driver: disk.DriverURing, QueueDepth: 3}) },
		"io_uring-buffered": func(t *testing.T) disk.Disk {
			return open(t, disk.Options{Driver: disk.DriverURing, Buffered: true})
		},
		"pread":         func(t *testing.T) disk.Disk { return open(t, disk.Options{Driver: disk.DriverPread}) },
		"pread-1worker": func(t *testing.T) disk.Disk { return open(t, disk.Options{Driver: disk.DriverPread, Workers: 1}) },
		"pread-buffered": func(t *testing.T) disk.Disk {
			return open(t, disk.Options{Driver: disk.DriverPread, Buffered: true})
		},
		"mock-ring":        func(t *testing.T) disk.Disk { return disk.OverMock(t, disktest.SizeBytes, 64, 1) },
		"mock-ring-depth1": func(t *testing.T) disk.Disk { return disk.OverMock(t, disktest.SizeBytes, 1, 2) },
		"sim-inline":       func(*testing.T) disk.Disk { return sim.New(disktest.SizeBytes, sim.Options{}) },
		"sim-async": func(*testing.T) disk.Disk {
			return sim.New(disktest.SizeBytes, sim.Options{Mode: sim.Async, Shuffle: true, Seed: 1})
		},
	}
	for name, maker := range makers {
		t.Run(name, func(t *testing.T) { disktest.Run(t, maker) })
	}
}
