package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// TestMain lets this program be a process that steers until it is killed.
func TestMain(m *testing.M) {
	if index := os.Getenv("BLOCKD_BPF_TEST_STEER"); index != "" {
		n, _ := strconv.Atoi(index)
		_, err := LoadSteer(Config{Interface: n, Port: port, Local: []netip.Addr{localV4}})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("steering")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestKilledProcessLeavesNothing: kill -9 takes the program off the NIC.
func TestKilledProcessLeavesNothing(t *testing.T) {
	enterNetns(t)
	a, _ := vethPair(t, 1)
	cmd := exec.Command(os.Args[0]) // in the namespace of this thread
	cmd.Env = append(os.Environ(), "BLOCKD_BPF_TEST_STEER="+strconv.Itoa(a.Attrs().Index))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "steering\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if !xdpAttached(t, a) {
		t.Fatal("no program is attached while the process lives")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "signal: killed"
	if xdpAttached(t, a) {
		t.Error("the program is still attached after the process was killed")
	}
	steerOn(t, a, Native) // the place is free
}

// twoHosts is a wire between this thread's namespace, with localV4 and localV6,
// and another with peerV4, other and peerV6.
type twoHosts struct {
	t           *testing.T
	here, there netns.NsHandle
	nic         netlink.Link // here
}

func newTwoHosts(t *testing.T) *twoHosts {
	t.Helper()
	h := &twoHosts{t: t}
	stayOnOneProcessor(t)
	h.there = enterNetns(t)
	h.here = enterNetns(t)
	a, b := vethPair(t, 1)
	h.nic = a
	if err := netlink.LinkSetNsFd(b, int(h.there)); err != nil {
		t.Fatal(err)
	}
	h.address(a, localV4.String()+"/24", localV6.String()+"/64")
	h.at(h.there, func() {
		if err := netlink.LinkSetUp(b); err != nil {
			t.Fatal(err)
		}
		h.address(b, peerV4.String()+"/24", other.String()+"/24", peerV6.String()+"/64")
	})
	return h
}

// stayOnOneProcessor binds the test's thread, so that what it sends stays in
// order.
func stayOnOneProcessor(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Fatal(err)
		}
		runtime.UnlockOSThread()
	})
}

func (h *twoHosts) address(l netlink.Link, cidrs ...string) {
	h.t.Helper()
	for _, c := range cidrs {
		a, err := netlink.ParseAddr(c)
		if err != nil {
			h.t.Fatal(err)
		}
		a.Flags = 0x02 // IFA_F_NODAD: IPv6 addresses are usable at once
		if err := netlink.AddrAdd(l, a); err != nil {
			h.t.Fatal(err)
		}
	}
}

// at runs f in the namespace, on this thread.
func (h *twoHosts) at(ns netns.NsHandle, f func()) {
	h.t.Helper()
	if err := netns.Set(ns); err != nil {
		h.t.Fatal(err)
	}
	f()
	if err := netns.Set(h.here); err != nil {
		h.t.Fatal(err)
	}
	runtime.KeepAlive(h)
}

