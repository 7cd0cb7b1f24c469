package udplink

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/link"
	"blockd.dev/internal/invariants"
)

const (
	sendBatch = 64 // messages of one sendmmsg
	// segmentsMax is how many datagrams the kernel takes as one
	// (UDP_MAX_SEGMENTS was 64 before Linux 6.9), and segmentBytesMax how many
	// bytes: what an IP packet could hold.
	segmentsMax     = 64
	segmentBytesMax = 65535 - 48
)

// outgoing is a datagram that the caller has sent and the kernel not taken.
type outgoing struct {
	slot   uint32
	length uint32
	peer   netip.AddrPort
}

// ring is a queue of a fixed size.
type ring struct {
	all     []outgoing
	head, n int
}

func (r *ring) at(i int) *outgoing { return &r.all[(r.head+i)%len(r.all)] }

func (r *ring) push(o outgoing) {
	r.n++
	*r.at(r.n - 1) = o
}

func (r *ring) drop(n int) {
	r.head = (r.head + n) % len(r.all)
	r.n -= n
}

// sender is the sending half of a Link.
type sender struct {
	memory   []byte
	slotSize int
	free     []uint32
	lent     []bool // by slot; kept where assertions run
	pending  ring
	vec      *sendVector
	gso      bool
	plain    int            // so many pending datagrams are sent one by one
	group    [sendBatch]int // datagrams in each message of the vector
}

func (s *sender) init(slots, datagramMax int) (err error) {
	s.slotSize = (datagramMax + 63) &^ 63
	if s.memory, err = mapMemory(slots * s.slotSize); err != nil {
		return err
	}
	s.free = make([]uint32, slots)
	for i := range s.free {
		s.free[i] = uint32(slots - 1 - i)
	}
	if invariants.Enabled {
		s.lent = make([]bool, slots)
	}
	s.pending.all = make([]outgoing, slots)
	s.vec = newSendVector(slots)
	return nil
}

func (s *sender) close() {
	unmapMemory(s.memory)
	s.memory, s.free, s.pending = nil, nil, ring{}
}

func (s *sender) slot(i uint32) []byte {
	start := int(i) * s.slotSize
	return s.memory[start : start : start+s.slotSize]
}

func (s *sender) reserve(bufs []link.TxBuf) int {
	n := min(len(bufs), len(s.free))
	for i := range n {
		slot := s.free[len(s.free)-1]
		s.free = s.free[:len(s.free)-1]
		bufs[i] = link.TxBuf{Data: s.slot(slot), Cookie: uint64(slot)}
		if invariants.Enabled {
			s.lent[slot] = true
		}
	}
	return n
}

// takeBack ends a loan.
func (s *sender) takeBack(buf *link.TxBuf) uint32 {
	slot := uint32(buf.Cookie)
	if invariants.Enabled {
		if !s.lent[slot] {
			invariants.Fail("send slot %d came back twice", slot)
		}
		s.lent[slot] = false
	}
	return slot
}

func (s *sender) release(bufs []link.TxBuf) {
	for i := range bufs {
		s.free = append(s.free, s.takeBack(&bufs[i]))
		bufs[i] = link.TxBuf{}
	}
}

// Send hands the datagrams to the kernel, or keeps them until its buffer has
// room again: Recv, Send and Wait try.
func (l *Link) Send(bufs []link.TxBuf) error {
	if l.closed.Load() {
		return l.closedError()
	}
	limit := l.MaxDatagram()
	for i := range bufs {
		b := &bufs[i]
		slot := l.tx.takeBack(b)
		if invariants.Enabled && len(b.Data) == 0 {
			invariants.Fail("datagram of no bytes to %v", b.Peer)
		}
		if len(b.Data) > limit {
			l.count.tooLong.Add(1)
			l.tx.free = append(l.tx.free, slot)
		} else {
			l.tx.pending.push(outgoing{slot, uint32(len(b.Data)), b.Peer})
		}
		*b = link.TxBuf{}
	}
	return l.flush()
}

// flush hands pending datagrams to the kernel until it takes no more.
func (l *Link) flush() error {
	s := &l.tx
	for s.pending.n > 0 {
		messages := s.fill(l.scope)
		l.count.syscalls.Add(1)
		sent, errno := s.vec.send(l.socket, messages)
		for i := range sent {
			l.sent(s.group[i])
		}
		if sent > 0 {
			continue
		}
		switch errno {
		case unix.EINTR, unix.ECONNREFUSED: // the second is about an earlier datagram
		case unix.EAGAIN:
			return nil
		case unix.EBADF, unix.ENOTSOCK:
			return fmt.Errorf("udplink: %v: %w: sendmmsg: %w", l.local, link.ErrClosed, errno)
		default:
			l.notSent(errno)
		}
	}
	return nil
}

// fill puts pending datagrams into the vector, those that may go as one into
// one message, and returns how many messages there are.
func (s *sender) fill(scope uint32) (messages int) {
	s.vec.reset()
	for i := 0; i < s.pending.n && messages < sendBatch; messages++ {
		n := s.groupAt(i)
		first := s.pending.at(i)
		for j := range n {
			o := s.pending.at(i + j)
			s.vec.add(s.slot(o.slot)[:o.length])
		}
		segment := 0
		if n > 1 {
			segment = int(first.length)
		}
		s.vec.end(messages, first.peer, scope, n, segment)
		s.group[messages] = n
		i += n
	}
	return messages
}

// groupAt is how many pending datagrams from the i-th on may go as one: of one
// length, but for a shorter last one, and to one peer.
func (s *sender) groupAt(i int) int {
	if !s.gso || i < s.plain {
		return 1
	}
	first := s.pending.at(i)
	bytes := int(first.length)
	n := 1
	for i+n < s.pending.n && n < segmentsMax {
		o := s.pending.at(i + n)
		if o.peer != first.peer || o.length > first.length || bytes+int(o.length) > segmentBytesMax {
			break
		}
		bytes += int(o.length)
		n++
		if o.length < first.length {
			break
		}
	}
	return n
}

// sent frees the slots of n datagrams that the kernel has taken.
func (l *Link) sent(n int) {
	l.count.txPackets.Add(uint64(n))
	bytes := uint64(0)
	for i := range n {
		bytes += uint64(l.tx.pending.at(i).length)
	}
	l.count.txBytes.Add(bytes)
	l.tx.drop(n)
}

// drop frees the slots of the first n pending datagrams.
func (s *sender) drop(n int) {
	for i := range n {
		s.free = append(s.free, s.pending.at(i).slot)
	}
	s.pending.drop(n)
	s.plain = max(0, s.plain-n)
}

// notSent deals with the first message, which the kernel has refused. Several
// as one are tried singly before they are given up.
func (l *Link) notSent(errno unix.Errno) {
	s := &l.tx
	if n := s.group[0]; n > 1 {
		if errno == unix.EIO || errno == unix.EINVAL || errno == unix.EOPNOTSUPP {
			s.gso = false // the device can't compute checksums, or there is a tunnel in between
		}
		s.plain = n
		return
	}
	if errno == unix.EMSGSIZE {
		l.count.tooLong.Add(1)
		_ = l.readMTU() // it can fail when the interface goes away; what it had stays
	} else {
		l.count.noRoute.Add(1)
	}
	s.drop(1)
}
