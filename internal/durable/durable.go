// Package durable writes files that must be there, and whole, after a crash.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// Replace makes b the contents of the file at path: a crash leaves the old
// contents or the new, and once it has returned nil the new. Only the owner may
// read the file. path with the suffix .new is written on the way.
func Replace(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a directory durable: those of files that were made,
// renamed or removed there.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
