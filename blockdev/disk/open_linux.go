package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The drivers that Options.Driver can name and Info.Driver shows.
const (
	DriverURing = "io_uring"
	DriverPread = "pread"
)

// Options say how a disk is driven. The zero value is the best that works.
type Options struct {
	// Driver is DriverURing, DriverPread, or empty for the best one that the
	// kernel allows. A named driver that does not work is an error.
	Driver string
	// Buffered goes through the page cache even where O_DIRECT works.
	Buffered bool
	// Workers bounds the goroutines of DriverPread, thus the I/Os that the
	// kernel sees at once: 1 to 1024; 0 means 32.
	Workers int
	// QueueDepth bounds the I/Os that DriverURing has in the kernel at once; the
	// rest wait in order. 1 to 4096; 0 means 256.
	QueueDepth int
}

// Validate reports the first field that is out of its range.
func (o Options) Validate() error {
	switch {
	case o.Driver != "" && o.Driver != DriverURing && o.Driver != DriverPread:
		return fmt.Errorf("disk driver %q is unknown: use %q, %q or leave it empty", o.Driver, DriverURing, DriverPread)
	case o.Workers < 0 || o.Workers > 1024:
		return fmt.Errorf("disk workers %d: must be 0 (for 32) to 1024", o.Workers)
	case o.QueueDepth < 0 || o.QueueDepth > 4096:
		return fmt.Errorf("disk queue depth %d: must be 0 (for 256) to 4096", o.QueueDepth)
	}
	return nil
}

// Open opens the file or block device at path, for this process alone: a
// block device by O_EXCL (it fails while mounted), a file by a lock that ends
// with the process. The usable size is the file's, rounded down to BlockBytes.
func Open(path string, o Options) (Disk, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	f, err := openFile(path, o)
	if err != nil {
		return nil, err
	}
	d, err := drive(f, o)
	if err != nil {
		return nil, errors.Join(err, f.close())
	}
	return d, nil
}

// drive picks the driver for f. On error f stays open.
func drive(f *file, o Options) (Disk, error) {
	if o.Driver != DriverPread {
		d, err := newURing(f, o)
		if err == nil {
			return d, nil
		}
		if o.Driver == DriverURing {
			return nil, fmt.Errorf("open %s with io_uring: %w", f.info.Path, err)
		}
		f.because(err.Error())
	} else {
		f.because("the pread driver was asked for")
	}
	return newPread(f, o), nil
}

// file is an open disk: what both drivers share.
type file struct {
	fd        int
	sizeBytes int64
	info      Info
	health    health
}

// because adds a reason why this is not the best driver.
func (f *file) because(why string) {
	if f.info.Reason != "" {
		f.info.Reason += "; "
	}
	f.info.Reason += why
}

func openFile(path string, o Options) (_ *file, err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	st, err := os.Stat(abs)
	if err != nil {
		return nil, fmt.Errorf("open disk: %w", err)
	}
	f := &file{fd: -1, info: Info{Path: abs}}
	flags := unix.O_RDWR | unix.O_CLOEXEC | unix.O_NOCTTY
	switch mode := st.Mode(); {
	case mode.IsRegular():
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0:
		f.info.IsBlock = true
		flags |= unix.O_EXCL
	default:
		return nil, fmt.Errorf("open disk %s: it is neither a regular file nor a block device", abs)
	}
	if err := f.open(flags, o.Buffered); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(f.fd)
		}
	}()
	if !f.info.IsBlock {
		if err := f.lock(); err != nil {
			return nil, err
		}
	}
	end, err := unix.Seek(f.fd, 0, unix.SEEK_END)
	if err != nil {
		return nil, fmt.Errorf("size of disk %s: %w", abs, err)
	}
	f.sizeBytes = end &^ (BlockBytes - 1)
	if f.sizeBytes == 0 {
		return nil, fmt.Errorf("open disk %s: its %d bytes are less than one block of %d", abs, end, BlockBytes)
	}
	if f.info.Direct {
		f.tryDirect()
	}
	return f, nil
}

