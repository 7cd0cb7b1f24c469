package disk_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
)

// fds counts this process's descriptors that refer to path.
func fds(t *testing.T, path string) (n int) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && to == path {
			n++
		}
	}
	return n
}

func create(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if note, err := disk.Create(path, size); err != nil || note != "" {
		t.Fatal(note, err)
	}
	return path
}

// TestOneOwner: a second Open fails and names the file, and leaves no
// descriptor; after Close the next one succeeds at once, many times.
func TestOneOwner(t *testing.T) {
	for _, driver := range []string{disk.DriverURing, disk.DriverPread} {
		path := create(t, disktest.SizeBytes)
		for i := range 20 {
			d, err := disk.Open(path, disk.Options{Driver: driver})
			if err != nil {
				t.Fatalf("%s: open %d: %v", driver, i, err)
			}
			if i == 0 {
				_, err := disk.Open(path, disk.Options{})
				if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "in use") {
					t.Errorf("second open: %v", err)
				}
				if n := fds(t, path); n != 1 {
					t.Errorf("%d descriptors after a failed open", n)
				}
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); !errors.Is(err, disk.ErrClosed) {
				t.Fatalf("second Close: %v", err)
			}
		}
		if n := fds(t, path); n != 0 {
			t.Errorf("%d descriptors after Close", n)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	small := filepath.Join(dir, "small")
	if err := os.WriteFile(small, make([]byte, 4095), 0o600); err != nil {
		t.Fatal(err)
	}
	good := create(t, disktest.SizeBytes)
	cases := map[string]struct {
		path string
		o    disk.Options
		word string
	}{
		"missing":        {filepath.Join(dir, "none"), disk.Options{}, "no such file"},
		"directory":      {dir, disk.Options{}, "neither"},
		"character":      {os.DevNull, disk.Options{}, "neither"},
		"too small":      {small, disk.Options{}, "4095"},
		"unknown driver": {good, disk.Options{Driver: "spdk"}, "spdk"},
		"workers":        {good, disk.Options{Workers: 5000}, "workers"},
		"queue depth":    {good, disk.Options{QueueDepth: -1}, "queue depth"},
	}
	for name, c := range cases {
		d, err := disk.Open(c.path, c.o)
		if err == nil {
			d.Close()
			t.Errorf("%s: opened", name)
		} else if !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v does not say %q", name, err, c.word)
		}
		if n := fds(t, c.path); n != 0 && c.path != os.DevNull {
			t.Errorf("%s: %d descriptors left", name, n)
		}
	}
}

// TestInfoExplains: whatever is not the best has its reason in words.
func TestInfoExplains(t *testing.T) {
	path := create(t, disktest.SizeBytes)
	for _, c := range []struct {
		o      disk.Options
		driver string
		direct bool
	}{
		{disk.Options{}, disk.DriverURing, true},
		{disk.Options{Buffered: true}, disk.DriverURing, false},
		{disk.Options{Driver: disk.DriverPread}, disk.DriverPread, true},
	} {
		d, err := disk.Open(path, c.o)
		if err != nil {
			t.Fatal(err)
		}
		i := d.Info()
		if i.Driver != c.driver || (i.Direct && !c.direct) || i.Path != path || i.IsBlock || (i.Reason == "") != (i.Direct && c.o.Driver == "") {
			t.Errorf("%+v gives %+v", c.o, i)
		}
		d.Close()
	}
}

func TestCreate(t *testing.T) {
	path := create(t, disktest.SizeBytes)
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() != disktest.SizeBytes || st.Sys().(*syscall.Stat_t).Blocks*512 < disktest.SizeBytes {
		t.Errorf("size %d, %d sectors reserved", st.Size(), st.Sys().(*syscall.Stat_t).Blocks)
	}
	if _, err := disk.Create(path, disktest.SizeBytes); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	for _, size := range []int64{0, -4096, 4097, 1 << 60} {
		p := filepath.Join(t.TempDir(), "bad")
		if _, err := disk.Create(p, size); err == nil {
			t.Errorf("size %d: created", size)
		}
		if _, err := os.Stat(p); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("size %d: the file stayed behind", size)
		}
	}
}

// TestShrunkFileIsAnError: a read beyond the end of a file that somebody cut
// short is EIO, never a success with old bytes.
func TestShrunkFileIsAnError(t *testing.T) {
	for _, driver := range []string{disk.DriverURing, disk.DriverPread} {
		path := create(t, disktest.SizeBytes)
		d, err := disk.Open(path, disk.Options{Driver: driver})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, blk); err != nil {
			t.Fatal(err)
		}
		if err := disktest.Do(d, &disk.IO{Op: disk.Read, Bufs: [][]byte{disk.NewAligned(2 * blk)}}); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %v, want EIO", driver, err)
		}
		d.Close()
	}
}

// TestNoAllocations: neither Submit nor completion allocates, for one segment
// and for several.
func TestNoAllocations(t *testing.T) {
	for _, driver := range []string{disk.DriverURing, disk.DriverPread} {
		d := open(t, disk.Options{Driver: driver})
		done := make(chan struct{}, 1)
		buf := disk.NewAligned(4 * blk)
		for name, io := range map[string]*disk.IO{
			"read":            {Op: disk.Read, Bufs: [][]byte{buf}},
			"dsync write":     {Op: disk.Write, Dsync: true, Bufs: [][]byte{buf}},
			"scattered read":  {Op: disk.Read, Bufs: [][]byte{buf[:blk], buf[blk : 2*blk], buf[2*blk:]}},
			"sync":            {Op: disk.Sync},
			"discard":         {Op: disk.Discard, Len: blk},
			"scattered write": {Op: disk.Write, Bufs: [][]byte{buf[:blk], buf[2*blk:]}},
		} {
			io.Done = func(*disk.IO) { done <- struct{}{} }
			batch := []*disk.IO{io}
			for range 200 { // every slot and worker has its memory
				d.Submit(batch)
				<-done
			}
			if n := testing.AllocsPerRun(100, func() { d.Submit(batch); <-done }); n != 0 {
				t.Errorf("%s: %s: %v allocations per I/O", driver, name, n)
			}
		}
		d.Close()
	}
}

func TestNewAligned(t *testing.T) {
	for _, n := range []int{0, 1, 4096, 5000, 1 << 20} {
		b := disk.NewAligned(n)
		if len(b) != n || cap(b) != n {
			t.Errorf("NewAligned(%d) has len %d cap %d", n, len(b), cap(b))
		}
		if n > 0 && n%blk == 0 && disk.Check(1<<30, &disk.IO{Op: disk.Read, Bufs: [][]byte{b}}) != nil {
			t.Errorf("NewAligned(%d) is not aligned", n)
		}
	}
}
