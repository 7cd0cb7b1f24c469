package bpf

import (
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
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
