package reservation

import (
	"fmt"
	"io"
	"os"
)

// disk is what Local does to the file system, so that tests can crash and
// fail it between any two steps.
type disk interface {
	WriteSynced(path string, b []byte) error
	Rename(from, to string) error
	Remove(path string) error
	SyncDir(dir string) error
}

type osDisk struct{}

// WriteSynced makes or replaces a file and syncs it.
func (osDisk) WriteSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) Remove(path string) error     { return os.Remove(path) }

func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// readFile reads a file that should be no larger than fileBytesMax.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(fileBytesMax)+1))
	if err == nil && len(b) > fileBytesMax {
		err = fmt.Errorf("%w: larger than %d bytes", ErrDamaged, fileBytesMax)
	}
	return b, err
}
