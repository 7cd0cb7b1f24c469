package uring

import "sync/atomic"

// submission is our side of the submission ring, over any memory.
type submission struct {
	head  *uint32 // only the kernel advances it
	tail  *uint32 // only we advance it
	flags *uint32 // only the kernel sets it
	mask  uint32
	sqes  []SQE
	next  uint32 // tail that is not published yet
}

// get returns the next free entry, zeroed, or nil when all are taken. The
// acquire load of head pairs with the kernel's release after it has read an
// entry: only then may we overwrite it.
func (s *submission) get() *SQE {
	if s.next-atomic.LoadUint32(s.head) > s.mask {
		return nil
	}
	e := &s.sqes[s.next&s.mask]
	*e = SQE{}
	s.next++
	return e
}

// publish shows the entries to the kernel: the release store of tail comes
// after the stores into them.
func (s *submission) publish() { atomic.StoreUint32(s.tail, s.next) }

// unconsumed is how many published entries the kernel has not taken.
func (s *submission) unconsumed() uint32 {
	return atomic.LoadUint32(s.tail) - atomic.LoadUint32(s.head)
}

// completion is our side of the completion ring, over any memory.
type completion struct {
	head *uint32 // only we advance it
	tail *uint32 // only the kernel advances it
	mask uint32
	cqes []CQE
}

// ready is how many entries wait. The acquire load of tail pairs with the
// kernel's release after it has written them.
func (c *completion) ready() uint32 { return atomic.LoadUint32(c.tail) - *c.head }

// reap moves up to len(dst) entries out, in order.
func (c *completion) reap(dst []CQE) int {
	head := *c.head
	n := min(atomic.LoadUint32(c.tail)-head, uint32(len(dst)))
	for i := range n {
		dst[i] = c.cqes[(head+i)&c.mask]
	}
	// The release store gives the entries back after the loads from them.
	atomic.StoreUint32(c.head, head+n)
	return int(n)
}
