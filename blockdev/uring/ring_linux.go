package uring

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrUnsupported is what New wraps when the kernel has no io_uring, is too
// old, or does not let this process use it.
var ErrUnsupported = errors.New("io_uring can't be used")

// MaxEntries is the largest submission ring that the kernel makes.
const MaxEntries = 32768

// Ring is one io_uring.
type Ring struct {
	fd  int
	sq  submission
	cq  completion
	mem [][]byte // mappings, undone by Close
}

// New makes a ring that takes entries submissions (rounded up to a power of
// two, 1 to MaxEntries) and holds twice as many completions.
func New(entries uint32) (_ *Ring, err error) {
	if entries == 0 || entries > MaxEntries {
		return nil, fmt.Errorf("io_uring with %d entries: must be 1 to %d", entries, MaxEntries)
	}
	p := params{cqEntries: 2 * entries}
	fd, errno := -1, syscall.EINVAL
	// Newest flags first: a kernel refuses those that it does not know.
	for _, flags := range []uint32{setupCQSize | setupClamp | setupSubmitAll, setupCQSize | setupClamp} {
		p.flags = flags
		if fd, errno = setup(entries, &p); errno != syscall.EINVAL {
			break
		}
	}
	if errno != 0 {
		return nil, refused(errno)
	}
	r := &Ring{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if need := uint32(featSingleMmap | featNoDrop | featSubmitStable); p.features&need != need {
		return nil, fmt.Errorf("%w: the kernel is older than Linux 5.5 (features %#x)", ErrUnsupported, p.features)
	}
	return r, r.mapRings(&p)
}

// refused explains why the kernel gave no ring.
func refused(errno syscall.Errno) error {
	switch errno {
	case syscall.ENOSYS:
		return fmt.Errorf("%w: this kernel has none: %w", ErrUnsupported, errno)
	case syscall.EPERM, syscall.EACCES:
		b, _ := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
		if v := strings.TrimSpace(string(b)); v != "" && v != "0" {
			return fmt.Errorf("%w: sysctl kernel.io_uring_disabled is %s (0 allows it): %w", ErrUnsupported, v, errno)
		}
		return fmt.Errorf("%w: this process may not (a seccomp filter, as containers have by default?): %w", ErrUnsupported, errno)
	case syscall.ENOMEM:
		return fmt.Errorf("%w: no locked memory left for its rings (see ulimit -l): %w", ErrUnsupported, errno)
	}
	return fmt.Errorf("%w: io_uring_setup: %w", ErrUnsupported, errno)
}

// Close unmaps and closes the ring. The kernel finishes what is in flight;
// its completions are lost, so the owner waits for them first.
func (r *Ring) Close() error {
	var errs []error
	for _, m := range r.mem {
		errs = append(errs, unix.Munmap(m))
	}
	r.mem = nil
	if r.fd >= 0 {
		errs = append(errs, unix.Close(r.fd))
		r.fd = -1
	}
	return errors.Join(errs...)
}

// FD is the ring's descriptor: poll(2) says that it is readable while Reap would
// return something.
func (r *Ring) FD() int { return r.fd }

// Next returns a zeroed entry to fill, or nil when the ring is full. The
// kernel sees it after Publish.
func (r *Ring) Next() *SQE { return r.sq.get() }

// Publish shows all entries from Next to the kernel, for Enter to submit.
func (r *Ring) Publish() { r.sq.publish() }

// Unconsumed is how many published entries no Enter has submitted yet.
func (r *Ring) Unconsumed() uint32 { return r.sq.unconsumed() }

// Enter submits up to submit published entries and, when wait is above 0,
// blocks until that many completions are ready. It returns how many entries
// the kernel took. EINTR, EAGAIN and EBUSY mean: reap, then call again.
func (r *Ring) Enter(submit, wait uint32) (int, syscall.Errno) {
	flags := uintptr(0)
	if wait > 0 || r.Overflowed() {
		flags = enterGetEvents
	}
	return enter(r.fd, submit, wait, flags)
}

// Ready reports whether Reap would return anything. It is one load.
func (r *Ring) Ready() bool { return r.cq.ready() > 0 }

// Reap moves up to len(dst) completions into dst and returns how many.
func (r *Ring) Reap(dst []CQE) int { return r.cq.reap(dst) }

// RegisterFiles lets SQEs name these descriptors by their index, which saves
// the kernel a look-up and two atomic operations per I/O.
func (r *Ring) RegisterFiles(fds []int32) error {
	if errno := registerFds(r.fd, fds); errno != 0 {
		return fmt.Errorf("io_uring: register %d files: %w", len(fds), errno)
	}
	return nil
}

// UnregisterFiles gives up the references of RegisterFiles. Close does so
// too, but some time after it returns; until then a lock on the file lives on.
func (r *Ring) UnregisterFiles() error {
	if errno := unregister(r.fd, unregisterFiles); errno != 0 {
		return fmt.Errorf("io_uring: unregister files: %w", errno)
	}
	return nil
}

// RegisterBuffers pins these regions for OpReadFixed and OpWriteFixed. They
// count as locked memory and must stay mapped until Close.
func (r *Ring) RegisterBuffers(regions [][]byte) error {
	iovs := make([]unix.Iovec, len(regions))
	for i, b := range regions {
		iovs[i].Base = &b[0]
		iovs[i].SetLen(len(b))
	}
	if errno := registerIovecs(r.fd, iovs); errno != 0 {
		return fmt.Errorf("io_uring: register %d buffers: %w", len(regions), errno)
	}
	return nil
}

// Supports reports whether the kernel knows all of these operations.
func (r *Ring) Supports(ops ...uint8) bool {
	known, errno := probe(r.fd)
	if errno != 0 { // older than Linux 5.6, which brought OpRead, OpWrite and OpFallocate
		return false
	}
	for _, op := range ops {
		if !known[op] {
			return false
		}
	}
	return true
}
