package socket

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/ring"
	"blockd.dev/afxdp/umem"
	"blockd.dev/blockdev/arena"
)

// bench is a host with an interface of two queues, and a UMEM.
type bench struct {
	lab  *netlab.Lab
	umem *umem.UMEM
}

func newBench(t *testing.T) bench {
	t.Helper()
	lab, err := netlab.New(netlab.Config{Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	a, err := arena.New(arena.Config{SizeBytes: 2 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	u, err := umem.New(a, 256)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(u.Close(), a.Close()); err != nil {
			t.Error(err)
		}
		lab.Close()
	})
	return bench{lab, u}
}

func (b bench) config(queue int) Config {
	return Config{
		Interface: b.lab.A.Index, Queue: queue, UMEM: b.umem, MultiBuffer: true,
		FillEntries: 64, CompletionEntries: 64, RXEntries: 64, TXEntries: 64, SendBufferBytes: 1 << 20,
	}
}

func (b bench) open(k calls, c Config) (s *Socket, err error) {
	err = b.lab.A.Do(func() error { s, err = open(k, c); return err })
	return s, err
}

// left is what a process has of the kernel: descriptors, and mapped rings.
func left(t *testing.T) string {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	sockets, rings := 0, 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			sockets++
		}
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(maps), "\n") {
		if strings.Contains(line, "socket:") || strings.Contains(line, "[xdp") {
			rings++
		}
	}
	return fmt.Sprintf("%d sockets, %d mapped rings", sockets, rings)
}

// TestLadderOnAVeth: a veth has no zero-copy, and says so; copy mode works,
// with multi-buffer where the kernel has it.
func TestLadderOnAVeth(t *testing.T) {
	b := newBench(t)
	before := left(t)
	s, err := b.open(kernel{}, b.config(0))
	if err != nil {
		t.Fatal(err)
	}
	if s.ZeroCopy() || len(s.Refused()) == 0 || !errors.Is(s.Refused()[0], ErrUnsupported) || !strings.HasPrefix(s.Refused()[0].Error(), "zero-copy with multi-buffer: ") {
		t.Errorf("zero-copy %v, refused %v", s.ZeroCopy(), s.Refused())
	}
	if !s.MultiBuffer() && len(s.Refused()) < 2 {
		t.Error("no multi-buffer, for no reason")
	}
	if left(t) == before {
		t.Fatal("this test can't see a socket")
	}
	// A second queue shares the memory and the way.
	s2, err := b.open(kernel{}, b.config(1))
	if err != nil {
		t.Fatal(err)
	}
	if s2.MultiBuffer() != s.MultiBuffer() || s2.ZeroCopy() {
		t.Errorf("the second queue: multi-buffer %v, zero-copy %v", s2.MultiBuffer(), s2.ZeroCopy())
	}
	// The first may go before the second, and come back, sharing with it.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = b.open(kernel{}, b.config(0)); err != nil {
		t.Fatal(err)
	}
	if st, err := s.Stats(); err != nil || st != (Stats{}) {
		t.Errorf("a fresh socket counts %+v, %v", st, err)
	}
	if err := errors.Join(s.Close(), s2.Close(), s2.Close()); err != nil {
		t.Fatal(err)
	}
	if after := left(t); after != before {
		t.Errorf("left behind: %s; before: %s", after, before)
	}
}

