package udplink

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/alarm"
	"blockd.dev/afxdp/doze"
	"blockd.dev/afxdp/link"
)

// mtuAge is how long the interface's MTU is believed without a look.
const mtuAge = 10 * time.Second

// Link is one UDP socket. It implements link.Link.
type Link struct {
	ifname      string
	zone        string // of link-local addresses
	scope       uint32 // the zone's number
	local       netip.AddrPort
	datagramCap int // largest datagram that slots have room for
	overhead    int
	gro         bool
	socket      int
	wakeFD      int

	datagram atomic.Int64 // MaxDatagram
	mtuRead  time.Time
	tx       sender
	rx       receiver
	count    counters
	pollFDs  []unix.PollFd // socket, wakeFD, alarm, what is watched
	alarm    *alarm.Alarm
	doze     *doze.Sleeper

	woken  atomic.Bool // wakeFD is readable
	closed atomic.Bool
	mu     sync.Mutex // keeps Wake and Stats off descriptors that Close gives back
}

var _ link.Link = (*Link)(nil)

// counters are link.Stats that the pump writes and anyone reads.
type counters struct {
	txPackets, txBytes, rxPackets, rxBytes atomic.Uint64
	noRoute, tooLong, rxInvalid, txFull    atomic.Uint64
	syscalls, waits                        atomic.Uint64
	drops                                  uint64 // as the socket last said; under mu
}

// Kind returns link.UDP.
func (l *Link) Kind() link.Kind { return link.UDP }

// LocalAddr is what the socket is bound to.
func (l *Link) LocalAddr() netip.AddrPort { return l.local }

// MaxDatagram is in bytes. It follows the interface's MTU within ten seconds
// in which Wait is called, and at once when a datagram turns out too long.
func (l *Link) MaxDatagram() int { return int(l.datagram.Load()) }

// RxHoldMax is half of Config.Slots.
func (l *Link) RxHoldMax() int { return len(l.rx.slots) / 2 }

// Reserve lends send slots.
func (l *Link) Reserve(bufs []link.TxBuf) int {
	if l.closed.Load() {
		return 0
	}
	n := l.tx.reserve(bufs)
	if n < len(bufs) {
		l.count.txFull.Add(1)
	}
	return n
}

// ReleaseTx takes slots back.
func (l *Link) ReleaseTx(bufs []link.TxBuf) {
	if !l.closed.Load() {
		l.tx.release(bufs)
	}
}

// ReleaseRx takes received datagrams back.
func (l *Link) ReleaseRx(bufs []link.RxBuf) {
	if !l.closed.Load() {
		l.rx.release(bufs)
	}
}

// Wait blocks in ppoll(2) on the socket and what is watched, and an alarm ends it in time. Without
// traffic it dozes on them.
func (l *Link) Wait(timeout time.Duration) error {
	if l.closed.Load() {
		return l.closedError()
	}
	if len(l.rx.inbox) > 0 {
		return nil
	}
	l.refreshMTU()
	l.pollFDs[0].Events = unix.POLLIN
	if l.tx.pending.n > 0 {
		l.pollFDs[0].Events |= unix.POLLOUT
	}
	l.count.syscalls.Add(1)
	if timeout != 0 {
		l.count.waits.Add(1)
	}
	l.pollFDs[2].Fd = -1 // which poll leaves out
	if timeout > 0 {
		if err := l.alarm.Set(timeout); err != nil {
			return fmt.Errorf("udplink: %v: %w: %w", l.local, link.ErrClosed, err)
		}
		l.pollFDs[2].Fd = int32(l.alarm.FD())
	}
	atOnce := timeout == 0
	if !atOnce {
		defer l.doze.End()
		if l.doze.Begin(len(l.pollFDs) == watchedFrom && l.tx.pending.n == 0) {
			if err := l.dozeOff(timeout < 0); err != nil {
				return fmt.Errorf("udplink: %v: %w: %w", l.local, link.ErrClosed, err)
			}
			atOnce = true
		}
	}
	if err := ppoll(l.pollFDs, atOnce); err != nil && err != unix.EINTR {
		return fmt.Errorf("udplink: %v: %w: %w", l.local, link.ErrClosed, os.NewSyscallError("ppoll", err))
	}
	if l.pollFDs[1].Revents != 0 {
		l.clearWake()
	}
	if l.closed.Load() {
		return l.closedError()
	}
	return l.flush()
}

// dozeOff sleeps without a processor.
func (l *Link) dozeOff(forever bool) error {
	if forever { // but an alarm that has rung goes on until it is set
		if err := l.alarm.Set(time.Hour); err != nil {
			return err
		}
	}
	return l.doze.Doze()
}

// watchedFrom is where in Link.pollFDs the sources begin.
const watchedFrom = 3

// Watch implements link.Watcher.
func (l *Link) Watch(fds []int) {
	l.pollFDs = l.pollFDs[:watchedFrom]
	for _, fd := range fds {
		l.pollFDs = append(l.pollFDs, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
}

// Wake makes wakeFD readable. A Wake that finds it so already changes nothing:
// whoever called that one before did, and the pump has not yet looked.
func (l *Link) Wake() {
	if !l.woken.CompareAndSwap(false, true) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.Load() {
		_, _ = unix.Write(l.wakeFD, one) // it can't be full: it holds 0 or 1
	}
}

var one = []byte{1, 0, 0, 0, 0, 0, 0, 0}

// clearWake empties wakeFD first and says so then: a Wake in between leaves it
// empty, but the Wait that we are in returns, which is what Wake promises.
func (l *Link) clearWake() {
	var b [8]byte
	_, _ = read(l.wakeFD, &b)
	l.woken.Store(false)
}

// Stats returns the counters.
func (l *Link) Stats() link.Stats {
	c := &l.count
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed.Load() {
		if drops, err := socketDrops(l.socket); err == nil {
			c.drops = drops
		}
	}
	return link.Stats{
		TxPackets: c.txPackets.Load(), TxBytes: c.txBytes.Load(),
		RxPackets: c.rxPackets.Load(), RxBytes: c.rxBytes.Load(),
		TxDroppedNoRoute: c.noRoute.Load(), TxDroppedTooLong: c.tooLong.Load(),
		RxDroppedNoBuffer: c.drops, RxInvalid: c.rxInvalid.Load(),
		TxFull: c.txFull.Load(), Syscalls: c.syscalls.Load(), Waits: c.waits.Load(),
	}
}

// Close closes the socket and unmaps the buffers. A second Close does nothing.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Swap(true) {
		return nil
	}
	if l.doze != nil {
		_ = l.doze.Close() // it has nothing to lose
	}
	for _, fd := range []*int{&l.socket, &l.wakeFD} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	if l.alarm != nil {
		_ = l.alarm.Close() // a timer has nothing to lose
	}
	l.tx.close()
	l.rx.close()
	return nil
}

func (l *Link) closedError() error {
	return fmt.Errorf("udplink: %v: %w", l.local, link.ErrClosed)
}

// refreshMTU looks at the interface's MTU when the last look is old. The
// interface may be away for a while; what it had stays then.
func (l *Link) refreshMTU() {
	if time.Since(l.mtuRead) > mtuAge {
		_ = l.readMTU()
	}
}

func (l *Link) readMTU() error {
	l.mtuRead = time.Now()
	ifr, err := unix.NewIfreq(l.ifname)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(l.socket, unix.SIOCGIFMTU, ifr); err != nil {
		return os.NewSyscallError("ioctl SIOCGIFMTU "+l.ifname, err)
	}
	l.datagram.Store(int64(min(int(ifr.Uint32())-l.overhead, l.datagramCap)))
	return nil
}
