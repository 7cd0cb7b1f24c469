package disk

import (
	"errors"
	"fmt"
	"syscall"
)

// The kinds of failure that are not a plain errno. Test with errors.Is; an
// errno from the kernel is found the same way (errors.Is(err, syscall.EIO)).
var (
	// ErrInvalid: the IO breaks the rules of IO (alignment, op, empty).
	ErrInvalid = errors.New("invalid I/O")
	// ErrOutOfRange: the IO passes the end of the disk.
	ErrOutOfRange = errors.New("beyond the end of the disk")
	// ErrClosed: submitted after Close.
	ErrClosed = errors.New("disk is closed")
	// ErrGone: the device disappeared. Every later IO fails with it too.
	ErrGone = errors.New("disk is gone")
	// ErrSyncLost: an earlier Sync or Dsync write failed, so that the kernel may
	// have dropped what it should have made durable. Every later Sync and Dsync
	// write fails with it: trying again would report success for lost data.
	ErrSyncLost = errors.New("an earlier sync failed: writes since the one before it may be lost")
)

// Error is how an IO failed.
type Error struct {
	Path string // the disk
	Op   Op
	Off  int64 // bytes
	Len  int64 // bytes
	Err  error // one of the kinds above, an errno, or both joined
}

// Error says what failed, where, and why.
func (e *Error) Error() string {
	if e.Op == Sync {
		return fmt.Sprintf("%s: sync: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: %s of %d bytes at %d: %v", e.Path, e.Op, e.Len, e.Off, e.Err)
}

// Unwrap gives the cause to errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// NewError describes the failure of io on the disk called path.
func NewError(path string, io *IO, err error) *Error {
	n := io.Len
	if io.Op == Read || io.Op == Write {
		n = io.Bytes()
	}
	return &Error{Path: path, Op: io.Op, Off: io.Off, Len: n, Err: err}
}

// String names the operation as logs and fault rules spell it.
func (o Op) String() string {
	switch o {
	case Read:
		return "read"
	case Write:
		return "write"
	case Sync:
		return "sync"
	case Discard:
		return "discard"
	}
	return "invalid-op"
}

// Bytes is the number of bytes that io touches: the total of Bufs for reads
// and writes, Len for a discard, 0 for a sync.
func (io *IO) Bytes() int64 {
	switch io.Op {
	case Read, Write:
		var n int64
		for _, b := range io.Bufs {
			n += int64(len(b))
		}
		return n
	case Discard:
		return io.Len
	}
	return 0
}

// Check says whether io may run on a disk of sizeBytes: nil, ErrInvalid or
// ErrOutOfRange. Every driver calls it first, so that a misaligned buffer
// fails in the simulation as it would on hardware.
func Check(sizeBytes int64, io *IO) error {
	if io.Op == Sync {
		return nil
	}
	if io.Op < Read || io.Op > Discard || io.Off < 0 || io.Off%BlockBytes != 0 {
		return ErrInvalid
	}
	n := io.Len
	if io.Op != Discard {
		n = 0
		for _, b := range io.Bufs {
			if len(b)%BlockBytes != 0 || addr(b)%BlockBytes != 0 {
				return ErrInvalid
			}
			n += int64(len(b))
		}
	}
	if n <= 0 || n%BlockBytes != 0 {
		return ErrInvalid
	}
	if io.Off > sizeBytes || n > sizeBytes-io.Off {
		return ErrOutOfRange
	}
	return nil
}

// vanished reports whether errno means that the device itself is no more,
// rather than that one transfer failed.
func vanished(errno syscall.Errno) bool {
	switch errno {
	case syscall.ENODEV, syscall.ENXIO, syscall.ENOMEDIUM, syscall.ESHUTDOWN, syscall.EBADF:
		return true
	}
	return false
}
