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

// sender sends the same unit again and again, without blocking.
type sender struct {
	unit []byte
	owed int // units not sent in full
	at   int // bytes of the first of them that are out
	iov  [iovMax]syscall.Iovec
}

// send makes one writev after the other until nothing is owed or the socket is
// full, which is EAGAIN.
func (s *sender) send(fd uintptr) syscall.Errno {
	for s.owed > 0 {
		k := min(s.owed, iovMax)
		for i := range k {
			s.iov[i].Base = &s.unit[0]
			s.iov[i].SetLen(len(s.unit))
		}
		s.iov[0].Base = &s.unit[s.at]
		s.iov[0].SetLen(len(s.unit) - s.at)
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&s.iov[0])), uintptr(k))
		if errno != 0 {
			return errno
		}
		done := s.at + int(n)
		s.owed -= done / len(s.unit)
		s.at = done % len(s.unit)
	}
	return 0
}
