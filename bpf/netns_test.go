package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needRoot fails a test that loads programs when it can't.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("loading programs into the kernel needs root; run the tests of this package by sudo")
	}
}

// enterNetns moves the test into a network namespace of its own until the test
// ends; it has no name, and goes with its last user.
func enterNetns(t testing.TB) netns.NsHandle {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Set(before); err != nil {
			t.Fatal(err) // the thread dies locked rather than serve another test
		}
		_ = before.Close()
		_ = ns.Close()
		runtime.UnlockOSThread()
	})
	return ns
}

// vethPair makes two interfaces with a wire between them, both up, in this
// namespace.
func vethPair(t testing.TB, queues int) (a, b netlink.Link) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.NumRxQueues, attrs.NumTxQueues = "bpf-a", queues, queues
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "bpf-b", PeerNumRxQueues: uint32(queues), PeerNumTxQueues: uint32(queues)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	ends := make([]netlink.Link, 0, 2)
	for _, name := range []string{"bpf-a", "bpf-b"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, l)
	}
	return ends[0], ends[1]
}

// boundSocket opens an AF_XDP socket on queue 0 of the interface, with rings of
// which none is ever served. The caller closes it.
func boundSocket(t testing.TB, index int) int {
	t.Helper()
	const chunk, chunks = 4096, 16
	memory, err := unix.Mmap(-1, 0, chunk*chunks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANONYMOUS|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	// struct xdp_umem_reg: address, length, chunk size, headroom, flags.
	region := binary.NativeEndian.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(&memory[0]))))
	region = binary.NativeEndian.AppendUint64(region, chunk*chunks)
	region = binary.NativeEndian.AppendUint32(region, chunk)
	region = append(region, make([]byte, 12)...)
	err = unix.SetsockoptString(fd, unix.SOL_XDP, unix.XDP_UMEM_REG, string(region))
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING} {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_XDP, ring, chunks))
	}
	err = errors.Join(err, unix.Bind(fd, &unix.SockaddrXDP{Ifindex: uint32(index), Flags: unix.XDP_COPY}))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
