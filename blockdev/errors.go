package blockdev

import (
	"errors"
	"fmt"
)

// The kinds of failure a request can end with. Test with errors.Is; the error
// itself is an *Error that says where.
var (
	ErrInvalid    = errors.New("invalid request")                 // not aligned, bad op, buffers don't add up
	ErrOutOfRange = errors.New("beyond the end of the device")    // offset or length past SizeBytes
	ErrReadOnly   = errors.New("device is read-only")             //
	ErrNoSpace    = errors.New("no space left")                   // thin pool or disk full; nothing was written
	ErrMedium     = errors.New("medium error")                    // data can't be read, or fails its checksum
	ErrMiscompare = errors.New("data differs")                    // OpCompareAndWrite: nothing was written
	ErrIO         = errors.New("I/O error")                       // the hardware refused; retrying may help
	ErrGone       = errors.New("device is gone")                  // removed, closed or failed for good
	ErrBusy       = errors.New("temporarily unable to serve")     // retry later: failover, resync, out of buffers
	ErrFenced     = errors.New("fenced: a newer owner took over") // this path must not be used
)

// ErrPoisoned is the cause of an ErrMedium that a host asked for with
// OpPoison: the medium is well, and another read of it ends the same way.
var ErrPoisoned = errors.New("a host marked the block as unreadable")

// Error is how a request failed: its kind, where, and the cause beneath.
type Error struct {
	Kind   error // one of the sentinels above
	Op     Op
	Offset int64 // bytes: the first bad byte where known, else the request's offset
	Length int64 // bytes
	Err    error // the cause, or nil
}

// NewError describes the failure of r. offset is the first bad byte, or
// negative when that is not known.
func NewError(kind error, r *Request, offset int64, cause error) *Error {
	if offset < 0 {
		offset = r.Offset
	}
	return &Error{Kind: kind, Op: r.Op, Offset: offset, Length: r.Length, Err: cause}
}

// Error says what failed and where.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s of %d bytes at %d: %v: %v", e.Op, e.Length, e.Offset, e.Kind, e.Err)
	}
	return fmt.Sprintf("%s of %d bytes at %d: %v", e.Op, e.Length, e.Offset, e.Kind)
}

// Unwrap gives the kind and the cause to errors.Is.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.Err}
}
