package disk

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// health remembers what is final: a device that went away, and a sync that
// failed. Both drivers ask it before and tell it after every I/O.
type health struct {
	gone     atomic.Pointer[error]
	syncLost atomic.Bool
	closed   atomic.Bool
}

// admit returns why io must not start, or nil.
func (h *health) admit(sizeBytes int64, io *IO) error {
	if h.closed.Load() {
		return ErrClosed
	}
	if p := h.gone.Load(); p != nil {
		return *p
	}
	if err := Check(sizeBytes, io); err != nil {
		return err
	}
	if h.syncLost.Load() && io.durable() {
		return ErrSyncLost
	}
	return nil
}

// failed records errno, with which io ended, and returns the error for it.
func (h *health) failed(io *IO, errno syscall.Errno) error {
	if io.durable() {
		h.syncLost.Store(true)
	}
	if !vanished(errno) {
		return errno
	}
	err := errors.Join(ErrGone, errno)
	h.gone.CompareAndSwap(nil, &err)
	return *h.gone.Load()
}

// durable reports whether io promises durability.
func (io *IO) durable() bool { return io.Op == Sync || io.Op == Write && io.Dsync }

// end completes io, with err if it is not nil.
func (f *file) end(io *IO, err error) {
	io.Err = nil
	if err != nil {
		io.Err = NewError(f.info.Path, io, err)
	}
	io.Done(io)
}
