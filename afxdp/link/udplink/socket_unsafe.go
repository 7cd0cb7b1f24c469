package udplink

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of sendmmsg(2) and recvmmsg(2).
type mmsghdr struct {
	hdr    unix.Msghdr
	length uint32
	_      [4]byte
}

// controlLen has room for one control message, of UDP_SEGMENT or UDP_GRO.
const controlLen = 32

type control struct {
	_     [0]uint64 // control messages are aligned to it
	bytes [controlLen]byte
}

// put writes one control message of a uint16.
func (c *control) put(level, kind int32, value uint16) (length int) {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.bytes[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(c.bytes[unix.CmsgLen(0):], value)
	return unix.CmsgSpace(2)
}

// groSize reads the length of the datagrams that GRO has joined; 0 when it has
// joined none.
func (c *control) groSize(length int) int {
	if length < unix.CmsgLen(4) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.bytes[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(int32(binary.NativeEndian.Uint32(c.bytes[unix.CmsgLen(0):])))
}

// sockaddr is any address of IPv4 or IPv6 as the kernel takes it.
type sockaddr struct{ in6 unix.RawSockaddrInet6 }

func (s *sockaddr) set(a netip.AddrPort, scope uint32) (length uint32) {
	port := (*[2]byte)(unsafe.Pointer(&s.in6.Port)) // at the same place for both families
	binary.BigEndian.PutUint16(port[:], a.Port())
	if a.Addr().Is4() {
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.in6))
		in4.Family, in4.Addr = unix.AF_INET, a.Addr().As4()
		return unix.SizeofSockaddrInet4
	}
	s.in6.Family, s.in6.Addr, s.in6.Flowinfo, s.in6.Scope_id = unix.AF_INET6, a.Addr().As16(), 0, 0
	if a.Addr().IsLinkLocalUnicast() {
		s.in6.Scope_id = scope
	}
	return unix.SizeofSockaddrInet6
}

func (s *sockaddr) get(zone string) (netip.AddrPort, bool) {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.in6.Port))[:])
	switch s.in6.Family {
	case unix.AF_INET:
		in4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&s.in6))
		return netip.AddrPortFrom(netip.AddrFrom4(in4.Addr), port), true
	case unix.AF_INET6:
		addr := netip.AddrFrom16(s.in6.Addr)
		if addr.IsLinkLocalUnicast() && zone != "" {
			addr = addr.WithZone(zone)
		}
		return netip.AddrPortFrom(addr, port), true
	}
	return netip.AddrPort{}, false
}

// sendVector is the argument of sendmmsg. It points into itself and into the
// send slots, so it must stay where it is: on the heap.
type sendVector struct {
	messages [sendBatch]mmsghdr
	names    [sendBatch]sockaddr
	controls [sendBatch]control
	iovs     []unix.Iovec
	used     int // iovs of ended messages and of the one being added to
	from     int // the first of the latter
}

func newSendVector(slots int) *sendVector { return &sendVector{iovs: make([]unix.Iovec, slots)} }

func (v *sendVector) reset() { v.used, v.from = 0, 0 }

// add appends a datagram to the message that the next end ends.
func (v *sendVector) add(data []byte) {
	iov := &v.iovs[v.used]
	iov.Base = unsafe.SliceData(data)
	iov.SetLen(len(data))
	v.used++
}

// end makes message i of the n datagrams added. A segment above zero tells the
// kernel to cut them apart again, each of that length.
func (v *sendVector) end(i int, peer netip.AddrPort, scope uint32, n, segment int) {
	h := &v.messages[i].hdr
	h.Name = (*byte)(unsafe.Pointer(&v.names[i]))
	h.Namelen = v.names[i].set(peer, scope)
	h.Iov = &v.iovs[v.from]
	h.SetIovlen(n)
	h.Control = nil
	h.SetControllen(0)
	if segment > 0 {
		h.Control = &v.controls[i].bytes[0]
		h.SetControllen(v.controls[i].put(unix.SOL_UDP, unix.UDP_SEGMENT, uint16(segment)))
	}
	v.from = v.used
}

func (v *sendVector) send(fd, messages int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.messages[0])),
		uintptr(messages), unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(v)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// receiveVector is the argument of recvmmsg; what holds for sendVector does.
type receiveVector struct {
	messages [receiveBatch]mmsghdr
	names    [receiveBatch]sockaddr
	controls [receiveBatch]control
	iovs     [receiveBatch]unix.Iovec
}

func newReceiveVector() *receiveVector {
	v := &receiveVector{}
	for i := range v.messages {
		h := &v.messages[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&v.names[i]))
		h.Iov = &v.iovs[i]
		h.SetIovlen(1)
		h.Control = &v.controls[i].bytes[0]
	}
	return v
}

// arm lets message i be received into slot.
func (v *receiveVector) arm(i int, slot []byte) {
	v.iovs[i].Base = unsafe.SliceData(slot)
	v.iovs[i].SetLen(len(slot))
	h := &v.messages[i].hdr
	h.Namelen = uint32(unsafe.Sizeof(v.names[i]))
	h.SetControllen(controlLen)
	h.Flags = 0
}

func (v *receiveVector) receive(fd, messages int) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.messages[0])),
		uintptr(messages), unix.MSG_DONTWAIT, 0, 0)
	runtime.KeepAlive(v)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

// message describes message i after receive. segment is the length of the
// datagrams in it when they are several; ok is false for what did not fit,
// for no bytes, and for an address that is none.
func (v *receiveVector) message(i int, zone string) (length, segment int, peer netip.AddrPort, ok bool) {
	m := &v.messages[i]
	peer, ok = v.names[i].get(zone)
	if !ok || m.length == 0 || m.hdr.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return 0, 0, peer, false
	}
	return int(m.length), v.controls[i].groSize(int(m.hdr.Controllen)), peer, true
}

// ppoll looks at fds, and waits for one of them unless it is to return at once.
func ppoll(fds []unix.PollFd, atOnce bool) error {
	var ts *unix.Timespec
	if atOnce {
		ts = &unix.Timespec{}
	}
	_, _, errno := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(fds))), uintptr(len(fds)), uintptr(unsafe.Pointer(ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// read is unix.Read without a buffer on the heap.
func read(fd int, b *[8]byte) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(b)), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// socketDrops is how many datagrams the socket had no room for (SO_MEMINFO).
func socketDrops(fd int) (uint64, error) {
	var info [9]uint32 // SK_MEMINFO_VARS
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(info[8]), nil // SK_MEMINFO_DROPS
}

// mapMemory maps zeroed memory outside of the Go heap.
func mapMemory(bytes int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("%d bytes for datagrams: %w", bytes, os.NewSyscallError("mmap", err))
	}
	return b, nil
}

func unmapMemory(b []byte) {
	if b != nil {
		_ = unix.Munmap(b) // it can't fail for what mapMemory returned
	}
}
