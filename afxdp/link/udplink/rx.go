package udplink

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/invariants"
)

const (
	receiveBatch = 32       // messages of one recvmmsg
	groSlotSize  = 64 << 10 // the most that GRO joins
)

// arrival is what one receive slot has that was not handed out yet: datagrams
// of segment bytes, the last one maybe shorter.
type arrival struct {
	slot    uint32
	peer    netip.AddrPort
	rest    []byte
	segment int
}

// receiver is the receiving half of a Link.
type receiver struct {
	memory   []byte
	slotSize int
	slots    []int32 // datagrams of each slot that are not released
	free     []uint32
	vec      *receiveVector
	armed    int                  // messages 0 to armed-1 of vec have a slot
	armedBy  [receiveBatch]uint32 // which
	inbox    []arrival            // in order; its memory is store
	store    []arrival
}

func (r *receiver) init(slots, datagramMax int, gro bool) (err error) {
	r.slotSize = (datagramMax + 63) &^ 63
	if gro {
		r.slotSize = groSlotSize
	}
	if r.memory, err = mapMemory(slots * r.slotSize); err != nil {
		return err
	}
	r.slots = make([]int32, slots)
	r.free = make([]uint32, slots)
	for i := range r.free {
		r.free[i] = uint32(slots - 1 - i)
	}
	r.vec = newReceiveVector()
	r.store = make([]arrival, 0, receiveBatch)
	return nil
}

func (r *receiver) close() {
	unmapMemory(r.memory)
	r.memory, r.inbox, r.store = nil, nil, nil
}

func (r *receiver) slot(i uint32) []byte {
	start := int(i) * r.slotSize
	return r.memory[start : start+r.slotSize : start+r.slotSize]
}

// arm gives slots to the vector, as far as there are any.
func (r *receiver) arm() {
	for r.armed < receiveBatch && len(r.free) > 0 {
		slot := r.free[len(r.free)-1]
		r.free = r.free[:len(r.free)-1]
		r.vec.arm(r.armed, r.slot(slot))
		r.armedBy[r.armed] = slot
		r.armed++
	}
}

// disarm takes the first n messages' slots away, which were filled, and closes
// the gap with slots from the end, or with free ones.
func (r *receiver) disarm(n int) {
	for i := range n {
		switch {
		case len(r.free) > 0:
			slot := r.free[len(r.free)-1]
			r.free = r.free[:len(r.free)-1]
			r.vec.arm(i, r.slot(slot))
			r.armedBy[i] = slot
		case r.armed > n:
			r.armed--
			r.vec.arm(i, r.slot(r.armedBy[r.armed]))
			r.armedBy[i] = r.armedBy[r.armed]
		default:
			r.armed = i
			return
		}
	}
}

// Recv returns what has arrived, with at most one recvmmsg.
func (l *Link) Recv(bufs []link.RxBuf) (int, error) {
	if l.closed.Load() {
		return 0, l.closedError()
	}
	if l.tx.pending.n > 0 {
		if err := l.flush(); err != nil {
			return 0, err
		}
	}
	n := l.rx.hand(bufs)
	if n < len(bufs) {
		if err := l.receive(); err != nil {
			l.account(bufs[:n])
			return n, err
		}
		n += l.rx.hand(bufs[n:])
	}
	l.account(bufs[:n])
	return n, nil
}

func (l *Link) account(bufs []link.RxBuf) {
	if len(bufs) == 0 {
		return
	}
	bytes := 0
	for i := range bufs {
		bytes += len(bufs[i].Data)
	}
	l.count.rxPackets.Add(uint64(len(bufs)))
	l.count.rxBytes.Add(uint64(bytes))
}

// hand hands out what the inbox has.
func (r *receiver) hand(bufs []link.RxBuf) (n int) {
	for n < len(bufs) && len(r.inbox) > 0 {
		a := &r.inbox[0]
		size := min(a.segment, len(a.rest))
		bufs[n] = link.RxBuf{Data: a.rest[:size:size], Peer: a.peer, Cookie: uint64(a.slot)}
		n++
		if a.rest = a.rest[size:]; len(a.rest) == 0 {
			r.inbox = r.inbox[1:]
		}
	}
	return n
}

// receive fills the inbox, which is empty, by one recvmmsg.
func (l *Link) receive() error {
	r := &l.rx
	r.arm()
	if r.armed == 0 {
		return nil // the caller holds everything
	}
	l.count.syscalls.Add(1)
	n, errno := r.vec.receive(l.socket, r.armed)
	switch {
	case n > 0:
	case errno == unix.EBADF || errno == unix.ENOTSOCK:
		return fmt.Errorf("udplink: %v: %w: recvmmsg: %w", l.local, link.ErrClosed, errno)
	default:
		return nil // nothing there, or word of an earlier datagram that nobody took
	}
	r.inbox = r.store[:0]
	for i := range n {
		slot := r.armedBy[i]
		length, segment, peer, ok := r.vec.message(i, l.zone)
		if !ok {
			l.count.rxInvalid.Add(1)
			r.free = append(r.free, slot)
			continue
		}
		if segment <= 0 || segment > length {
			segment = length
		}
		r.slots[slot] = int32((length + segment - 1) / segment)
		r.inbox = append(r.inbox, arrival{slot: slot, peer: peer, rest: r.slot(slot)[:length], segment: segment})
	}
	r.disarm(n)
	return nil
}

func (r *receiver) release(bufs []link.RxBuf) {
	for i := range bufs {
		slot := uint32(bufs[i].Cookie)
		r.slots[slot]--
		if invariants.Enabled && r.slots[slot] < 0 {
			invariants.Fail("receive slot %d was released too often", slot)
		}
		if r.slots[slot] == 0 {
			r.free = append(r.free, slot)
		}
		bufs[i] = link.RxBuf{}
	}
}
