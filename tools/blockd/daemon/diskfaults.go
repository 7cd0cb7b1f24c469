package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
	"blockd.dev/blockdev/disk/volatile"
	"blockd.dev/internal/clock"
)

// DiskFaultsVariable names a file with rules of blockdev/disk/faulty, one per
// line, by which the node's disks misbehave. A file with the base name of a disk appended
// after a dot is for that disk, in the place of the other. They are for tests of clusters, and
// no setting: nobody who runs blockd for data has a use for it.
const DiskFaultsVariable = "BLOCKD_DISK_FAULTS"

// DiskFaults has the node's disks misbehave by the rules in the files of path,
// which may come, change and go while the node runs. A file that can't be read
// or understood fails every I/O, so that a mistake in it is noticed.
func (c *Config) DiskFaults(path string) {
	c.wrap(func(d disk.Disk) disk.Disk {
		rules := faulty.NewRules(uint64(time.Now().UnixNano()))
		return &faultedDisk{Disk: faulty.New(d, rules), rules: rules, paths: []string{path + "." + filepath.Base(d.Info().Path), path}}
	})
}

// DiskVolatileVariable, when it is set, gives the node's disks a write cache that ends with
// the process, so that kill -9 is to them what a power cut is. It is for tests as well.
const DiskVolatileVariable = "BLOCKD_DISK_VOLATILE"

// VolatileDisks gives the node's disks that cache.
func (c *Config) VolatileDisks() {
	c.wrap(func(d disk.Disk) disk.Disk { return volatile.New(d) })
}

// wrap puts one more thing between the disks and their stores, nearer to the stores.
func (c *Config) wrap(by func(disk.Disk) disk.Disk) {
	under := c.wrapDisk
	if under == nil {
		under = func(d disk.Disk) disk.Disk { return d }
	}
	c.wrapDisk = func(d disk.Disk) disk.Disk { return by(under(d)) }
}

// faultsAge is for how long rules are believed without a look at their file: a
// batch of I/O is not to cost one, or clusters in tests would tell little of what a
// node takes.
const faultsAge = 2 * time.Millisecond

// faultedDisk looks before a batch whether the rules have changed.
type faultedDisk struct {
	*faulty.Disk
	rules *faulty.Rules
	paths []string // the first that is there counts

	mu     sync.Mutex
	looked clock.Mono
	last   os.FileInfo // of the file that rules is from; nil: there was none
}

// Submit implements disk.Disk.
func (d *faultedDisk) Submit(batch []*disk.IO) {
	d.refresh()
	d.Disk.Submit(batch)
}

func (d *faultedDisk) refresh() {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := clock.Fast{}.Now()
	if d.looked != 0 && at.Sub(d.looked) < faultsAge {
		return
	}
	d.looked = at
	path, now, err := d.file()
	if errors.Is(err, fs.ErrNotExist) {
		if d.last != nil {
			d.rules.Clear()
			d.last = nil
		}
		return
	}
	if err == nil && d.last != nil && os.SameFile(now, d.last) && now.ModTime().Equal(d.last.ModTime()) && now.Size() == d.last.Size() {
		return
	}
	rules, rerr := readRules(path)
	if err = errors.Join(err, rerr); err != nil {
		rules = []faulty.Rule{{Err: syscall.EIO}}
	}
	d.rules.Clear()
	for _, r := range rules {
		d.rules.Add(r)
	}
	d.last = now
}

// file is the one that counts now.
func (d *faultedDisk) file() (path string, now os.FileInfo, err error) {
	for _, path = range d.paths {
		if now, err = os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return path, now, err
}

func readRules(path string) (rules []faulty.Rule, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		r, err := faulty.Parse(line)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}
