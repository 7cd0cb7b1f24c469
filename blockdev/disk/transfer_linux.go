package disk

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// iovMax is the kernel's limit of segments per call (UIO_MAXIOV).
const iovMax = 1024

// transfer is a read or write under way: the kernel may move less than was
// asked for, and takes at most iovMax segments at a time.
type transfer struct {
	iovs []unix.Iovec // of the next call; keeps its memory across uses
	off  int64        // where the next call goes
	bufs [][]byte     // segments after those in iovs
	used int          // the most that iovs held since begin
}

// begin prepares the first call.
func (t *transfer) begin(io *IO) {
	t.off, t.bufs, t.iovs, t.used = io.Off, io.Bufs, t.iovs[:0], 0
	t.fill()
}

// fill takes up more segments when none are left.
func (t *transfer) fill() {
	for len(t.bufs) > 0 && len(t.iovs) < iovMax {
		if b := t.bufs[0]; len(b) > 0 {
			v := unix.Iovec{Base: &b[0]}
			v.SetLen(len(b))
			t.iovs = append(t.iovs, v)
		}
		t.bufs = t.bufs[1:]
	}
	t.used = max(t.used, len(t.iovs))
}

// advance takes n moved bytes off the front. It reports whether all is done;
// if not, iovs and off describe the next call.
func (t *transfer) advance(n int) (done bool) {
	t.off += int64(n)
	i := 0
	for i < len(t.iovs) && n >= int(t.iovs[i].Len) {
		n -= int(t.iovs[i].Len)
		i++
	}
	if i < len(t.iovs) {
		t.iovs[i] = skip(t.iovs[i], n)
		if i > 0 {
			t.iovs = t.iovs[:copy(t.iovs, t.iovs[i:])]
		}
		return false
	}
	t.iovs = t.iovs[:0]
	t.fill()
	return len(t.iovs) == 0
}

// release forgets the buffers, so that they can be collected.
func (t *transfer) release() {
	clear(t.iovs[:t.used])
	t.iovs, t.bufs, t.used = t.iovs[:0], nil, 0
}

// retriable reports whether the same call may just be made again.
func retriable(errno syscall.Errno) bool { return errno == syscall.EINTR || errno == syscall.EAGAIN }

// discardUnsupported reports whether errno means that the device or
// filesystem can't discard, which is no failure: the contents are undefined
// anyway.
func discardUnsupported(errno syscall.Errno) bool {
	return errno == syscall.EOPNOTSUPP || errno == syscall.ENOSYS || errno == syscall.ENOTTY || errno == syscall.EINVAL
}
