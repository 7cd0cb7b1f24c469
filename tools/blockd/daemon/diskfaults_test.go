package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// TestOneDisksFaults: rules for a disk count before those for all, whose
// name a simulated disk does not share.
func TestOneDisksFaults(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faults")
	s := sim.New(1<<20, sim.Options{})
	var cfg Config
	cfg.DiskFaults(path)
	d := cfg.wrapDisk(s)
	defer d.Close()
	read := func() error {
		done := make(chan error, 1)
		d.Submit([]*disk.IO{{Op: disk.Read, Bufs: [][]byte{disk.NewAligned(disk.BlockBytes)}, Done: func(io *disk.IO) { done <- io.Err }}})
		return <-done
	}
	for i, step := range []struct {
		file, text string
		want       error
	}{
		{path, "read err=EIO\n", syscall.EIO},
		{path + "." + filepath.Base(s.Info().Path), "read err=ENXIO\n", syscall.ENXIO},
		{path + ".another", "read err=ENODEV\n", syscall.ENXIO},
	} {
		if err := os.WriteFile(step.file, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(faultsAge) // sleep: until the file is looked at again
		if err := read(); !errors.Is(err, step.want) {
			t.Errorf("step %d: %v, want %v", i, err, step.want)
		}
	}
}

// TestDiskFaultsFollowTheirFile: rules come, change and go with the file, and
// one that nobody understands fails everything.
func TestDiskFaultsFollowTheirFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faults")
	var cfg Config
	cfg.DiskFaults(path)
	d := cfg.wrapDisk(sim.New(1<<20, sim.Options{}))
	defer d.Close()
	do := func(op disk.Op) error {
		done := make(chan error, 1)
		io := &disk.IO{Op: op, Bufs: [][]byte{disk.NewAligned(disk.BlockBytes)}, Done: func(io *disk.IO) { done <- io.Err }}
		d.Submit([]*disk.IO{io})
		return <-done
	}
	for i, step := range []struct {
		text        string // "": no file
		read, write error
	}{
		{"", nil, nil},
		{"read err=EIO\n", syscall.EIO, nil},
		{"write err=ENOSPC\n\nread err=ENXIO\n", syscall.ENXIO, syscall.ENOSPC},
		{"write err=NONSENSE\n", syscall.EIO, syscall.EIO},
		{"", nil, nil},
	} {
		var err error
		if step.text == "" {
			err = os.RemoveAll(path)
		} else {
			err = errors.Join(os.WriteFile(path+".new", []byte(step.text), 0o600), os.Rename(path+".new", path))
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(faultsAge) // sleep: until the file is looked at again
		if err := do(disk.Read); !errors.Is(err, step.read) {
			t.Errorf("step %d: read: %v, want %v", i, err, step.read)
		}
		if err := do(disk.Write); !errors.Is(err, step.write) {
			t.Errorf("step %d: write: %v, want %v", i, err, step.write)
		}
	}
}
