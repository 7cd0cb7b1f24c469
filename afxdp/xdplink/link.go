package xdplink

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/alarm"
	"blockd.dev/afxdp/doze"
	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/neigh"
	"blockd.dev/afxdp/packet"
	"blockd.dev/afxdp/queue"
	"blockd.dev/afxdp/socket"
	"blockd.dev/afxdp/umem"
	"blockd.dev/bpf"
)

// Link is one queue of a Device, a link.Link.
type Link struct {
	device *Device
	number int // of the queue
	kind   link.Kind
	local  netip.AddrPort
	room   int // most bytes of a datagram that a buffer takes
	share  *umem.Share
	socket *socket.Socket

	// The pump's.
	queue    *queue.Queue
	header   packet.Header // of what is being sent
	busyPoll bool
	short    bool          // Reserve found too little
	pause    time.Duration // how long Wait waited for room last
	poll     []unix.PollFd // socket, eventfd, alarm, what is watched
	alarm    *alarm.Alarm
	doze     *doze.Sleeper
	lookup   func(netip.Addr) (neigh.Hop, bool)

	// For other goroutines.
	goneNow  atomic.Bool // the interface has vanished
	woken    atomic.Bool // Wake was called, no Wait has returned for it
	sleeping atomic.Bool // the pump is in poll, or about to be
	stats    counters

	// life guards what Close takes away from goroutines that are not the pump.
	life struct {
		sync.RWMutex
		closed  bool
		event   int          // eventfd that ends a sleep
		dropped socket.Stats // at the end
	}
	closed atomic.Bool // the same, for the pump
}

var _ link.Link = (*Link)(nil)

// counters are link.Stats, kept by the pump and read by all.
type counters struct {
	txPackets, txBytes, txNoRoute, txTooLong, txFull atomic.Uint64
	rxPackets, rxBytes, rxInvalid                    atomic.Uint64
	syscalls, waits                                  atomic.Uint64
}

// Open opens one queue of an interface: a Device for Config.Queue alone. The
// Device ends when the Link is closed.
func Open(c Config) (*Link, error) {
	c.Links = 1
	d, err := OpenDevice(c)
	if err != nil {
		return nil, err
	}
	l, err := d.Link(c.Queue)
	// From here on the Link alone keeps the Device.
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	return l, nil
}

// OpenAll opens every queue of an interface: Links of one Device, which ends
// when the last of them is closed. Datagrams arrive at any of them.
func OpenAll(c Config) ([]*Link, error) {
	d, err := OpenDevice(c)
	if err != nil {
		return nil, err
	}
	var links []*Link
	for q := range d.Queues() {
		l, err := d.Link(q)
		if err != nil {
			errs := []error{err, d.Close()}
			for _, l := range links {
				errs = append(errs, l.Close())
			}
			return nil, errors.Join(errs...)
		}
		links = append(links, l)
	}
	return links, d.Close()
}

// Link opens a queue of the Device, 0 to Queues less one, each once at a time.
// It is to be called in the namespace where the Device was opened.
func (d *Device) Link(number int) (_ *Link, err error) {
	if number < 0 || number >= d.Queues() {
		return nil, fmt.Errorf("xdplink: %s has no queue %d, but 0 to %d", d.info.Name, number, d.Queues()-1)
	}
	if !d.use() {
		return nil, fmt.Errorf("xdplink: %s: %w", d.info.Name, link.ErrClosed)
	}
	l := &Link{device: d, number: number, local: d.local, busyPoll: d.config.BusyPoll.Duration > 0, lookup: d.table.Lookup}
	l.life.event = -1
	defer func() {
		if err != nil {
			err = errors.Join(err, l.undo())
		}
	}()
	if l.share, err = d.umem.Cut(d.layout.Chunks()); err != nil {
		return nil, fmt.Errorf("xdplink: %s queue %d: %w", d.info.Name, number, err)
	}
	if l.socket, err = socket.Open(l.socketConfig()); err != nil {
		return nil, fmt.Errorf("xdplink: %s queue %d: %w", d.info.Name, number, err)
	}
	if l.queue, err = queue.New(l.socket.Rings, l.share.Bytes(), l.share.Base(), d.layout); err != nil {
		return nil, fmt.Errorf("xdplink: %s queue %d: %w", d.info.Name, number, err)
	}
	if l.life.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("xdplink: eventfd: %w", err)
	}
	if l.alarm, err = alarm.Open(); err != nil {
		return nil, fmt.Errorf("xdplink: %w", err)
	}
	if l.doze, err = doze.Open(l.socket.FD(), l.life.event, l.alarm.FD()); err != nil {
		return nil, fmt.Errorf("xdplink: %w", err)
	}
	l.describe()
	if err = d.steer.Register(number, l.socket.FD()); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.mu.links[l] = true
	d.mu.Unlock()
	return l, nil
}

func (l *Link) socketConfig() socket.Config {
	d := l.device
	c := socket.Config{
		Interface: d.info.DeviceIndex, Queue: l.number, UMEM: d.umem, BusyPoll: d.config.BusyPoll,
		MultiBuffer:  d.layout.Stride > 1 && d.steer.Frags(),
		CopyOnly:     d.config.Mode == Copy || d.steer.Mode() == bpf.Generic,
		ZeroCopyOnly: d.config.Mode == ZeroCopy,
		// An skb's overhead is below a page per buffer.
		SendBufferBytes: d.layout.TxSlots * (d.layout.SlotBytes() + chunkBytes),
	}
	c.FillEntries, c.CompletionEntries, c.RXEntries, c.TXEntries = d.layout.Entries()
	return c
}

