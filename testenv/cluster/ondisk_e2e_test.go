//go:build e2e

package cluster

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnDisk finds the disks in plain files, which are reserved and written, and none of it after Down.
func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	c, err := Up(t.Context(), Config{Dir: dir, Nodes: 1, Standalone: true, OnDisk: true, Written: true, DiskSize: 256 << 20})
	must(t, err)
	defer func() {
		if err := c.Down(); err != nil {
			t.Error(err)
		}
	}()
	n1 := places(t, c)["n1"]
	if below, err := mountsBelow(n1.Dir); err != nil || len(below) > 0 {
		t.Errorf("mounted below %s: %v, %v", n1.Dir, below, err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(n1.disk(0), &st))
	if st.Blocks*512 < 256<<20 {
		t.Errorf("%d bytes of the disk are reserved", st.Blocks*512)
	}
	f, err := os.Open(n1.disk(0))
	must(t, err)
	defer f.Close()
	if hole, err := f.Seek(0, unix.SEEK_HOLE); hole != 256<<20 || err != nil { // what is reserved and not written counts as one
		t.Errorf("the disk is written up to %d, %v", hole, err)
	}
	if _, err := c.Ctl(t.Context(), "n1", "volume", "create", "v", "--size", "64MiB"); err != nil {
		t.Error(err)
	}
	if err := c.DiskFull("n1", true); err == nil || !strings.Contains(err.Error(), "in memory") {
		t.Errorf("DiskFull on the machine's file system: %v", err)
	}
	must(t, c.Down())
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s after Down: %v", dir, err)
	}
}
