package xdplink

import (
	"net/netip"
	"syscall"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/neigh"
	"blockd.dev/afxdp/packet"
)

// Reserve lends send slots; the cookie is the slot's number.
func (l *Link) Reserve(bufs []link.TxBuf) int {
	if l.closed.Load() {
		return 0
	}
	// What was sent last is in the cache, and lent first.
	l.queue.Reap()
	for i := range bufs {
		slot, ok := l.queue.Take()
		if !ok {
			l.short = true
			l.stats.txFull.Add(1)
			return i
		}
		bufs[i] = link.TxBuf{Data: l.queue.Room(slot)[txHeadroom:txHeadroom], Cookie: uint64(slot)}
	}
	return len(bufs)
}

// ReleaseTx takes slots back unsent.
func (l *Link) ReleaseTx(bufs []link.TxBuf) {
	if l.closed.Load() {
		return
	}
	for i := range bufs {
		l.queue.PutBack(uint32(bufs[i].Cookie))
	}
}

// Send writes headers and gives the frames to the kernel.
func (l *Link) Send(bufs []link.TxBuf) error {
	if err := l.ended(); err != nil {
		return err
	}
	var (
		hop                                     neigh.Hop
		to                                      netip.Addr
		known                                   bool
		packets, total, noRoute, tooLong, limit uint64
	)
	for i := range bufs {
		b := &bufs[i]
		if addr := b.Peer.Addr(); addr != to {
			to = addr
			hop, known = l.route(to)
			limit = uint64(min(max(hop.MTU-l.overhead(), 0), l.room))
		}
		n := uint64(len(b.Data))
		switch {
		case !known:
			noRoute++
			l.queue.PutBack(uint32(b.Cookie))
		case n > limit || n == 0:
			tooLong++
			l.queue.PutBack(uint32(b.Cookie))
		default:
			l.put(b, &hop)
			packets++
			total += n
		}
	}
	s := &l.stats
	s.txPackets.Add(packets)
	s.txBytes.Add(total)
	if noRoute > 0 {
		s.txNoRoute.Add(noRoute)
	}
	if tooLong > 0 {
		s.txTooLong.Add(tooLong)
	}
	// With busy polling it is the system call that runs the driver.
	if wake := l.queue.Publish(); wake || l.busyPoll && packets > 0 {
		return l.kick()
	}
	return nil
}

// route is how frames get to the peer; false when there is no way by this NIC,
// or it is not known yet. Then the table is asked to find it.
func (l *Link) route(to netip.Addr) (neigh.Hop, bool) {
	if to.Is4() != l.local.Addr().Is4() {
		return neigh.Hop{}, false
	}
	hop, ok := l.lookup(to)
	if !ok {
		// An error means that it can't be tracked, so it stays unknown.
		_ = l.device.table.Track(to)
		return hop, false
	}
	return hop, hop.Device == l.device.info.DeviceIndex
}

// put writes the headers in front of the datagram and pushes the frame.
func (l *Link) put(b *link.TxBuf, hop *neigh.Hop) {
	h := &l.header
	h.Source, h.Destination = packet.MAC(hop.Src), packet.MAC(hop.Dst)
	for i := range hop.Tags {
		h.Tags[i] = packet.Tag(hop.Tags[i])
	}
	h.To = b.Peer
	slot := uint32(b.Cookie)
	headers := packet.HeaderLen(l.local.Addr().Is4(), &h.Tags)
	h.Put(l.queue.Room(slot)[txHeadroom-headers:txHeadroom], b.Data)
	l.queue.Send(slot, txHeadroom-headers, headers+len(b.Data))
}

// kick has the kernel send. In copy mode it does so within the call, 32 frames
// or 128 at a time; it stops short when the socket's send buffer or the device's
// queue is full, and is asked again by the next Send, Recv or Wait.
func (l *Link) kick() error {
	unsent := int(l.queue.Unsent())
	// Progress can't be seen in between: there are kernels (6.1 is one) that move the
	// ring's index only when they have sent all. So: as many calls as could be of
	// use.
	again, drops := unsent/32+1, unsent
	for {
		errno := l.socket.WakeTX()
		l.stats.syscalls.Add(1)
		switch errno {
		case 0:
			return nil
		case syscall.EAGAIN: // as many as it does at a time were sent, or none could be
			if again--; again < 0 {
				return nil
			}
		case syscall.EBUSY: // the device dropped a frame
			if drops--; drops < 0 {
				return nil
			}
		case syscall.ENXIO, syscall.ENODEV, syscall.EBADF:
			l.goneNow.Store(true)
			return l.ended()
		default: // ENETDOWN while the interface is down, ENOBUFS, EINTR: later
			return nil
		}
	}
}