// socket opens a UDP socket in the namespace.
func (h *twoHosts) socket(ns netns.NsHandle, addr netip.Addr, port uint16) *net.UDPConn {
	h.t.Helper()
	var c *net.UDPConn
	h.at(ns, func() {
		var err error
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		if err != nil {
			h.t.Fatal(err)
		}
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

// arrives sends from one socket to the other, and fails unless it arrives.
func (h *twoHosts) arrives(from, to *net.UDPConn, text string) {
	h.t.Helper()
	h.send(from, to, text)
	if got := h.receive(to, 10*time.Second); got != text {
		h.t.Errorf("%s to %s: received %q, want %q", from.LocalAddr(), to.LocalAddr(), got, text)
	}
}

// isLost sends from one socket to the other, and fails if it arrives. The wire
// keeps the order of what one processor sends: what was sent before the marker
// has arrived when that has, or never will.
func (h *twoHosts) isLost(from, to *net.UDPConn, text string, marker func()) {
	h.t.Helper()
	h.send(from, to, text)
	marker()
	if got := h.receive(to, time.Millisecond); got != "" {
		h.t.Errorf("%s to %s: received %q, want nothing", from.LocalAddr(), to.LocalAddr(), got)
	}
}

func (h *twoHosts) send(from, to *net.UDPConn, text string) {
	h.t.Helper()
	if _, err := from.WriteToUDPAddrPort([]byte(text), to.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
		h.t.Fatal(err)
	}
}

// receive returns the next datagram, or "" when none comes in time.
func (h *twoHosts) receive(c *net.UDPConn, patience time.Duration) string {
	h.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	b := make([]byte, 100)
	n, _, err := c.ReadFromUDPAddrPort(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		h.t.Fatal(err)
	}
	return string(b[:n])
}

// TestTrafficOnVeth runs the kernel's own traffic through the program, in both
// modes: what isn't the cluster's works as before, strangers are kept out, peers get
// to a plain socket while no AF_XDP socket is there, and every frame is counted.
func TestTrafficOnVeth(t *testing.T) {
	for _, mode := range []Mode{Native, Generic} {
		t.Run(mode.String(), func(t *testing.T) {
			h := newTwoHosts(t)
			s := steerOn(t, h.nic, mode)
			for _, p := range []netip.Addr{peerV4, peerV6} {
				if err := s.AllowPeer(p); err != nil {
					t.Fatal(err)
				}
			}
			cluster4, cluster6 := h.socket(h.here, localV4, port), h.socket(h.here, localV6, port)
			plain := h.socket(h.here, localV4, port+1)
			from4, from6 := h.socket(h.there, peerV4, port), h.socket(h.there, peerV6, port)
			strange := h.socket(h.there, other, port)
			h.echo()
			marker := func() { h.arrives(from4, plain, "marker") }
			h.arrives(from6, cluster6, "so that the neighbours know each other")

			before := h.counters(s)
			h.arrives(from4, cluster4, "from a peer, without an AF_XDP socket")
			h.arrives(from6, cluster6, "from a peer by IPv6")
			h.isLost(strange, cluster4, "from a stranger", marker)
			h.arrives(strange, plain, "from a stranger to another port")
			// A socket that takes nothing, since its fill ring is empty.
			fd := boundSocket(t, h.nic.Attrs().Index)
			defer unix.Close(fd)
			if err := s.Register(0, fd); err != nil {
				t.Fatal(err)
			}
			h.isLost(from4, cluster4, "redirected", marker)
			if err := s.Unregister(0); err != nil {
				t.Fatal(err)
			}
			h.arrives(from4, cluster4, "after Unregister")
			h.echo()

			after := h.counters(s)
			got := after.Queues[0].since(before.Queues[0])
			got.Other = 0 // ARP, the echo and the markers
			want := QueueCounters{Redirected: 1, NoSocket: 3, UnknownPeer: 1}
			if got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
			if p := after.Peers[0]; p.Addr != peerV4 || p.Packets != 1 || p.Bytes != uint64(len("redirected")) {
				t.Errorf("the peer's counters are %+v; want 1 packet of %d bytes", p, len("redirected"))
			}
		})
	}
}

func (h *twoHosts) counters(s *Steer) Counters {
	h.t.Helper()
	c, err := s.Counters()
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// echo moves a megabyte by TCP to the steered host and back.
func (h *twoHosts) echo() {
	h.t.Helper()
	var listener net.Listener
	h.at(h.here, func() {
		var err error
		if listener, err = net.Listen("tcp", netip.AddrPortFrom(localV4, port).String()); err != nil {
			h.t.Fatal(err)
		}
	})
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		c, err := listener.Accept()
		if err == nil {
			_, err = io.Copy(c, c)
			err = errors.Join(err, c.Close())
		}
		served <- err
	}()
	h.at(h.there, func() {
		c, err := net.DialTimeout("tcp", listener.Addr().String(), 10*time.Second)
		if err != nil {
			h.t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 1<<20))
			sent <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
		}()
		n, err := io.Copy(io.Discard, c)
		if err := errors.Join(err, <-sent, c.Close()); err != nil || n != 1<<20 {
			h.t.Errorf("echoed %d bytes, %v; want %d", n, err, 1<<20)
		}
	})
	if err := <-served; err != nil {
		h.t.Error(err)
	}
}
