package uring

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func setup(entries uint32, p *params) (int, syscall.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(entries), uintptr(unsafe.Pointer(p)), 0)
	return int(fd), errno
}

// mapRings maps both rings and the entries, and finds the indexes in them.
func (r *Ring) mapRings(p *params) error {
	size := max(uint64(p.sqOff.array)+uint64(p.sqEntries)*4, uint64(p.cqOff.cqes)+uint64(p.cqEntries)*uint64(unsafe.Sizeof(CQE{})))
	ring, err := r.mmap(offSQRing, size)
	if err != nil {
		return err
	}
	sqes, err := r.mmap(offSQEs, uint64(p.sqEntries)*uint64(unsafe.Sizeof(SQE{})))
	if err != nil {
		return err
	}
	word := func(off uint32) *uint32 { return (*uint32)(unsafe.Pointer(&ring[off])) }
	r.sq = submission{
		head:  word(p.sqOff.head),
		tail:  word(p.sqOff.tail),
		flags: word(p.sqOff.flags),
		mask:  *word(p.sqOff.ringMask),
		sqes:  unsafe.Slice((*SQE)(unsafe.Pointer(&sqes[0])), p.sqEntries),
		next:  *word(p.sqOff.tail),
	}
	r.cq = completion{
		head: word(p.cqOff.head),
		tail: word(p.cqOff.tail),
		mask: *word(p.cqOff.ringMask),
		cqes: unsafe.Slice((*CQE)(unsafe.Pointer(&ring[p.cqOff.cqes])), p.cqEntries),
	}
	// The array maps ring slots to entries; ours never differ.
	for i, index := range unsafe.Slice(word(p.sqOff.array), p.sqEntries) {
		if index != uint32(i) {
			*word(p.sqOff.array + 4*uint32(i)) = uint32(i)
		}
	}
	return nil
}

func (r *Ring) mmap(off int64, size uint64) ([]byte, error) {
	b, err := unix.Mmap(r.fd, off, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("io_uring: map %d bytes of ring: %w", size, err)
	}
	r.mem = append(r.mem, b)
	return b, nil
}

// Overflowed reports whether the kernel holds completions that found no room.
func (r *Ring) Overflowed() bool { return atomic.LoadUint32(r.sq.flags)&sqCQOverflow != 0 }

// enter blocks only when it waits. A call that only submits is too short for
// the scheduler to be told about it.
func enter(fd int, submit, wait uint32, flags uintptr) (int, syscall.Errno) {
	var n uintptr
	var errno syscall.Errno
	if wait > 0 {
		n, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), uintptr(wait), flags, 0, 0)
	} else {
		n, _, errno = unix.RawSyscall6(unix.SYS_IO_URING_ENTER, uintptr(fd), uintptr(submit), 0, flags, 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func register(fd int, op uintptr, arg unsafe.Pointer, n int) syscall.Errno {
	_, _, errno := unix.Syscall6(unix.SYS_IO_URING_REGISTER, uintptr(fd), op, uintptr(arg), uintptr(n), 0, 0)
	return errno
}

func unregister(fd int, op uintptr) syscall.Errno { return register(fd, op, nil, 0) }

func registerFds(fd int, fds []int32) syscall.Errno {
	errno := register(fd, registerFiles, unsafe.Pointer(unsafe.SliceData(fds)), len(fds))
	runtime.KeepAlive(fds)
	return errno
}

func registerIovecs(fd int, iovs []unix.Iovec) syscall.Errno {
	errno := register(fd, registerBuffers, unsafe.Pointer(unsafe.SliceData(iovs)), len(iovs))
	runtime.KeepAlive(iovs)
	return errno
}

// probe asks which operations the kernel knows (struct io_uring_probe).
func probe(fd int) (known [256]bool, errno syscall.Errno) {
	var p struct {
		lastOp, opsLen uint8
		_              uint16
		_              [3]uint32
		ops            [256]struct {
			op, _ uint8
			flags uint16
			_     uint32
		}
	}
	errno = register(fd, registerProbe, unsafe.Pointer(&p), len(p.ops))
	for _, o := range p.ops[:p.opsLen] {
		known[o.op] = o.flags&opSupported != 0
	}
	return known, errno
}

// AddrOf is the address of b's first byte, for SQE.Addr. The caller keeps b
// alive until the completion; Go's heap does not move.
func AddrOf(b []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// AddrOfIovecs is the same for an array of iovecs, which the kernel copies
// during Enter.
func AddrOfIovecs(v []unix.Iovec) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(v)))) }
