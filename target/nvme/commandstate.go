package nvme

import (
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
)

// phase is where a command is.
type phase uint8

const (
	phaseNone     phase = iota // not in a list: before Prepare, after its end
	phasePrepared              // waits for its data; the transport holds it
	phaseWaiting               // executed; waits for the other half of a fused pair
	phaseRunning               // a handler or the device works on it
	phaseParked                // an Asynchronous Event Request waits for an event
)

// commandState is what the command set keeps in a Command.
type commandState struct {
	entry *entry
	queue *Queue
	att   *attachment // nil for commands to no namespace

	// Under the queue's mu.
	prev, next *Command
	phase      phase
	abort      Status // how it must end, when aborted; 0: not
	waits      []*abortWait
	partner    *Command // the other half of a fused pair
	executed   bool     // Execute was called, and found nothing against it
	withdrawn  bool     // its request was taken back from the device
	ending     bool     // by whom that is ended

	aborted atomic.Bool // mirrors abort, for handlers between two steps

	// What the decoders found, for the handlers.
	offset int64 // bytes on the device
	length int64 // bytes on the device

	req   blockdev.Request
	batch [1]*blockdev.Request
	work  *work    // of commands with several steps; nil for Read and Write
	segs  [][]byte // scratch of fused commands
}

// Reset clears c for reuse and keeps its capacity. Call it after the end of
// the command and the release of Data; Segments end with it. SQE, Done and Owner
// stay.
func (c *Command) Reset() {
	st := &c.state
	st.req.Return()
	c.Dir, c.Length, c.Lends, c.Data = DirNone, 0, false, nil
	c.OutLen, c.InLen = 0, 0
	c.Status, c.Result = Success, 0
	st.entry, st.queue, st.att = nil, nil, nil
	st.prev, st.next, st.phase = nil, nil, phaseNone
	st.abort, st.waits, st.partner, st.executed, st.withdrawn, st.ending = 0, nil, nil, false, false, false
	if st.aborted.Load() {
		st.aborted.Store(false)
	}
	st.offset, st.length = 0, 0
	st.work = nil
	st.req.Data, st.req.Tag, st.req.Err = nil, nil, nil
	st.req.FUA, st.req.NoUnmap = false, false
}

// complete ends c with status. The caller must not touch c again.
func (c *Command) complete(s Status) {
	q := c.state.queue
	waits, abort := q.leave(c)
	if abort != 0 {
		s = abort
	}
	c.InLen = 0
	if s.OK() && c.Dir == DirIn {
		c.InLen = c.Length
	}
	c.Status = s
	q.count(c, s)
	c.Done(c)
	for _, w := range waits {
		w.release()
	}
}

// good ends c with Successful Completion.
func (c *Command) good() { c.complete(Success) }

// reply ends c with p, which begins at byte off of what the host reads, and
// zeroes behind it.
func (c *Command) reply(p []byte) {
	if c.Length > 0 {
		n := c.Data.CopyIn(0, p[:min(len(p), c.Length)])
		zero(c.Data.Segs, n)
	}
	c.good()
}

// zero clears segs from byte off on.
func zero(segs [][]byte, off int) {
	for _, s := range segs {
		if off >= len(s) {
			off -= len(s)
			continue
		}
		clear(s[off:])
		off = 0
	}
}

// stopped reports whether c was aborted, for handlers between two steps.
func (c *Command) stopped() bool { return c.state.aborted.Load() }

// Segments are the data of a command that reads: Data's, or what was borrowed
// in its place, which nobody may change. Valid from Done to Reset.
func (c *Command) Segments() [][]byte {
	if c.Data == nil {
		return c.state.req.Data
	}
	return c.Data.Segs
}

// submit sends the request of c to its namespace's device; done is called
// with it. A read without data borrows.
func (c *Command) submit(op blockdev.Op, offset, length int64, data [][]byte, done func(*blockdev.Request)) {
	st := &c.state
	r := &st.req
	r.Op, r.Offset, r.Length, r.Data = op, offset, length, data
	r.Borrow = op == blockdev.OpRead && data == nil
	r.Done, r.Gone, r.Soon, r.Tag, r.Err = done, c.Gone, c.Soon, c, nil
	st.batch[0] = r
	st.att.ns.device.Submit(st.batch[:])
}

// ioDone ends the command of a request with the request's result.
func ioDone(r *blockdev.Request) {
	c := r.Tag.(*Command)
	if r.Err == nil {
		c.complete(Success)
		return
	}
	c.failIO(r.Err)
}

// abortWait counts the commands that somebody waits for.
type abortWait struct {
	mu        sync.Mutex
	remaining int
	done      func()
}

func newAbortWait(done func()) *abortWait { return &abortWait{remaining: 1, done: done} }

func (w *abortWait) add() {
	w.mu.Lock()
	w.remaining++
	w.mu.Unlock()
}

// release takes one from the count; the last calls done.
func (w *abortWait) release() {
	w.mu.Lock()
	w.remaining--
	last := w.remaining == 0
	w.mu.Unlock()
	if last {
		w.done()
	}
}