// TestDevicesShareMemory: a UMEM serves queues of more than one NIC.
func TestDevicesShareMemory(t *testing.T) {
	b := newBench(t)
	first, err := b.open(kernel{}, b.config(0))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	c := b.config(1)
	c.Interface = b.lab.B.Index
	var other *Socket
	if err := b.lab.B.Do(func() error { other, err = Open(c); return err }); err != nil {
		t.Fatal(err)
	}
	if other.MultiBuffer() != first.MultiBuffer() || other.Rings.Fill.Free(64) != 64 {
		t.Errorf("multi-buffer %v and %v, %d free in the fill ring", first.MultiBuffer(), other.MultiBuffer(), other.Rings.Fill.Free(64))
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestFrameLeavesByTheSocket: what is put into the TX ring comes out at the
// other end of the wire, and its chunk comes back.
func TestFrameLeavesByTheSocket(t *testing.T) {
	b := newBench(t)
	s, err := b.open(kernel{}, b.config(0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var raw int
	if err := b.lab.B.Do(func() (err error) {
		raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(0x88B5)))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(raw)
	frame := append([]byte(strings.Repeat("\xFF", 6)), b.lab.A.MAC...)
	frame = append(frame, 0x88, 0xB5) // IEEE 802's EtherType for experiments
	frame = append(frame, strings.Repeat("blockd", 20)...)
	copy(b.umem.Bytes()[8192+100:], frame)
	s.Rings.TX.Free(1)
	s.Rings.TX.Push(ring.Desc{Addr: 8192 + 100, Len: uint32(len(frame))})
	s.Rings.TX.Publish()
	if !s.Rings.TX.NeedsWakeup() {
		t.Error("copy mode always needs a wake-up")
	}
	if errno := s.WakeTX(); errno != 0 {
		t.Fatal(errno)
	}
	got := make([]byte, 2000)
	if err := unix.SetsockoptTimeval(raw, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	n, _, err := unix.Recvfrom(raw, got, 0)
	if err != nil || string(got[:n]) != string(frame) {
		t.Fatalf("%v: received %x", err, got[:n])
	}
	poll := []unix.PollFd{{Fd: int32(s.FD()), Events: unix.POLLOUT}}
	for deadline := time.Now().Add(5 * time.Second); s.Rings.Completion.Available() == 0; {
		if _, err := unix.Poll(poll, 1); err != nil && err != unix.EINTR || time.Now().After(deadline) {
			t.Fatal("no completion", err)
		}
	}
	if addr := s.Rings.Completion.Pop(); addr != 8192+100 {
		t.Errorf("completed %#x", addr)
	}
	if st, err := s.Stats(); err != nil || st.TXInvalidDescs != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// TestBusyPollIsAccepted by the kernel, with all its options.
func TestBusyPollIsAccepted(t *testing.T) {
	b := newBench(t)
	c := b.config(0)
	c.BusyPoll = BusyPoll{Duration: 20 * time.Microsecond, Budget: 16}
	s, err := b.open(kernel{}, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for name, want := range map[int]int{unix.SO_PREFER_BUSY_POLL: 1, unix.SO_BUSY_POLL: 20} { // the budget can't be asked for
		if got, err := unix.GetsockoptInt(s.FD(), unix.SOL_SOCKET, name); err != nil || got != want {
			t.Errorf("option %#x is %d, %v; want %d", name, got, err, want)
		}
	}
	if errno := s.WakeRX(); errno != 0 {
		t.Error(errno)
	}
}

// faulty fails the n-th call that can fail, and counts.
type faulty struct {
	kernel
	at    *int // calls until the fault; below zero: never
	errno syscall.Errno
}

func (f faulty) hit() bool { *f.at--; return *f.at == -1 }

func (f faulty) socket() (int, error) {
	if f.hit() {
		return -1, f.errno
	}
	return f.kernel.socket()
}

func (f faulty) registerUMEM(fd int, mem []byte) error {
	if f.hit() {
		return f.errno
	}
	return f.kernel.registerUMEM(fd, mem)
}

func (f faulty) setInt(fd, level, name, value int) error {
	if f.hit() {
		return f.errno
	}
	return f.kernel.setInt(fd, level, name, value)
}

func (f faulty) offsets(fd int) (unix.XDPMmapOffsets, error) {
	if f.hit() {
		return unix.XDPMmapOffsets{}, f.errno
	}
	return f.kernel.offsets(fd)
}

func (f faulty) mmap(fd int, off int64, n int) ([]byte, error) {
	if f.hit() {
		return nil, f.errno
	}
	return f.kernel.mmap(fd, off, n)
}

func (f faulty) bind(fd int, sa *unix.SockaddrXDP) error {
	if f.hit() {
		return f.errno
	}
	return f.kernel.bind(fd, sa)
}

func (f faulty) zeroCopy(fd int) (bool, error) {
	if f.hit() {
		return false, f.errno
	}
	return f.kernel.zeroCopy(fd)
}

// TestFaultAtEachStepLeavesNothing: a fault at any call, when it is the first
// socket on a UMEM or shares one, leaves no descriptor and no mapping, and the
// same socket can be made right after.
func TestFaultAtEachStepLeavesNothing(t *testing.T) {
	b := newBench(t)
	first, err := b.open(kernel{}, b.config(0))
	if err != nil {
		t.Fatal(err)
	}
	for _, shared := range []bool{true, false} {
		queue := 1
		if !shared {
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
		}
		before := left(t)
		c := b.config(queue)
		c.CopyOnly, c.MultiBuffer = true, false // one rung
		steps := 0
		for ; ; steps++ {
			at := steps
			s, err := b.open(faulty{at: &at, errno: syscall.EIO}, c)
			if err == nil {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				if at < 0 {
					continue // the send buffer has a second way, taken after this fault
				}
				break
			}
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("shared %v, fault at step %d: %v", shared, steps, err)
			}
			if after := left(t); after != before {
				t.Fatalf("shared %v, fault at step %d left %s; before: %s", shared, steps, after, before)
			}
		}
		if steps < 12 {
			t.Errorf("shared %v: only %d steps were seen", shared, steps)
		}
	}
}

// busy is a kernel whose queue is taken for a while.
type busy struct {
	kernel
	times *int
}

func (b busy) bind(fd int, sa *unix.SockaddrXDP) error {
	if *b.times--; *b.times >= 0 {
		return syscall.EBUSY
	}
	return b.kernel.bind(fd, sa)
}

func (b busy) pause(time.Duration) {}

// TestBusyQueueIsWaitedFor, as a process that restarts needs, but not for ever.
func TestBusyQueueIsWaitedFor(t *testing.T) {
	b := newBench(t)
	times := 10
	s, err := b.open(busy{times: &times}, b.config(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	times = 1 << 30
	if _, err = b.open(busy{times: &times}, b.config(0)); !errors.Is(err, ErrQueueBusy) || !strings.Contains(err.Error(), "end the process") {
		t.Fatal(err)
	}
	if waited := 1<<30 - times; waited > 300 {
		t.Errorf("tried %d times: the ladder goes on after a busy queue", waited)
	}
}

// TestErrorsSayWhatToDo for each errno that AF_XDP is known to give.
func TestErrorsSayWhatToDo(t *testing.T) {
	for errno, c := range map[syscall.Errno]struct {
		kind error
		word string
	}{
		syscall.EPERM: {ErrPermission, "CAP_NET_RAW"}, syscall.ENOBUFS: {ErrPermission, "ulimit -l"},
		syscall.EAFNOSUPPORT: {ErrUnsupported, "CONFIG_XDP_SOCKETS"}, syscall.EOPNOTSUPP: {ErrUnsupported, "driver"},
		syscall.EINVAL: {ErrUnsupported, "too old"}, syscall.EBUSY: {ErrQueueBusy, "end the process"},
		syscall.ENODEV: {nil, "gone"}, syscall.ENOMEM: {nil, "rings"}, syscall.EIO: {nil, "af_xdp: x"},
	} {
		err := explain("x", errno)
		if !errors.Is(err, errno) || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	b := newBench(t)
	for name, change := range map[string]func(*Config){
		"no interface": func(c *Config) { c.Interface = 0 },
		"queue":        func(c *Config) { c.Queue = -1 },
		"no memory":    func(c *Config) { c.UMEM = nil },
		"both":         func(c *Config) { c.CopyOnly, c.ZeroCopyOnly = true, true },
		"ring":         func(c *Config) { c.RXEntries = 63 },
		"budget":       func(c *Config) { c.BusyPoll.Budget = 65536 },
		"busy poll":    func(c *Config) { c.BusyPoll.Duration = time.Minute },
	} {
		c := b.config(0)
		change(&c)
		if s, err := b.open(kernel{}, c); err == nil {
			t.Errorf("%s: accepted", name)
			s.Close()
		}
	}
	c := b.config(7)
	if _, err := b.open(kernel{}, c); !errors.Is(err, ErrUnsupported) {
		t.Errorf("queue 7 of 2: %v", err)
	}
	c = b.config(0)
	c.ZeroCopyOnly = true
	if _, err := b.open(kernel{}, c); !errors.Is(err, ErrUnsupported) {
		t.Errorf("zero-copy on a veth: %v", err)
	}
}