// open opens the path, direct unless told or forced otherwise.
func (f *file) open(flags int, buffered bool) error {
	fd, err := -1, error(unix.EINVAL)
	if !buffered {
		fd, err = openRetry(f.info.Path, flags|unix.O_DIRECT)
		f.info.Direct = err == nil
	}
	if errors.Is(err, unix.EINVAL) {
		if buffered {
			f.because("buffered I/O was asked for")
		} else {
			f.because("the filesystem refuses O_DIRECT")
		}
		fd, err = openRetry(f.info.Path, flags)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("open disk %s: the device is in use (mounted, or opened by another process): %w", f.info.Path, err)
	case err != nil:
		return fmt.Errorf("open disk %s: %w", f.info.Path, err)
	}
	f.fd = fd
	return nil
}

// patience is how long Open waits for a disk that is in use: the kernel tears
// down the io_uring of a process that was killed some time after the process,
// and the ring holds the file until then.
const patience = time.Second

// patiently repeats call while it ends with busy, for a bounded time.
func patiently(busy syscall.Errno, call func() error) (err error) {
	for end := time.Now().Add(patience); ; {
		if err = ignoringEINTR(call); !errors.Is(err, busy) || time.Now().After(end) {
			return err
		}
		time.Sleep(patience / 100)
	}
}

func openRetry(path string, flags int) (fd int, err error) {
	err = patiently(unix.EBUSY, func() error {
		fd, err = unix.Open(path, flags, 0)
		return err
	})
	return fd, err
}

// lock takes the file for this process.
func (f *file) lock() error {
	err := patiently(unix.EWOULDBLOCK, func() error { return unix.Flock(f.fd, unix.LOCK_EX|unix.LOCK_NB) })
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("open disk %s: it is in use by another process, or twice by this one (it is locked): stop that one first: %w", f.info.Path, err)
	case err != nil:
		return fmt.Errorf("lock disk %s: %w", f.info.Path, err)
	}
	return nil
}

// close unlocks at once, whoever else still refers to the open file.
func (f *file) close() error {
	var err error
	if !f.info.IsBlock {
		err = unix.Flock(f.fd, unix.LOCK_UN)
	}
	return errors.Join(err, unix.Close(f.fd))
}

// tryDirect reads a block and turns O_DIRECT off if that is refused: some
// filesystems take the flag and then refuse the I/O, or want an alignment above
// BlockBytes.
func (f *file) tryDirect() {
	_, err := unix.Pread(f.fd, NewAligned(BlockBytes), 0)
	if !errors.Is(err, unix.EINVAL) {
		return
	}
	flags, err := unix.FcntlInt(uintptr(f.fd), unix.F_GETFL, 0)
	if err != nil {
		return
	}
	if _, err = unix.FcntlInt(uintptr(f.fd), unix.F_SETFL, flags&^unix.O_DIRECT); err == nil {
		f.info.Direct = false
		f.because("direct reads of 4096 bytes are refused")
	}
}

// Create makes the file at path with sizeBytes, a positive multiple of
// BlockBytes, and fails if it exists. Space is reserved at once so that a full
// filesystem shows now rather than in a later write; where the filesystem
// can't reserve, the file is sparse and the note says so. The file and its
// name are durable on return.
//
// Reserved blocks still cost a metadata update when first written. Whoever
// wants cheap durable writes to a part of the disk from the start (a log)
// writes zeroes there once.
func Create(path string, sizeBytes int64) (note string, err error) {
	if sizeBytes <= 0 || sizeBytes%BlockBytes != 0 {
		return "", fmt.Errorf("create disk %s: size %d is not a positive multiple of %d", path, sizeBytes, BlockBytes)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("create disk: %w", err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path)
		}
	}()
	err = ignoringEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, sizeBytes) })
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		note = "the filesystem can't reserve space: the file is sparse and a write may find the filesystem full"
		err = f.Truncate(sizeBytes)
	case errors.Is(err, unix.ENOSPC):
		return "", fmt.Errorf("create disk %s: %d bytes are not free on its filesystem: %w", path, sizeBytes, err)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return "", fmt.Errorf("create disk %s: %w", path, err)
	}
	return note, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ignoringEINTR repeats a system call that a signal interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
