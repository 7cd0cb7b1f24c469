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

// sender sends the same unit again and again, without blocking.
type sender struct {
	unit []byte
	owed int // units not sent in full
	at   int // bytes of the first of them that are out
	list [][]byte
}

// send makes one writev after the other until nothing is owed or the socket is
// full, which is EAGAIN.
func (s *sender) send(fd uintptr) syscall.Errno {
	for s.owed > 0 {
		s.list = s.list[:0]
		for range min(s.owed, iovMax) {
			s.list = append(s.list, s.unit)
		}
		s.list[0] = s.unit[s.at:]
		n, errno := writeOnce(fd, s.list)
		if errno != 0 {
			return errno
		}
		done := s.at + n
		s.owed -= done / len(s.unit)
		s.at = done % len(s.unit)
	}
	return 0
}
