package xdplink

import (
	"syscall"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/packet"
)

// Recv takes frames from the RX ring and checks their headers; the cookie is
// the number of the receive slot.
func (l *Link) Recv(bufs []link.RxBuf) (int, error) {
	if err := l.ended(); err != nil {
		return 0, err
	}
	if !l.queue.Arrived() {
		if err := l.drive(); err != nil {
			return 0, err
		}
	}
	var n int
	var total, invalid uint64
	mtu := int(l.device.mtu.Load())
	for n < len(bufs) {
		f, ok := l.queue.Next()
		if !ok {
			break
		}
		h, payload, err := packet.Parse(f.Data)
		if err != nil || h.To != l.local || len(payload) > mtu-l.overhead() || !tagsMatch(&h.Tags, &l.device.info.Tags) {
			invalid++
			l.queue.Recycle(f.Slot)
			continue
		}
		bufs[n] = link.RxBuf{Data: payload, Peer: h.From, Cookie: uint64(f.Slot)}
		n++
		total += uint64(len(payload))
	}
	if n > 0 {
		l.stats.rxPackets.Add(uint64(n))
		l.stats.rxBytes.Add(total)
	}
	if invalid > 0 {
		l.stats.rxInvalid.Add(invalid)
	}
	return n, l.flush()
}

// tagsMatch tells whether a frame's tags are those of the interface, of which
// the outer ones may have been taken off on the way: by the NIC, which a program
// can't always see, or by the kernel, before a virtual interface.
func tagsMatch(got, want *[packet.TagsMax]packet.Tag) bool {
	if *got == *want || *got == ([packet.TagsMax]packet.Tag{}) {
		return true
	}
	return got[0] == want[1] && got[1] == packet.Tag{} && want[1] != packet.Tag{}
}

// drive does what nobody else would while the pump spins on an empty ring:
// sends what copy mode left over, and runs the driver with busy polling.
func (l *Link) drive() error {
	if l.busyPoll {
		l.stats.syscalls.Add(1)
		if err := l.check(l.socket.WakeRX()); err != nil {
			return err
		}
	}
	if l.queue.Publish() {
		return l.kick()
	}
	return nil
}

// ReleaseRx gives buffers back to the kernel.
func (l *Link) ReleaseRx(bufs []link.RxBuf) {
	if l.closed.Load() {
		return
	}
	for i := range bufs {
		l.queue.Recycle(uint32(bufs[i].Cookie))
	}
	// The next call that may fail tells.
	_ = l.flush()
}

// flush publishes what was taken and recycled.
func (l *Link) flush() error {
	if !l.queue.Flush() {
		return nil
	}
	l.stats.syscalls.Add(1)
	return l.check(l.socket.WakeRX())
}

// check notes when an errno means that the interface is gone.
func (l *Link) check(errno syscall.Errno) error {
	if errno == syscall.ENXIO || errno == syscall.ENODEV || errno == syscall.EBADF {
		l.goneNow.Store(true)
	}
	return l.ended()
}
