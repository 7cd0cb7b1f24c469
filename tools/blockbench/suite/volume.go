package suite

import (
	"crypto/rand"
	"errors"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/localvol"
	"blockd.dev/blockdev/store"
)

// Volume is a volume alone on a new disk file.
type Volume struct {
	*localvol.Volume
	store *store.Store
	disk  disk.Disk
	bytes int64
}

// OpenVolume makes a disk file at path, formats it, and opens a volume of the
// given size on it, a multiple of 1 MiB. The caller removes the file.
func OpenVolume(path string, bytes int64) (*Volume, error) {
	// A quarter more than the volume holds the log and the metadata.
	if _, err := disk.Create(path, bytes+bytes/4+(64<<20)); err != nil {
		return nil, err
	}
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		return nil, err
	}
	if err := store.Format(d, store.FormatOptions{}); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	s, err := store.Open(d, store.Options{})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	v, err := localvol.Open(s, id, localvol.Options{SizeBytes: bytes})
	if err != nil {
		return nil, errors.Join(err, s.Close(), d.Close())
	}
	return &Volume{Volume: v, store: s, disk: d, bytes: bytes}, nil
}

// Fill writes the whole volume once, so that reads find data, and brings the
// log's part of it home.
func (v *Volume) Fill() error {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for off := int64(0); off < v.bytes; off += int64(len(block)) {
		if err := blockdev.WriteAt(v, block, off); err != nil {
			return err
		}
	}
	return v.store.Checkpoint()
}

// Close closes the volume, its store and its disk.
func (v *Volume) Close() error {
	return errors.Join(v.Volume.Close(), v.store.Close(), v.disk.Close())
}
