package sockio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The most segments that one call moves. The kernel takes 1024; 16 per read is
// more than a reader uses, 256 per write is a batch of 128 responses.
const (
	readIovMax  = 16
	writeIovMax = 256
)

// readv and writev are made with RawSyscall: on a non-blocking socket they
// return within the time of the copy, and a poll every few hundred
// nanoseconds must not go through the scheduler's syscall hooks each time.
func readv(fd uintptr, bufs [][]byte) (int, syscall.Errno) {
	var iov [readIovMax]unix.Iovec
	n := fillIov(iov[:], bufs)
	r, _, errno := syscall.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
	return int(r), errno
}

func writev(fd uintptr, bufs [][]byte) (int, syscall.Errno) {
	var iov [writeIovMax]unix.Iovec
	n := fillIov(iov[:], bufs)
	r, _, errno := syscall.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(n))
	return int(r), errno
}

func fillIov(iov []unix.Iovec, bufs [][]byte) int {
	n := 0
	for _, b := range bufs {
		if n == len(iov) {
			break
		}
		if len(b) == 0 {
			continue
		}
		iov[n].Base = &b[0]
		iov[n].SetLen(len(b))
		n++
	}
	return n
}