// txHeadroom is where a datagram starts in a send buffer: behind room for the
// headers, at the start of a cache line.
const txHeadroom = 128

// plainFrameMax is the longest frame that is sent without multi-buffer: what a
// driver puts into one page, behind the kernel's headroom and before the struct
// skb_shared_info at its end, 320 bytes. A longer one has a second part, and
// before Linux 6.6 the kernel redirects no such frame to a socket. It is the
// receiver's limit; a peer's is presumably ours.
const plainFrameMax = chunkBytes - rxHeadroom - 320

// describe sets what follows from what the kernel granted.
func (l *Link) describe() {
	switch {
	case l.device.steer.Mode() == bpf.Generic:
		l.kind = link.XDPGeneric
	case l.socket.ZeroCopy():
		l.kind = link.XDPZeroCopy
	default:
		l.kind = link.XDPCopy
	}
	l.room = l.device.layout.SlotBytes() - txHeadroom
	if !l.socket.MultiBuffer() {
		headers := packet.HeaderLen(l.local.Addr().Is4(), (*[packet.TagsMax]packet.Tag)(&l.device.info.Tags))
		l.room = min(l.room, plainFrameMax-headers)
	}
	l.header = packet.Header{From: l.local}
	for _, fd := range []int{l.socket.FD(), l.life.event, l.alarm.FD()} {
		l.poll = append(l.poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
}

// Kind says in which mode the link is.
func (l *Link) Kind() link.Kind { return l.kind }

// LocalAddr is where peers send to.
func (l *Link) LocalAddr() netip.AddrPort { return l.local }

// Queue is the number of the NIC's queue.
func (l *Link) Queue() int { return l.number }

// Device is what the Link is a queue of.
func (l *Link) Device() *Device { return l.device }

// Refused says for each better mode than Kind why it can't be had.
func (l *Link) Refused() []error {
	return append(append([]error(nil), l.device.refused...), l.socket.Refused()...)
}

// MaxDatagram follows the interface's MTU, up to what the buffers take.
func (l *Link) MaxDatagram() int { return min(int(l.device.mtu.Load())-l.overhead(), l.room) }

func (l *Link) overhead() int {
	if l.local.Addr().Is4() {
		return link.OverheadIPv4
	}
	return link.OverheadIPv6
}

// RxHoldMax is half of the receive buffers.
func (l *Link) RxHoldMax() int { return l.device.layout.RxSlots / 2 }

// Stats returns the counters. RxDroppedNoBuffer is the kernel's of the socket.
func (l *Link) Stats() link.Stats {
	l.life.RLock()
	kernel := l.life.dropped
	if !l.life.closed {
		// An error is of a socket that is being torn down with its interface; what it
		// dropped is no more to be known.
		kernel, _ = l.socket.Stats()
	}
	l.life.RUnlock()
	s := &l.stats
	return link.Stats{
		TxPackets: s.txPackets.Load(), TxBytes: s.txBytes.Load(),
		RxPackets: s.rxPackets.Load(), RxBytes: s.rxBytes.Load(),
		TxDroppedNoRoute: s.txNoRoute.Load(), TxDroppedTooLong: s.txTooLong.Load(),
		RxDroppedNoBuffer: kernel.RXDropped + kernel.RXRingFull, RxInvalid: s.rxInvalid.Load(),
		TxFull: s.txFull.Load(), Syscalls: s.syscalls.Load(), Waits: s.waits.Load(),
	}
}

// Close takes the queue from the program, closes the socket and gives the
// memory back. Frames for the queue pass to the kernel from now on. The last
// Link of a Device that is closed closes it too.
func (l *Link) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.device.mu.Lock()
	delete(l.device.mu.links, l)
	l.device.mu.Unlock()
	l.life.Lock()
	defer l.life.Unlock()
	l.life.closed = true
	l.life.dropped, _ = l.socket.Stats() // as in Stats
	return errors.Join(l.device.steer.Unregister(l.number), l.undo())
}

// undo releases what Link made as far as it went: first the socket, so that
// the kernel lets go of the memory.
func (l *Link) undo() error {
	var errs []error
	if l.doze != nil {
		errs = append(errs, l.doze.Close())
	}
	if l.socket != nil {
		errs = append(errs, l.socket.Close())
	}
	if l.share != nil {
		l.share.Release()
	}
	if l.life.event >= 0 {
		errs = append(errs, unix.Close(l.life.event))
	}
	if l.alarm != nil {
		errs = append(errs, l.alarm.Close())
	}
	return errors.Join(append(errs, l.device.drop())...)
}

// ended returns the error of a link that is closed or whose interface is gone.
func (l *Link) ended() error {
	if l.closed.Load() {
		return link.ErrClosed
	}
	if l.goneNow.Load() {
		return fmt.Errorf("%w: interface %s is gone", link.ErrClosed, l.device.info.Name)
	}
	return nil
}
