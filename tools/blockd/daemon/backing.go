package daemon

import (
	"errors"

	"blockd.dev/blockdev/localvol"
	"blockd.dev/blockdev/ram"
	"blockd.dev/raftmeta/catalog"
)

var errNoDisk = errors.New("its pool keeps data on disk, and this node has none; start it with the role store and --disks")

// openBacking opens what a volume is served from.
func (d *Daemon) openBacking(cv *catalog.Volume, media catalog.Media) (backing, error) {
	if media == catalog.MediaRAM {
		b, err := ram.New(ram.Config{SizeBytes: cv.SizeBytes, BlockSize: cv.BlockSize, HugePages: true})
		if err != nil {
			return nil, err
		}
		return b, nil
	}
	if d.storage == nil {
		return nil, errNoDisk
	}
	b, err := localvol.Open(d.storage.store, cv.ID, localvol.Options{SizeBytes: cv.SizeBytes, BlockSize: cv.BlockSize})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// deleteBacking removes the data of a volume that is not open.
func (d *Daemon) deleteBacking(cv *catalog.Volume, media catalog.Media) error {
	switch {
	case media == catalog.MediaRAM:
		return nil // gone when it was closed
	case d.storage == nil:
		return errNoDisk
	}
	return localvol.Delete(d.storage.store, cv.ID)
}
