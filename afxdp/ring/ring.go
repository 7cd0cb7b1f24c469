package ring

import "sync/atomic"

// Desc is a packet or a part of one in the RX and TX rings, struct xdp_desc of
// linux/if_xdp.h.
type Desc struct {
	Addr    uint64 // of the first byte, from the start of the UMEM
	Len     uint32 // in bytes; may not pass the end of the chunk
	Options uint32 // Continued, or 0
}

// Continued says, in Desc.Options, that the frame goes on in the next
// descriptor (XDP_PKT_CONTD; Linux 6.6).
const Continued = 1

// needWakeup in the flags of a ring: the kernel sleeps (XDP_RING_NEED_WAKEUP).
const needWakeup = 1

// Memory is where a ring lies. The words and the entries are shared with the
// kernel; Producer and Consumer point into the mapping, which must outlive
// them.
type Memory[T any] struct {
	ProducerIndex *uint32 // written by the producing side only
	ConsumerIndex *uint32 // written by the consuming side only
	Flags         *uint32 // written by the kernel only; nil where it has none
	Entries       []T     // a power of two
}

// Producer is our side of a ring that the kernel consumes. The zero value has
// no room.
type Producer[T any] struct {
	producer, consumer, flags *uint32
	entries                   []T
	mask                      uint32
	next                      uint32 // index of the next entry to write
	limit                     uint32 // next may grow to this; from the consumer index when it was last looked at
}

// NewProducer continues a ring where its indexes are.
func NewProducer[T any](m Memory[T]) Producer[T] {
	p := Producer[T]{producer: m.ProducerIndex, consumer: m.ConsumerIndex, flags: m.Flags, entries: m.Entries, mask: mask(m)}
	p.next = atomic.LoadUint32(p.producer)
	p.limit = atomic.LoadUint32(p.consumer) + uint32(len(p.entries))
	return p
}

// mask panics on a ring that arithmetic modulo 2^32 would not work for.
func mask[T any](m Memory[T]) uint32 {
	n := uint64(len(m.Entries))
	if n == 0 || n > 1<<31 || n&(n-1) != 0 {
		panic("ring: the number of entries is not a power of two")
	}
	return uint32(n - 1)
}

// Size is the number of entries.
func (p *Producer[T]) Size() int { return len(p.entries) }

// Free returns how many entries can be pushed; it looks at the kernel's index,
// a cache line that the kernel writes, only when it knows of fewer than want.
func (p *Producer[T]) Free(want uint32) uint32 {
	if free := p.limit - p.next; free >= want || p.consumer == nil {
		return free
	}
	p.limit = atomic.LoadUint32(p.consumer) + uint32(len(p.entries))
	return p.limit - p.next
}

// Push writes the next entry, which the kernel sees after Publish. The caller
// has made sure with Free that there is room.
func (p *Producer[T]) Push(e T) {
	p.entries[p.next&p.mask] = e
	p.next++
}

// Publish shows all pushed entries to the kernel.
func (p *Producer[T]) Publish() { atomic.StoreUint32(p.producer, p.next) }

// Unconsumed is how many published entries the kernel has not taken yet.
func (p *Producer[T]) Unconsumed() uint32 {
	return atomic.LoadUint32(p.producer) - atomic.LoadUint32(p.consumer)
}

// NeedsWakeup reports whether the kernel waits for a system call before it
// looks at the ring again. Ask after Publish.
func (p *Producer[T]) NeedsWakeup() bool {
	return p.flags != nil && atomic.LoadUint32(p.flags)&needWakeup != 0
}

// Consumer is our side of a ring that the kernel produces. The zero value is
// always empty.
type Consumer[T any] struct {
	producer, consumer *uint32
	entries            []T
	mask               uint32
	next               uint32 // index of the next entry to read
	limit              uint32 // the producer index when it was last looked at
}

// NewConsumer continues a ring where its indexes are.
func NewConsumer[T any](m Memory[T]) Consumer[T] {
	c := Consumer[T]{producer: m.ProducerIndex, consumer: m.ConsumerIndex, entries: m.Entries, mask: mask(m)}
	c.next = atomic.LoadUint32(c.consumer)
	c.limit = atomic.LoadUint32(c.producer)
	return c
}

// Size is the number of entries.
func (c *Consumer[T]) Size() int { return len(c.entries) }

// Available returns how many entries can be popped. It looks at the kernel's
// index only when it knows of none.
func (c *Consumer[T]) Available() uint32 {
	if n := c.limit - c.next; n > 0 || c.producer == nil {
		return n
	}
	c.limit = atomic.LoadUint32(c.producer)
	return c.limit - c.next
}

// Pop reads the next entry. The caller has made sure with Available that there
// is one. The kernel gets the place back after Release.
func (c *Consumer[T]) Pop() T {
	e := c.entries[c.next&c.mask]
	c.next++
	return e
}

// Release gives the places of all popped entries back to the kernel.
func (c *Consumer[T]) Release() { atomic.StoreUint32(c.consumer, c.next) }

// Set is the four rings of a socket.
type Set struct {
	Fill       Producer[uint64]
	Completion Consumer[uint64]
	RX         Consumer[Desc]
	TX         Producer[Desc]
}
