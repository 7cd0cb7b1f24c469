// Package queue moves frames through the four rings of one AF_XDP socket: it
// knows who has which chunk, puts a frame that came in several chunks into
// one piece, and lays a long one over several. It makes no system calls, has no
// goroutines, and does not look into frames.
//
// # Slots
//
// The queue's share of the UMEM is a row of slots of Stride adjacent chunks:
// first those for receiving, then those for sending. Only the first chunk of a
// receive slot is ever given to the kernel. When a frame continues in the first
// chunk of another slot, that part is copied behind the first part, where the
// slot's further chunks are, and the other slot goes back to the kernel at
// once: so a frame is contiguous, and all but the first 3.75 KiB of it are
// copied once. A send slot is contiguous for the caller, and described to the
// kernel chunk by chunk.
//
//	receive slot:  kernel -> user -> kernel            Next, Recycle
//	send slot:     free -> user -> kernel -> free      Take, Send, Reap
//	                       user -> free                PutBack
//
// There are as many ring entries as could be needed, so no push fails. In
// builds with assertions each move is checked and a slot in two places panics.
//
// One goroutine uses a Queue at a time. No method allocates after New.
package queue

import (
	"fmt"
	"math/bits"

	"blockd.dev/afxdp/ring"
	"blockd.dev/internal/invariants"
)

const chunkBytes = 4096

// Layout says how a share is cut into slots.
type Layout struct {
	RxSlots, TxSlots int // of each 1 or more
	Stride           int // chunks per slot, 1 to 16
}

// Chunks is the size of the share.
func (l Layout) Chunks() int { return (l.RxSlots + l.TxSlots) * l.Stride }

// SlotBytes is the size of a slot.
func (l Layout) SlotBytes() int { return l.Stride * chunkBytes }

// Entries are the sizes that the rings need, powers of two.
func (l Layout) Entries() (fill, completion, rx, tx uint32) {
	r, t := pow2(l.RxSlots), pow2(l.TxSlots*l.Stride)
	return r, t, r, t
}

func pow2(n int) uint32 { return 1 << bits.Len32(uint32(n-1)) }

// Check returns an error when the layout is out of range.
func (l Layout) Check() error {
	const slotsMax = 1 << 20
	if l.RxSlots < 1 || l.RxSlots > slotsMax || l.TxSlots < 1 || l.TxSlots > slotsMax || l.Stride < 1 || l.Stride > 16 {
		return fmt.Errorf("queue of %d receive and %d send slots of %d chunks; want 1 to %d slots of 1 to 16", l.RxSlots, l.TxSlots, l.Stride, slotsMax)
	}
	return nil
}

// Frame is one received frame. Data is the user's until Recycle(Slot), to write
// to as well.
type Frame struct {
	Slot uint32
	Data []byte // contiguous, at least 1 byte
}

// Queue is the state of one socket's rings.
type Queue struct {
	rings  ring.Set
	mem    []byte // of the share
	base   uint64 // its address in the UMEM
	layout Layout

	rx struct {
		partial  bool   // some parts of a frame have been taken from the ring, not its last
		tooLong  bool   // drop it
		slot     uint32 // where it is put together
		from, to int    // its bytes in mem
		taken    bool   // descriptors were popped and not released
		posted   bool   // slots were pushed and not published
		held     int    // slots the user has
		dropped  uint64
	}
	tx struct {
		free    []uint32 // a stack: what was used last is in the cache
		pending []uint8  // by slot: descriptors that the kernel has
		pushed  bool     // descriptors were pushed and not published
	}
	owner []owner // by slot, with assertions only
}

// owner says where a slot is.
type owner uint8

const (
	free owner = iota
	user
	kernel
)

