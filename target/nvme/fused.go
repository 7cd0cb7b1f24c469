package nvme

import (
	"errors"

	"blockd.dev/blockdev"
)

// The FUSE field, bits 1:0 of byte 1 (NVMe Base 2.0 §3.4.2): the two halves of
// a pair follow each other in the submission queue.
const (
	fuseMask   = 0x03
	fuseFirst  = 0x01
	fuseSecond = 0x02
)

// pair judges c by its place in a fused pair; s is what decode found. A half
// that is well by itself fails when the other is not (NVM Command Set 1.0
// §2.1.5).
func (q *Queue) pair(c *Command, s Status) Status {
	fuse := c.SQE[1] & fuseMask
	entered := s == Success
	if entered && fuse != 0 {
		if f := c.state.entry.flags; fuse == fuseFirst && f&flagFirstHalf == 0 ||
			fuse == fuseSecond && f&flagSecondHalf == 0 || fuse == fuseMask {
			s = InvalidField | DNR
		}
	}
	q.mu.Lock()
	first, firstBad := q.mu.fused, q.mu.fusedBad
	q.mu.fused, q.mu.fusedBad = nil, false
	if first != nil && first.state.abort != 0 {
		first, firstBad = nil, true
	}
	var broken *Command
	switch {
	case fuse == fuseSecond && firstBad:
		if s != Unanswered { // the first half has no answer either
			s = AbortedFailedFused
		}
	case fuse == fuseSecond && first == nil:
		if s == Success {
			s = AbortedMissingFused
		}
	case fuse == fuseSecond:
		a, b := &first.state, &c.state
		if s == Success && (a.att != b.att || a.offset != b.offset || a.length != b.length ||
			b.length > fusedMaxBlocks<<b.att.ns.shift) {
			s = InvalidField | DNR
		}
		if s == Success {
			a.partner, b.partner = c, first
		} else {
			broken = q.breakLocked(first, AbortedFailedFused)
		}
	case first != nil:
		broken = q.breakLocked(first, AbortedMissingFused)
	}
	if fuse == fuseFirst {
		if s == Success {
			q.mu.fused = c
		} else {
			q.mu.fusedBad = true
		}
	}
	q.fusing = fuse == fuseFirst
	q.mu.Unlock()
	if broken != nil {
		broken.complete(broken.state.abort)
	}
	if entered && s != Success {
		q.leave(c)
	}
	return s
}

// breakLocked marks a half that has no partner to end with s. It returns c
// when c waits for its partner alone, so that the caller must complete it.
func (q *Queue) breakLocked(c *Command, s Status) *Command {
	st := &c.state
	if st.abort == 0 {
		st.abort = s
	}
	if st.phase != phaseWaiting {
		return nil
	}
	st.phase = phaseRunning
	return c
}

// fusedMaxBlocks is the largest fused Compare and Write: ACWU.
const fusedMaxBlocks = 256

// dissolve parts c, which will not run, from its partner, which can't either.
func (q *Queue) dissolve(c *Command) {
	var broken *Command
	q.mu.Lock()
	if p := c.state.partner; p != nil {
		c.state.partner, p.state.partner = nil, nil
		broken = q.breakLocked(p, AbortedFailedFused)
	}
	q.mu.Unlock()
	if broken != nil {
		broken.complete(AbortedFailedFused)
	}
}

// runFused runs a pair of Compare and Write as one request, so that nothing
// comes between the two.
func runFused(c *Command) {
	first, second := c, c.state.partner
	if c.SQE[1]&fuseMask == fuseSecond {
		first, second = second, first
	}
	st := &second.state
	if st.att.ns.conflict(st.queue.ctrl, st.entry.access) {
		endFused(first, second, AbortedFailedFused, ReservationConflict)
		return
	}
	st.segs = append(append(st.segs[:0], first.Data.Segs...), second.Data.Segs...)
	second.submit(blockdev.OpCompareAndWrite, st.offset, st.length, st.segs, fusedDone)
}

func fusedDone(r *blockdev.Request) {
	second := r.Tag.(*Command)
	first := second.state.partner
	clear(second.state.segs)
	switch {
	case r.Err == nil:
		endFused(first, second, Success, Success)
	case errors.Is(r.Err, blockdev.ErrMiscompare):
		endFused(first, second, CompareFailure|DNR, AbortedFailedFused)
	default:
		endFused(first, second, AbortedFailedFused, second.statusOf(r.Err))
	}
}

// endFused ends the halves in the order of the queue. Each is half of a pair to its end: who looks for what can
// still be stopped finds none.
func endFused(first, second *Command, a, b Status) {
	first.complete(a)
	second.complete(b)
}
