package pump

import (
	"syscall"
	"unsafe"
)

func readOnce(fd uintptr, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
	return int(n), errno
}

const iovMax = 128

// writeOnce makes one writev of at most iovMax parts.
func writeOnce(fd uintptr, list [][]byte) (int, syscall.Errno) {
	var iov [iovMax]syscall.Iovec
	for i, p := range list {
		iov[i].Base = &p[0]
		iov[i].SetLen(len(p))
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(list)))
	return int(n), errno
}

// send makes one writev after the other until nothing is owed or the socket is
// full, which is EAGAIN.
func (c *client) send(fd uintptr) syscall.Errno {
	for c.owed.n > 0 {
		n, errno := writeOnce(fd, c.vectors(iovMax))
		if errno != 0 {
			return errno
		}
		c.wrote(n)
	}
	return 0
}

// send is the same for replies.
func (s *sender) send(fd uintptr) syscall.Errno {
	for !s.empty() {
		n, errno := writeOnce(fd, s.vectors(iovMax))
		if errno != 0 {
			return errno
		}
		s.wrote(n)
	}
	return 0
}