// New gives all receive slots to the kernel. Mem is the share's memory, base
// its address in the UMEM; the rings have at least Layout.Entries.
func New(r ring.Set, mem []byte, base uint64, l Layout) (*Queue, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	fill, completion, rx, tx := l.Entries()
	if r.Fill.Size() < int(fill) || r.Completion.Size() < int(completion) || r.RX.Size() < int(rx) || r.TX.Size() < int(tx) {
		return nil, fmt.Errorf("queue: rings of %d, %d, %d and %d entries; the layout needs %d, %d, %d and %d",
			r.Fill.Size(), r.Completion.Size(), r.RX.Size(), r.TX.Size(), fill, completion, rx, tx)
	}
	if len(mem) < l.Chunks()*chunkBytes || base%chunkBytes != 0 {
		return nil, fmt.Errorf("queue: %d bytes at %#x; the layout needs %d, from the start of a chunk", len(mem), base, l.Chunks()*chunkBytes)
	}
	q := &Queue{rings: r, mem: mem, base: base, layout: l}
	if invariants.Enabled {
		q.owner = make([]owner, l.RxSlots+l.TxSlots)
	}
	q.tx.pending = make([]uint8, l.TxSlots)
	q.tx.free = make([]uint32, 0, l.TxSlots)
	for i := l.TxSlots - 1; i >= 0; i-- {
		q.tx.free = append(q.tx.free, uint32(l.RxSlots+i))
	}
	if q.rings.Fill.Free(uint32(l.RxSlots)) < uint32(l.RxSlots) {
		return nil, fmt.Errorf("queue: the fill ring is not empty")
	}
	for i := range l.RxSlots {
		q.move(uint32(i), free, kernel)
		q.rings.Fill.Push(q.addr(uint32(i)))
	}
	q.rings.Fill.Publish()
	return q, nil
}

// move notes that a slot changes hands, and panics when it isn't where it was
// thought to be.
func (q *Queue) move(slot uint32, from, to owner) {
	if !invariants.Enabled {
		return
	}
	if q.owner[slot] != from {
		invariants.Fail("slot %d: moved from owner %d to %d, but it is with %d", slot, from, to, q.owner[slot])
	}
	q.owner[slot] = to
}

// addr is where a slot starts, in the UMEM.
func (q *Queue) addr(slot uint32) uint64 {
	return q.base + uint64(slot)*uint64(q.layout.SlotBytes())
}

// slotOf is the slot of an address that the kernel returned.
func (q *Queue) slotOf(addr uint64) uint32 {
	return uint32((addr - q.base) / uint64(q.layout.SlotBytes()))
}

// Layout returns how the share is cut.
func (q *Queue) Layout() Layout { return q.layout }

// Arrived reports whether Next may return something. It is one load.
func (q *Queue) Arrived() bool { return q.rings.RX.Available() > 0 }

// Next takes the next frame from the RX ring; false means that there is none
// that is complete. After a row of calls, Flush.
func (q *Queue) Next() (Frame, bool) {
	for q.rings.RX.Available() > 0 {
		q.rx.taken = true
		if q.addPart(q.rings.RX.Pop()) {
			r := &q.rx
			r.held++
			return Frame{Slot: r.slot, Data: q.mem[r.from:r.to:r.to]}, true
		}
	}
	return Frame{}, false
}

// addPart takes one descriptor and reports whether it completed a good frame.
func (q *Queue) addPart(d ring.Desc) bool {
	r := &q.rx
	slot, more := q.slotOf(d.Addr), d.Options&ring.Continued != 0
	q.move(slot, kernel, user)
	from := int(d.Addr - q.base)
	switch {
	case !r.partial:
		r.slot, r.from, r.to, r.tooLong = slot, from, from+int(d.Len), false
	case r.tooLong || r.to+int(d.Len) > (int(r.slot)+1)*q.layout.SlotBytes():
		r.tooLong = true
		q.post(slot)
	default:
		r.to += copy(q.mem[r.to:], q.mem[from:from+int(d.Len)])
		q.post(slot)
	}
	r.partial = more
	if more {
		return false
	}
	if r.tooLong || r.to == r.from {
		q.post(r.slot)
		r.dropped++
		return false
	}
	return true
}

// post gives a receive slot to the kernel, which sees it after Flush.
func (q *Queue) post(slot uint32) {
	q.move(slot, user, kernel)
	// There is always room: the ring has an entry for each receive slot. Free
	// only refreshes what the ring knows.
	q.rings.Fill.Free(1)
	q.rings.Fill.Push(q.addr(slot))
	q.rx.posted = true
}

