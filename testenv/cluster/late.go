package cluster

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lateQueueMax is how many frames may wait to be read by the process, and how
// many to be sent to one place; more are lost.
const lateQueueMax = 100_000

// lateName is the tap interface that frames to p are late by. The switch's
// program redirects them there; a tap can't segment or checksum, so the kernel
// has done both when they are read.
func (p *Place) lateName() string { return fmt.Sprintf("late%d", p.Number) }

// CarryLate sends frames that must be late, of the cluster in dir, when they
// are due, until ctx ends. It must run in the namespace of the switch; Delay
// starts a process that does. It writes "ready" to w once it can.
func CarryLate(ctx context.Context, dir string, w io.Writer) (err error) {
	s, err := load(dir)
	if err != nil {
		return err
	}
	var lines []*lateLine
	var wg sync.WaitGroup
	defer func() {
		for _, l := range lines {
			err = errors.Join(err, l.close())
		}
		wg.Wait()
	}()
	for _, p := range s.Places {
		l, err := openLateLine(p, s.Config.MTU)
		if err != nil {
			return fmt.Errorf("cluster: late frames to %s: %w", p.Name, err)
		}
		lines = append(lines, l)
		wg.Go(l.take)
		wg.Go(l.send)
	}
	if _, err := fmt.Fprintln(w, "ready"); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// lateLine carries the late frames to one place.
type lateLine struct {
	tap    *os.File
	socket int // AF_PACKET, on the switch's port to the place
	rules  *ebpf.Map
	mtu    int
	stop   chan struct{}
	wake   chan struct{} // frames has changed; holds one

	mu     sync.Mutex
	frames dueHeap
	count  uint64
}

func openLateLine(p *Place, mtu int) (_ *lateLine, err error) {
	l := &lateLine{socket: -1, mtu: mtu, stop: make(chan struct{}), wake: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.release())
		}
	}()
	if l.tap, err = openTap(p.lateName(), mtu); err != nil {
		return nil, err
	}
	if l.rules, err = openRules(p.port()); err != nil {
		return nil, err
	}
	port, err := net.InterfaceByName(p.port())
	if err != nil {
		return nil, err
	}
	if l.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil { // receives nothing
		return nil, err
	}
	// Past the qdisc means past the program, which would make them late again.
	return l, errors.Join(unix.SetsockoptInt(l.socket, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.Bind(l.socket, &unix.SockaddrLinklayer{Ifindex: port.Index}))
}

// openTap makes an interface that is there until the file is closed.
func openTap(name string, mtu int) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w; load the module tun", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	var tap netlink.Link
	if err == nil {
		tap, err = netlink.LinkByName(name)
	}
	if err == nil {
		err = errors.Join(netlink.LinkSetMTU(tap, mtu), netlink.LinkSetTxQLen(tap, lateQueueMax), netlink.LinkSetUp(tap))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tap interface %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (l *lateLine) close() error {
	close(l.stop)
	return l.release()
}

// release lets go of what there is. A frame sent at the same time is lost.
func (l *lateLine) release() (err error) {
	if l.tap != nil {
		err = l.tap.Close()
	}
	if l.rules != nil {
		err = errors.Join(err, l.rules.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.socket >= 0 {
		err = errors.Join(err, unix.Close(l.socket))
		l.socket = -1
	}
	return err
}

// take moves frames from the tap to the heap, until the tap is closed.
func (l *lateLine) take() {
	buf := make([]byte, l.mtu+64) // and Ethernet's head with some VLAN tags
	for {
		n, err := l.tap.Read(buf)
		if err != nil {
			return
		}
		var r rule
		if n < 14 || [5]byte(buf[sourceAt:]) != macStart || l.rules.Lookup(uint32(buf[sourceAt+5]), &r) != nil {
			continue // the kernel's own, as neighbour discovery sends on every interface
		}
		wait := time.Duration(r.DelayNs)
		if r.JitterNs > 0 {
			wait += time.Duration(rand.Uint64N(r.JitterNs))
		}
		l.add(lateFrame{due: time.Now().Add(wait), frame: append([]byte(nil), buf[:n]...)})
	}
}

func (l *lateLine) add(f lateFrame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.frames) >= lateQueueMax {
		return
	}
	f.nth = l.count
	l.count++
	heap.Push(&l.frames, f)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// send sends each frame when it is due.
func (l *lateLine) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(l.sendDue())
		select {
		case <-l.stop:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// sendDue sends what is due, and tells how long to wait for the next.
func (l *lateLine) sendDue() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.frames) > 0 && l.socket >= 0 {
		if wait := time.Until(l.frames[0].due); wait > 0 {
			return wait
		}
		f := heap.Pop(&l.frames).(lateFrame)
		_ = unix.Send(l.socket, f.frame, 0) // a full queue loses it, as one would have before
	}
	return time.Hour
}

type lateFrame struct {
	due   time.Time
	nth   uint64 // keeps the order of those due at the same time
	frame []byte
}

// dueHeap is a heap by time.
type dueHeap []lateFrame

// Len is of heap.Interface, as all of these.
func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].nth < h[j].nth
}

func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is of heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(lateFrame)) }

// Pop is of heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = lateFrame{}
	*h = (*h)[:last]
	return f
}
