package scsi

import (
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// work is the state of a command that takes several device requests: it walks
// an extent in pieces of at most chunkMax, with a buffer of its own, and stops
// early when the task is aborted.
type work struct {
	t    *Task
	buf  arena.SG
	done int64 // bytes of the extent that are finished
	n    int64 // bytes of the piece under way
	scr  [][]byte

	list []extent // UNMAP
	copy *copyJob // EXTENDED COPY

	// The request that a step planned, and how the last one ended.
	dev            blockdev.Device // nil: the task's unit
	op             blockdev.Op
	offset, length int64
	data           [][]byte
	then           func(*work)
	plan, last     plan
	phase          atomic.Int32
	err            error
}

// plan says what a step wants done.
type plan uint8

const (
	planNothing plan = iota // the task is over
	planStrict              // a request whose failure ends the task
	planAny                 // a request whose failure the next step looks at
)

// extent is a range of a device in bytes.
type extent struct{ offset, length int64 }

// newWork starts a piecewise command with a buffer of up to size bytes; it
// ends t with BUSY and returns nil when the arena has none to lend.
func (t *Task) newWork(size int64) *work {
	w := &work{t: t}
	if size > 0 && !t.state.nexus.target.deps.Arena.GetSG(int(min(size, chunkMax)), &w.buf) {
		t.failStatus(StatusBusy)
		return nil
	}
	t.state.work = w
	return w
}

// release gives the buffer back; the task ends right after.
func (w *work) release() {
	w.buf.Release()
	w.t.state.work = nil
}

// good, fail and failIO end the task and the work.
func (w *work) good()            { w.release(); w.t.good() }
func (w *work) fail(s sense)     { w.release(); w.t.fail(s) }
func (w *work) failIO(err error) { w.release(); w.t.failIO(err) }

// stopped ends the work of an aborted task.
func (w *work) stopped() bool {
	if !w.t.state.aborted.Load() {
		return false
	}
	w.good() // finish turns it into the abort
	return true
}

// next says how long the next piece is; 0 means the extent is done.
func (w *work) next() int64 {
	w.n = min(chunkMax, w.t.state.length-w.done)
	return w.n
}

// piece is the first n bytes of the work's buffer.
func (w *work) piece(n int64) [][]byte {
	w.scr = w.buf.Slice(0, int(n), w.scr[:0])
	return w.scr
}

// submit plans the next request; then runs when it succeeded, and an error
// ends the task. A step calls it as its last action.
func (w *work) submit(op blockdev.Op, offset, length int64, data [][]byte, then func(*work)) {
	w.plan, w.op, w.offset, w.length, w.data, w.then = planStrict, op, offset, length, data, then
}

// submitAny is submit for a step that looks at w.err itself.
func (w *work) submitAny(op blockdev.Op, offset, length int64, data [][]byte, then func(*work)) {
	w.submit(op, offset, length, data, then)
	w.plan = planAny
}

// Where a planned request is, in work.phase.
const (
	workSubmitting int32 = iota
	workParked           // Submit returned first: the completion goes on
	workInline           // the completion came first: the submitter goes on
)

// run performs steps until the task is over or a request is under way. Devices
// that complete inside Submit are served by the loop and not by recursion, or
// a long extent would exhaust the stack.
func (w *work) run(step func(*work)) {
	for {
		w.plan = planNothing
		step(w)
		if w.plan == planNothing {
			return // the task is over, w belongs to nobody
		}
		w.last = w.plan
		w.phase.Store(workSubmitting)
		dev := w.dev
		if dev == nil {
			dev = w.t.state.itl.lu.device
		}
		r := &w.t.state.req
		r.Op, r.Offset, r.Length, r.Data = w.op, w.offset, w.length, w.data
		r.Done, r.Gone, r.Soon, r.Tag, r.Err = workDone, w.t.Gone, w.t.Soon, w, nil
		w.t.state.batch[0] = r
		dev.Submit(w.t.state.batch[:])
		if w.phase.CompareAndSwap(workSubmitting, workParked) {
			return
		}
		step = workNext
	}
}

// workDone is the completion of every planned request.
func workDone(r *blockdev.Request) {
	w := r.Tag.(*work)
	w.err = r.Err
	if !w.phase.CompareAndSwap(workSubmitting, workInline) {
		w.run(workNext)
	}
}

// workNext is the step after a request.
func workNext(w *work) {
	if w.err != nil && w.last == planStrict {
		w.failIO(w.err)
		return
	}
	w.then(w)
}

// differ returns the offset of the first difference between a and b, which
// are equally long lists, or -1.
func differ(a, b [][]byte) int64 {
	var at int64
	for len(a) > 0 && len(b) > 0 {
		n := min(len(a[0]), len(b[0]))
		if x, y := a[0][:n], b[0][:n]; string(x) != string(y) {
			for i := range x {
				if x[i] != y[i] {
					return at + int64(i)
				}
			}
		}
		at += int64(n)
		a, b = advance(a, n), advance(b, n)
	}
	return -1
}

// advance drops the first n bytes of the front segment. It changes the slice
// headers in a.
func advance(a [][]byte, n int) [][]byte {
	if a[0] = a[0][n:]; len(a[0]) == 0 {
		return a[1:]
	}
	return a
}