// Recycle gives back a frame of Next. After a row of calls, Flush.
func (q *Queue) Recycle(slot uint32) {
	q.rx.held--
	q.post(slot)
}

// Flush shows the kernel what was taken and what was recycled. It reports
// whether the kernel must be woken to see it.
func (q *Queue) Flush() (wake bool) {
	if q.rx.taken {
		q.rx.taken = false
		q.rings.RX.Release()
	}
	if !q.rx.posted {
		return false
	}
	q.rx.posted = false
	q.rings.Fill.Publish()
	return q.rings.Fill.NeedsWakeup()
}

// Held is how many received frames the user has.
func (q *Queue) Held() int { return q.rx.held }

// Dropped counts the frames that Next left out: empty, or longer than a slot.
func (q *Queue) Dropped() uint64 { return q.rx.dropped }

// Take lends a send slot; false means that all are lent or with the kernel.
func (q *Queue) Take() (slot uint32, ok bool) {
	if len(q.tx.free) == 0 {
		if q.Reap(); len(q.tx.free) == 0 {
			return 0, false
		}
	}
	last := len(q.tx.free) - 1
	slot, q.tx.free = q.tx.free[last], q.tx.free[:last]
	q.move(slot, free, user)
	return slot, true
}

// Room is the memory of a slot that the user has.
func (q *Queue) Room(slot uint32) []byte {
	from := int(slot) * q.layout.SlotBytes()
	to := from + q.layout.SlotBytes()
	return q.mem[from:to:to]
}

// PutBack ends the loan of a slot that is not sent.
func (q *Queue) PutBack(slot uint32) {
	q.move(slot, user, free)
	q.tx.free = append(q.tx.free, slot)
}

// Send gives n bytes at offset off of the slot to the kernel, n of 1 or more.
// It sees them after Publish.
func (q *Queue) Send(slot uint32, off, n int) {
	if off < 0 || n < 1 || off+n > q.layout.SlotBytes() {
		panic(fmt.Sprintf("queue: send of bytes %d to %d of a slot of %d", off, off+n, q.layout.SlotBytes()))
	}
	q.move(slot, user, kernel)
	addr, descs := q.addr(slot)+uint64(off), uint8(0)
	// Room for every slot's descriptors was made in Layout.Entries, and those of
	// this slot have all been completed.
	q.rings.TX.Free(uint32(q.layout.Stride))
	for n > 0 {
		part := min(n, chunkBytes-int(addr%chunkBytes))
		d := ring.Desc{Addr: addr, Len: uint32(part)}
		if n -= part; n > 0 {
			d.Options = ring.Continued
		}
		q.rings.TX.Push(d)
		addr += uint64(part)
		descs++
	}
	q.tx.pending[int(slot)-q.layout.RxSlots] = descs
	q.tx.pushed = true
}

// Publish shows the kernel what was sent, and reports whether it must be woken
// to see it.
func (q *Queue) Publish() (wake bool) {
	if q.tx.pushed {
		q.tx.pushed = false
		q.rings.TX.Publish()
	}
	return q.Unsent() > 0 && q.rings.TX.NeedsWakeup()
}

// Unsent is how many descriptors in the TX ring the kernel has not taken.
func (q *Queue) Unsent() uint32 { return q.rings.TX.Unconsumed() }

// InFlight is how many send slots are with the user or the kernel.
func (q *Queue) InFlight() int { return q.layout.TxSlots - len(q.tx.free) }

// Reap takes back the slots that the kernel has sent.
func (q *Queue) Reap() {
	n := q.rings.Completion.Available()
	if n == 0 {
		return
	}
	for range n {
		slot := q.slotOf(q.rings.Completion.Pop())
		pending := &q.tx.pending[int(slot)-q.layout.RxSlots]
		if *pending--; *pending == 0 {
			q.move(slot, kernel, free)
			q.tx.free = append(q.tx.free, slot)
		}
	}
	q.rings.Completion.Release()
}
