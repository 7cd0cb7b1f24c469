package daemon

import (
	"errors"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/localvol"
	"blockd.dev/blockdev/ram"
	"blockd.dev/raftmeta/catalog"
)

var errNoDisk = errors.New("its pool keeps data on disk, and the disk that it is on is not there; start this node with the role store and that disk in --disks")

// openBacking opens what a volume is served from.
func (d *Daemon) openBacking(s *catalog.State, cv *catalog.Volume, media catalog.Media) (backing, error) {
	if shared(s, cv) {
		return d.shared.Load().open(s, cv)
	}
	if media == catalog.MediaRAM {
		b, err := ram.New(ram.Config{SizeBytes: cv.SizeBytes, BlockSize: cv.BlockSize, HugePages: true})
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	on := d.diskOf(cv)
	if on == nil {
		return nil, errNoDisk
	}
	b, err := localvol.Open(on.store, cv.ID, localvol.Options{SizeBytes: cv.SizeBytes, BlockSize: cv.BlockSize, Attended: disk.AttendedOf(on.disk)})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// deleteBacking removes the data of a volume that is not open.
func (d *Daemon) deleteBacking(cv *catalog.Volume, media catalog.Media) error {
	if media == catalog.MediaRAM {
		return nil // gone when it was closed
	}
	disk := d.diskOf(cv)
	if disk == nil {
		return errNoDisk
	}
	return localvol.Delete(disk.store, cv.ID)
}
