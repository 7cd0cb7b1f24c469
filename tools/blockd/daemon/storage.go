package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/units"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

// storage is a disk of this node and the extent store on it.
type storage struct {
	path  string
	disk  disk.Disk
	store *store.Store
	scrub scrubStatus
}

// id is the disk's in the catalog.
func (s *storage) id() catalog.ID { return s.store.Info().UUID }

// lostDisk is a disk that the catalog has on this node, and that could not be
// opened while others could.
type lostDisk struct {
	disk   catalog.Disk
	reason string
}

// openDisks opens the disks of this node, making and formatting what is blank
// at the first start, and checks that they are those that the catalog knows.
// A node of several disks starts without those that are gone.
func (d *Daemon) openDisks() error {
	paths, err := d.diskPaths()
	if err != nil {
		return err
	}
	why := map[string]error{} // by path
	var blank []*storage
	for _, path := range paths {
		s, err := d.openDisk(path)
		switch {
		case err != nil:
			why[path] = err
		case s.store == nil:
			blank = append(blank, s)
		default:
			d.disks = append(d.disks, s)
		}
	}
	lost := d.ownDisks()
	for _, s := range d.disks {
		id := s.id()
		lost = slices.DeleteFunc(lost, func(k catalog.Disk) bool { return k.ID == id })
	}
	for i, s := range blank {
		if err := d.formatDisk(s, lost); err != nil {
			for _, unused := range blank[i:] {
				err = errors.Join(err, unused.disk.Close())
			}
			return err
		}
		d.disks = append(d.disks, s)
	}
	if len(d.disks) == 0 {
		return why[paths[0]]
	}
	for _, s := range d.disks {
		if err := d.registerDisk(s, lost); err != nil {
			return err
		}
	}
	for _, k := range lost {
		reason := fmt.Sprintf("disk %s is not among those of this start", k.ID)
		if err := why[k.Path]; err != nil {
			reason = err.Error()
		}
		d.lostDisks = append(d.lostDisks, lostDisk{k, reason})
		d.events.add(levelError, "disk.lost", k.Path, reason)
	}
	slices.SortFunc(d.disks, func(a, b *storage) int { return slices.Index(paths, a.path) - slices.Index(paths, b.path) })
	return nil
}

// openDisk opens a disk and the store on it; a blank one has none.
func (d *Daemon) openDisk(path string) (*storage, error) {
	dk, err := disk.Open(path, disk.Options{Driver: d.cfg.DiskDriver})
	if err != nil {
		return nil, err
	}
	if d.cfg.wrapDisk != nil {
		dk = d.cfg.wrapDisk(dk)
	}
	s := &storage{path: path, disk: dk}
	blank, err := isBlank(dk)
	if err == nil && !blank {
		err = d.openStore(s)
	}
	if err != nil {
		return nil, errors.Join(err, dk.Close())
	}
	return s, nil
}

// diskOf is the disk of this node that keeps a volume; nil when none does.
func (d *Daemon) diskOf(v *catalog.Volume) *storage {
	if v.Home.IsZero() && len(d.disks) > 0 && d.plane.creds == nil {
		return d.disks[0] // from before volumes knew their disk; there was one
	}
	return d.diskWith(v.Home)
}

// diskWith is the disk of this node with an identifier; nil when there is none.
func (d *Daemon) diskWith(id catalog.ID) *storage {
	for _, s := range d.disks {
		if s.id() == id {
			return s
		}
	}
	return nil
}

// diskPaths are the configured disks, or DATA/disk0.
func (d *Daemon) diskPaths() ([]string, error) {
	if len(d.cfg.Disks) > 0 {
		return d.cfg.Disks, nil
	}
	path, err := d.defaultDisk()
	return []string{path}, err
}

// defaultDisk is DATA/disk0, which it makes when neither it nor a disk in the
// catalog exists.
func (d *Daemon) defaultDisk() (string, error) {
	path := d.data.join("disk0")
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	if known := d.ownDisks(); len(known) > 0 {
		return "", fmt.Errorf("disk %s is not there, and the catalog in %s has volumes on it; bring it back, or name the disk with --disks", path, d.data.path)
	}
	size := d.cfg.DiskSize
	if size == 0 {
		var st unix.Statfs_t
		if err := unix.Statfs(d.data.path, &st); err != nil {
			return "", fmt.Errorf("free space of %s: %w", d.data.path, err)
		}
		quarter := int64(st.Bavail) * st.Bsize / 4 &^ (1<<20 - 1)
		size = min(diskSizeDefault, quarter)
		if size < diskSizeMin {
			return "", fmt.Errorf("%s has room for a disk of %s only; free some space, set --disk-size, or name a disk with --disks", d.data.path, units.FormatBytes(quarter))
		}
	}
	note, err := disk.Create(path, size)
	if err != nil {
		return "", fmt.Errorf("%w; set --disk-size, or name a disk with --disks", err)
	}
	d.events.add(levelInfo, "disk.create", path, fmt.Sprintf("made a disk of %s", units.FormatBytes(size)))
	if note != "" {
		d.events.add(levelWarning, "disk.create", path, note)
	}
	return path, nil
}

