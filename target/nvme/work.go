package nvme

import (
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// chunkMax is how much a handler moves at a time on its own buffers (Compare,
// Verify, Copy).
const chunkMax = 256 << 10

// work is the state of a command that takes several device requests: a list
// of extents that it walks in pieces, with a buffer of its own. It stops
// early when the command is aborted.
type work struct {
	c   *Command
	buf arena.SG
	scr [][]byte
	cmp [][]byte

	list []extent // what is left; the first is under way
	n    int64    // bytes of the piece under way
	done int64    // bytes of all extents that are finished
	item int      // index of the first extent left

	// The request that a step planned.
	planned        bool
	op             blockdev.Op
	offset, length int64
	data           [][]byte
	then           func(*work)
	phase          atomic.Int32
	err            error
}

// extent is a range of a device in bytes.
type extent struct{ offset, length int64 }

// newWork starts a command over list with a buffer of up to size bytes. It
// completes c and returns nil when the arena has none to lend.
func (c *Command) newWork(size int64, list []extent) *work {
	w := &work{c: c, list: list}
	if size > 0 && !c.state.queue.ctrl.sub.deps.Arena.GetSG(int(min(size, chunkMax)), &w.buf) {
		c.complete(c.later())
		return nil
	}
	c.state.work = w
	return w
}

// end completes the command and gives the buffer back.
func (w *work) end(s Status) {
	w.buf.Release()
	w.c.state.work = nil
	w.c.complete(s)
}

// next chooses the next piece, of at most limit bytes; false when there is
// none left, or the command was aborted, and it is complete.
func (w *work) next(limit int64) bool {
	for len(w.list) > 0 && w.list[0].length == 0 {
		w.list = w.list[1:]
		w.item++
	}
	if len(w.list) == 0 || w.c.stopped() {
		w.end(Success) // complete turns it into the abort
		return false
	}
	w.n = min(limit, w.list[0].length)
	return true
}

// advance notes that the piece is finished.
func (w *work) advance() {
	w.list[0].offset += w.n
	w.list[0].length -= w.n
	w.done += w.n
}

// piece is the first n bytes of the work's buffer.
func (w *work) piece() [][]byte {
	w.scr = w.buf.Slice(0, int(w.n), w.scr[:0])
	return w.scr
}

// submit plans the next request, after which then runs when it succeeded; an
// error ends the command. A step calls it as its last action.
func (w *work) submit(op blockdev.Op, offset int64, data [][]byte, then func(*work)) {
	w.planned, w.op, w.offset, w.length, w.data, w.then = true, op, offset, w.n, data, then
}

// Where a planned request is, in work.phase.
const (
	workSubmitting int32 = iota
	workParked           // Submit returned first: the completion goes on
	workInline           // the completion came first: the submitter goes on
)

// run performs steps until the command is over or a request is under way.
// Devices that complete inside Submit are served by the loop and not by
// recursion, or a long list would exhaust the stack.
func (w *work) run(step func(*work)) {
	for {
		w.planned = false
		step(w)
		if !w.planned {
			return // the command is over, w belongs to nobody
		}
		w.phase.Store(workSubmitting)
		w.c.submit(w.op, w.offset, w.length, w.data, workDone)
		if w.phase.CompareAndSwap(workSubmitting, workParked) {
			return
		}
		step = workNext
	}
}

// workDone is the completion of every planned request.
func workDone(r *blockdev.Request) {
	w := r.Tag.(*Command).state.work
	w.err = r.Err
	if !w.phase.CompareAndSwap(workSubmitting, workInline) {
		w.run(workNext)
	}
}

// workNext is the step after a request.
func workNext(w *work) {
	if w.err != nil {
		c := w.c
		w.buf.Release()
		c.state.work = nil
		if c.Opcode() == OpCopy {
			c.Result = uint64(w.item) // the first range that was not wholly copied
		}
		c.failIO(w.err)
		return
	}
	w.then(w)
}

// differ reports whether a and b, which are equally long, differ.
func differ(a, b [][]byte) bool {
	for len(a) > 0 && len(b) > 0 {
		n := min(len(a[0]), len(b[0]))
		if string(a[0][:n]) != string(b[0][:n]) {
			return true
		}
		a, b = front(a, n), front(b, n)
	}
	return false
}

// front drops the first n bytes of the first segment. It changes the slice
// headers in a.
func front(a [][]byte, n int) [][]byte {
	if a[0] = a[0][n:]; len(a[0]) == 0 {
		return a[1:]
	}
	return a
}
