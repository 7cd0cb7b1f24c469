package disk

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// skip drops the first n bytes of v, 0 <= n < v.Len.
func skip(v unix.Iovec, n int) unix.Iovec {
	v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
	v.SetLen(int(v.Len) - n)
	return v
}

// vectored calls preadv2 or pwritev2 (trap) and returns how many bytes moved.
func vectored(trap uintptr, fd int, iovs []unix.Iovec, off int64, flags int) (int, syscall.Errno) {
	// pos_l carries the whole offset on 64-bit kernels, pos_h is ignored there;
	// on 32-bit ones they are its halves.
	n, _, errno := unix.Syscall6(trap, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iovs))), uintptr(len(iovs)),
		uintptr(off), uintptr(off>>32), uintptr(flags))
	runtime.KeepAlive(iovs)
	return int(n), errno
}

// discardRange tells a block device that [off, off+n) holds nothing (BLKDISCARD).
func discardRange(fd int, off, n int64) syscall.Errno {
	r := [2]uint64{uint64(off), uint64(n)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.BLKDISCARD, uintptr(unsafe.Pointer(&r)))
	return errno
}

// addrOfIovec is where v's memory starts, for an SQE.
func addrOfIovec(v unix.Iovec) uint64 { return uint64(uintptr(unsafe.Pointer(v.Base))) }
