package scsi

import (
	"sync/atomic"

	"blockd.dev/blockdev"
)

// cdbMax is the longest CDB that any command of the table has.
const cdbMax = 16

// taskState is what the device server keeps in a Task.
type taskState struct {
	cdb   [cdbMax]byte
	cmd   *command
	nexus *Nexus
	itl   *itl // nil for commands to no unit

	prev, next *Task // in itl.set
	phase      phase
	abort      abortKind
	aborted    atomic.Bool // mirrors abort, for handlers between two steps
	waits      []*abortWait

	// What the decoders found, for the handlers.
	offset int64 // bytes
	length int64 // bytes on the device
	lba    uint64
	blocks uint64
	fua    bool
	param  uint32 // handler's own: allocation length, select report, ...

	req   blockdev.Request
	batch [1]*blockdev.Request
	work  *work // of commands with several steps; nil for READ and WRITE
}

// Reset clears t for reuse and keeps its capacity. Call it after Done and the
// release of Data; Segments end with it.
func (t *Task) Reset() {
	st := &t.state
	st.req.Return()
	t.LUN, t.CDB, t.Attr = 0, nil, AttrUntagged
	t.Dir, t.Length, t.Lends, t.Data = DirNone, 0, false, nil
	t.Expected, t.OutLen, t.InLen = 0, 0, 0
	t.Status, t.SenseLen, t.Silent = StatusGood, 0, false
	st.cmd, st.nexus, st.itl = nil, nil, nil
	st.prev, st.next, st.phase = nil, nil, phaseNone
	st.abort, st.waits = abortNo, nil
	st.aborted.Store(false)
	st.offset, st.length, st.lba, st.blocks, st.fua, st.param = 0, 0, 0, 0, false, 0
	st.work = nil
	st.req.Data, st.req.Tag, st.req.Err = nil, nil, nil
	st.req.FUA, st.req.NoUnmap, st.req.Borrow = false, false, false
}

// run hands t to its handler, unless a reservation came since Prepare.
func (t *Task) run() {
	if t.conflictAtStart() {
		t.failStatus(StatusReservationConflict)
		return
	}
	t.state.cmd.execute(t)
}

// setSense ends t with CHECK CONDITION, in the unit's sense format.
func (t *Task) setSense(s *sense) {
	t.Status = StatusCheckCondition
	descriptor := t.state.itl != nil && t.state.itl.lu.mode.descriptorSense()
	t.SenseLen = s.encode(t.Sense[:], descriptor)
}

// fail ends t with CHECK CONDITION.
func (t *Task) fail(s sense) {
	t.InLen = 0
	t.setSense(&s)
	t.finish()
}

// failStatus ends t with a status that has no sense data.
func (t *Task) failStatus(s Status) {
	t.InLen = 0
	t.Status = s
	t.finish()
}

// good ends t with GOOD status.
func (t *Task) good() {
	t.Status = StatusGood
	t.finish()
}

// reply ends t with GOOD status and p, cut to the allocation length.
func (t *Task) reply(p []byte) {
	if len(p) > t.Length {
		p = p[:t.Length]
	}
	if len(p) > 0 {
		t.InLen = t.Data.CopyIn(0, p)
	}
	t.good()
}

// finish takes t out of its task set and calls Done. The caller must not touch
// t again.
func (t *Task) finish() {
	st := &t.state
	if st.itl == nil {
		t.Done(t)
		return
	}
	waits, run, kind := st.itl.set.leave(t)
	if kind != abortNo {
		t.InLen, t.SenseLen = 0, 0
		t.Status = StatusTaskAborted
		t.Silent = kind == abortSilent
	}
	t.Done(t)
	for _, w := range waits {
		w.release()
	}
	for _, r := range run {
		r.run()
	}
}

// Segments are the data of a task that reads: Data's, or what was borrowed in its
// place, which nobody may change. Valid from Done to Reset.
func (t *Task) Segments() [][]byte {
	if t.Data == nil {
		return t.state.req.Data
	}
	return t.Data.Segs
}

// Attended is what a prepared task that reads the medium waits for; nil for other tasks, and
// where the device has nothing to attend.
func (t *Task) Attended() blockdev.Attended {
	if st := &t.state; t.Dir == DirIn && st.length > 0 && st.length == int64(t.Length) {
		return blockdev.AttendedOf(st.itl.lu.device)
	}
	return nil
}

// submit sends the request of t to its unit's device; done is called with it.
// A read without data borrows.
func (t *Task) submit(op blockdev.Op, offset, length int64, data [][]byte, done func(*blockdev.Request)) {
	st := &t.state
	r := &st.req
	r.Op, r.Offset, r.Length, r.Data = op, offset, length, data
	r.Borrow = op == blockdev.OpRead && data == nil
	r.Done, r.Gone, r.Soon, r.Tag, r.Err = done, t.Gone, t.Soon, t, nil
	st.batch[0] = r
	st.itl.lu.device.Submit(st.batch[:])
}

// ioDone ends the task of a request with the request's result.
func ioDone(r *blockdev.Request) {
	t := r.Tag.(*Task)
	if r.Err == nil {
		t.good()
		return
	}
	t.failIO(r.Err)
}

// readDone is ioDone for a command whose data is the device's.
func readDone(r *blockdev.Request) {
	t := r.Tag.(*Task)
	if r.Err == nil {
		t.InLen = t.Length
		t.good()
		return
	}
	t.failIO(r.Err)
}