// formatDisk puts a store on a blank disk, unless it may be there in place of
// one of those that are lost.
func (d *Daemon) formatDisk(s *storage, lost []catalog.Disk) error {
	if len(lost) > 0 {
		return fmt.Errorf("disk %s is blank, and the catalog in %s has volumes on disk %s (last seen as %s); name that one with --disks", s.path, d.data.path, lost[0].ID, lost[0].Path)
	}
	if err := store.Format(s.disk, store.FormatOptions{}); err != nil {
		return err
	}
	d.events.add(levelInfo, "disk.format", s.path, "formatted a blank disk")
	return d.openStore(s)
}

// openStore opens the store on s.disk.
func (d *Daemon) openStore(s *storage) (err error) {
	boot := d.cfg.boot
	if boot == (store.Boot{}) {
		if boot, err = machineBoot(); err != nil {
			return err
		}
	}
	if s.store, err = store.Open(s.disk, store.Options{Boot: boot}); err != nil {
		return fmt.Errorf("%w; if nothing on %s is needed, clear it with `wipefs -a` and `blkdiscard -z` (or remove the file) and start again", err, s.path)
	}
	path := s.path
	s.store.Watch(func(e store.Event) { // for as long as the store is open
		lv, why := levelInfo, ""
		if e.State != store.StateOnline {
			lv = levelError
		}
		if e.Err != nil {
			why = ": " + e.Err.Error()
		}
		d.events.add(lv, "disk.state", path, fmt.Sprintf("the disk is %v%s", e.State, why))
	})
	return nil
}

// machineBoot is what tells this boot of the machine from all others.
func machineBoot() (store.Boot, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return store.Boot{}, fmt.Errorf("%w; without it nobody knows whether the machine went down since the disks were used: start blockd where /proc is mounted", err)
	}
	id, ok := catalog.ParseID(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if !ok {
		return store.Boot{}, fmt.Errorf("%s says %q, which names no boot of a machine", path, text)
	}
	return store.Boot(id), nil
}

// registerDisk tells the catalog of a disk, unless it knows it as it is, or has
// reasons to believe that it is the wrong one. lost are those that it misses.
func (d *Daemon) registerDisk(s *storage, lost []catalog.Disk) error {
	st := s.store.Stats()
	id, known := catalog.ID(st.UUID), d.ownDisks()
	here := slices.IndexFunc(known, func(k catalog.Disk) bool { return k.ID == id })
	switch {
	case here >= 0 && known[here].Node == d.plane.id() && known[here].Path == s.path && known[here].CapacityBytes == st.CapacityBytes:
		return nil
	case here < 0 && len(lost) > 0:
		return fmt.Errorf("disk %s is %s, and the catalog in %s has volumes on disk %s (last seen as %s); name that one with --disks", s.path, id, d.data.path, lost[0].ID, lost[0].Path)
	case here < 0 && st.Volumes > 0:
		return fmt.Errorf("disk %s holds %d volumes that the catalog in %s knows nothing of; start with the data directory that it belongs to", s.path, st.Volumes, d.data.path)
	}
	node := d.plane.id()
	_, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_RegisterDisk{
		RegisterDisk: &catalogpb.RegisterDisk{Id: id[:], Path: s.path, Node: node[:], CapacityBytes: st.CapacityBytes}}})
	return err
}

// ownDisks are the disks that the catalog knows at this node, and those from
// before it knew nodes.
func (d *Daemon) ownDisks() []catalog.Disk {
	var out []catalog.Disk
	for _, k := range d.catalog.State().Disks {
		if k.Node == d.plane.id() || k.Node.IsZero() {
			out = append(out, k)
		}
	}
	return out
}

// isBlank reports whether the first and last MiB of a disk are zero.
func isBlank(d disk.Disk) (bool, error) {
	const window = 1 << 20
	n := min(int64(window), d.SizeBytes())
	for _, off := range []int64{0, (d.SizeBytes() - n) &^ (disk.BlockBytes - 1)} {
		buf := disk.NewAligned(int(min(n, d.SizeBytes()-off)))
		done := make(chan error, 1)
		d.Submit([]*disk.IO{{Op: disk.Read, Off: off, Bufs: [][]byte{buf}, Done: func(io *disk.IO) { done <- io.Err }}})
		if err := <-done; err != nil {
			return false, fmt.Errorf("read of disk %s at %d: %w", d.Info().Path, off, err)
		}
		for _, b := range buf {
			if b != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

func (s *storage) close() error {
	return errors.Join(s.store.Close(), s.disk.Close())
}
