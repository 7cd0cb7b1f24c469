package socket

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/ring"
)

// calls are the system calls that a Socket makes; tests put faults between.
type calls interface {
	socket() (int, error)
	close(fd int) error
	registerUMEM(fd int, mem []byte) error
	setInt(fd, level, name, value int) error
	offsets(fd int) (unix.XDPMmapOffsets, error)
	mmap(fd int, off int64, n int) ([]byte, error)
	munmap([]byte) error
	bind(fd int, sa *unix.SockaddrXDP) error
	zeroCopy(fd int) (bool, error)
	statistics(fd int) (unix.XDPStatistics, error)
	wakeTX(fd int) syscall.Errno
	wakeRX(fd int) syscall.Errno
	pause(time.Duration)
}

// kernel is the real thing.
type kernel struct{}

func (kernel) socket() (int, error) {
	return unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
}

func (kernel) close(fd int) error { return unix.Close(fd) }

func (kernel) registerUMEM(fd int, mem []byte) error {
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&mem[0]))), Len: uint64(len(mem)), Size: chunkBytes}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, unix.XDP_UMEM_REG,
		uintptr(unsafe.Pointer(&reg)), unsafe.Sizeof(reg), 0)
	return errOf(errno)
}

func (kernel) setInt(fd, level, name, value int) error {
	return unix.SetsockoptInt(fd, level, name, value)
}

func (kernel) offsets(fd int) (unix.XDPMmapOffsets, error) {
	var o unix.XDPMmapOffsets
	n, err := getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&o), unsafe.Sizeof(o))
	if err == nil && n != unsafe.Sizeof(o) {
		err = fmt.Errorf("the kernel is older than Linux 5.4: %w", syscall.EINVAL)
	}
	return o, err
}

func (kernel) mmap(fd int, off int64, n int) ([]byte, error) {
	return unix.Mmap(fd, off, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
}

func (kernel) munmap(b []byte) error { return unix.Munmap(b) }

func (kernel) bind(fd int, sa *unix.SockaddrXDP) error { return unix.Bind(fd, sa) }

func (kernel) zeroCopy(fd int) (bool, error) {
	var flags uint32
	_, err := getsockopt(fd, unix.XDP_OPTIONS, unsafe.Pointer(&flags), unsafe.Sizeof(flags))
	return flags&unix.XDP_OPTIONS_ZEROCOPY != 0, err
}

// statistics leaves zero what kernels before 5.9 don't count.
func (kernel) statistics(fd int) (unix.XDPStatistics, error) {
	var st unix.XDPStatistics
	_, err := getsockopt(fd, unix.XDP_STATISTICS, unsafe.Pointer(&st), unsafe.Sizeof(st))
	return st, err
}

// wakeTX does not tell the scheduler: the call doesn't sleep, and a thread
// switch would cost more than it saves.
func (kernel) wakeTX(fd int) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

func (kernel) wakeRX(fd int) syscall.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), 0, 0, unix.MSG_DONTWAIT, 0, 0)
	return errno
}

func (kernel) pause(d time.Duration) { time.Sleep(d) }

func getsockopt(fd, name int, p unsafe.Pointer, n uintptr) (uintptr, error) {
	size := uint32(n)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(name), uintptr(p), uintptr(unsafe.Pointer(&size)), 0)
	return uintptr(size), errOf(errno)
}

func errOf(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

const chunkBytes = 4096

// mapRings maps the four rings; undo unmaps them.
func (s *Socket) mapRings(c *Config) error {
	o, err := s.calls.offsets(s.fd)
	if err != nil {
		return explain("layout of the rings", err)
	}
	fill, err := mapRing[uint64](s, "fill", unix.XDP_UMEM_PGOFF_FILL_RING, o.Fr, c.FillEntries)
	if err != nil {
		return err
	}
	completion, err := mapRing[uint64](s, "completion", unix.XDP_UMEM_PGOFF_COMPLETION_RING, o.Cr, c.CompletionEntries)
	if err != nil {
		return err
	}
	rx, err := mapRing[ring.Desc](s, "RX", unix.XDP_PGOFF_RX_RING, o.Rx, c.RXEntries)
	if err != nil {
		return err
	}
	tx, err := mapRing[ring.Desc](s, "TX", unix.XDP_PGOFF_TX_RING, o.Tx, c.TXEntries)
	if err != nil {
		return err
	}
	s.Rings = ring.Set{
		Fill: ring.NewProducer(fill), Completion: ring.NewConsumer(completion),
		RX: ring.NewConsumer(rx), TX: ring.NewProducer(tx),
	}
	return nil
}

// mapRing maps one ring and finds its words. The mapping is page-aligned and
// the kernel's offsets are those of struct xdp_ring (net/xdp/xsk_queue.h), each
// index on a cache line of its own, so every word is aligned for atomics.
func mapRing[T uint64 | ring.Desc](s *Socket, name string, pgoff int64, o unix.XDPRingOffset, entries uint32) (ring.Memory[T], error) {
	var entry T
	n := o.Desc + uint64(entries)*uint64(unsafe.Sizeof(entry))
	b, err := s.calls.mmap(s.fd, pgoff, int(n))
	if err != nil {
		return ring.Memory[T]{}, explain(fmt.Sprintf("map the %s ring, %d bytes", name, n), err)
	}
	s.maps = append(s.maps, b)
	word := func(off uint64) *uint32 { return (*uint32)(unsafe.Pointer(&b[off])) }
	return ring.Memory[T]{
		ProducerIndex: word(o.Producer), ConsumerIndex: word(o.Consumer), Flags: word(o.Flags),
		Entries: unsafe.Slice((*T)(unsafe.Pointer(&b[o.Desc])), entries),
	}, nil
}
