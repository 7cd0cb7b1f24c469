package nvme

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
)

// Queue is one queue pair of a controller: one connection of the transport.
// Prepare is called by one goroutine at a time, in order of arrival; the other
// methods may be called from any.
type Queue struct {
	ctrl   *Controller
	id     uint16
	size   int // entries
	closed func(error)

	gone        atomic.Bool
	authPending atomic.Bool

	fusing bool // the last command was the first half of a pair; Prepare's own

	counts counters

	mu struct {
		sync.Mutex
		oldest, newest *Command // linked by state.prev and state.next
		// fused is the first half of a pair whose second must come next;
		// fusedBad means that there was one and it failed.
		fused    *Command
		fusedBad bool
		leaving  bool // no command begins any more; see Subsystem.Leave
	}
}

func newQueue(c *Controller, r *ConnectRequest) *Queue {
	q := &Queue{ctrl: c, id: r.QID, size: int(r.SQSize) + 1, closed: r.Closed}
	q.authPending.Store(r.AuthRequired)
	return q
}

// ID is the queue's QID; 0 is the admin queue.
func (q *Queue) ID() uint16 { return q.id }

// Size is the number of entries of the submission queue.
func (q *Queue) Size() int { return q.size }

// Controller is the controller that the queue belongs to.
func (q *Queue) Controller() *Controller { return q.ctrl }

// SetAuthenticated lets commands through on a queue that was connected with
// AuthRequired. With false it stops them again, for a re-authentication that
// failed.
func (q *Queue) SetAuthenticated(ok bool) { q.authPending.Store(!ok) }

// Prepare decodes c. It returns true with Dir and Length set when c is to get
// its data and go to Execute or Cancel; false when c is over, with Status and
// Result set and without a call of Done.
func (q *Queue) Prepare(c *Command) bool {
	c.state.queue = q
	q.ctrl.touch()
	s := q.decode(c)
	if q.fusing || c.SQE[1]&fuseMask != 0 {
		s = q.pair(c, s)
	}
	if s != Success {
		c.Dir, c.Length = DirNone, 0
		c.Status = s
		q.count(c, s)
		return false
	}
	return true
}

// over is for commands that come while the connection is being ended from this side: what
// has other paths goes by one of these.
func (q *Queue) over() Status {
	if q.id == 0 {
		return AbortedSQDeletion
	}
	return InternalPathError
}

// decode finds the entry of the table for c and lets it judge.
func (q *Queue) decode(c *Command) Status {
	op := c.SQE[0]
	if q.gone.Load() {
		return q.over()
	}
	if op == OpFabrics {
		return q.decodeFabrics(c)
	}
	if q.authPending.Load() {
		return AuthenticationRequired
	}
	if !q.ctrl.enabled.Load() {
		if q.ctrl.ended() {
			return q.over()
		}
		return CommandSequenceError
	}
	if q.id == 0 {
		return q.decodeAdmin(c)
	}
	return q.decodeIO(c)
}

func (q *Queue) decodeFabrics(c *Command) Status {
	e := fabricsTable[c.SQE[4]]
	if e == nil || q.id == 0 && e.flags&flagIOQueue != 0 || q.id != 0 && e.flags&flagAdminQueue != 0 {
		if e != nil && c.SQE[4] == FabricsDisconnect {
			return InvalidQueueType | DNR
		}
		return InvalidOpcode | DNR
	}
	if q.authPending.Load() {
		return AuthenticationRequired
	}
	return q.admit(c, e)
}

func (q *Queue) decodeAdmin(c *Command) Status {
	e := adminTable[c.SQE[0]]
	if e == nil || q.ctrl.discovery && e.flags&flagDiscovery == 0 {
		return InvalidOpcode | DNR
	}
	if c.SQE[1]&fuseMask != 0 {
		return InvalidField | DNR
	}
	return q.admit(c, e)
}

func (q *Queue) decodeIO(c *Command) Status {
	e := ioTable[c.SQE[0]]
	if e == nil {
		return InvalidOpcode | DNR
	}
	st := &c.state
	nsid := c.NSID()
	att := q.ctrl.view.Load().at(nsid)
	if att == nil {
		if nsid != NSIDAll || e.flags&flagBroadcast == 0 {
			if q.ctrl.ended() { // it has let go of its namespaces
				return q.over()
			}
			return InvalidNamespace | DNR
		}
		return q.admit(c, e)
	}
	st.att = att
	if s := att.accessible(); s != Success {
		return c.delayed(s) // for hosts that know of no other path
	}
	if att.ns.conflict(q.ctrl, e.access) {
		return ReservationConflict
	}
	return q.admit(c, e)
}

// admit lets the entry check its fields and takes c into the list.
func (q *Queue) admit(c *Command, e *entry) Status {
	st := &c.state
	st.entry = e
	if e.prepare != nil {
		if s := e.prepare(c); s != Success {
			return s
		}
	}
	if c.Length > 0 {
		if s := c.checkSGL(); s != Success {
			return s
		}
	}
	st.batch[0] = &st.req
	return q.enter(c)
}

// checkSGL judges the descriptor of a command that moves data (NVMe Base 2.0
// §4.1.2): one of the two types that the transport has, with exactly the
// length that the command moves.
func (c *Command) checkSGL() Status {
	if psdt := c.SQE[1] >> 6; psdt == 0 || psdt == 3 {
		return InvalidField | DNR // PRPs are not for fabrics
	}
	sgl := c.SGL()
	switch sgl.Kind {
	case SGLTransport:
	case SGLInCapsule:
		if c.Dir != DirOut {
			return InvalidSGLType | DNR
		}
	default:
		return InvalidSGLType | DNR
	}
	if int64(sgl.Length) != int64(c.Length) {
		return InvalidSGLLength | DNR
	}
	return Success
}

// paramIn and paramOut make the data of a command of n bytes its parameters.
// A host may send more than is needed, as Linux does with Dataset Management;
// what it sends must be received.
func (c *Command) paramIn(n int) Status {
	c.Dir, c.Length = DirIn, n
	return Success
}

// paramMax is the most parameter data that a host may send.
const paramMax = 8 << 10

func (c *Command) paramOut(n int) Status {
	l := c.SGL().Length
	if l < uint32(n) || l > max(paramMax, uint32(n)) {
		return InvalidSGLLength | DNR
	}
	c.Dir, c.Length = DirOut, int(l)
	return Success
}

// Execute runs a prepared command whose data is there. Done is called exactly
// once, possibly before Execute returns.
func (q *Queue) Execute(c *Command) {
	run, status := q.start(c)
	switch {
	case status != Success:
		q.dissolve(c)
		c.complete(status)
		return
	case !run:
		return
	}
	if c.state.partner != nil {
		runFused(c)
		return
	}
	c.run()
}

// run hands c to its handler, unless a reservation came since Prepare. Here c
// is in the list of running commands, so PREEMPT AND ABORT either shows in
// this check or finds c.
func (c *Command) run() {
	st := &c.state
	if st.att != nil && st.att.ns.conflict(st.queue.ctrl, st.entry.access) {
		c.complete(ReservationConflict)
		return
	}
	st.entry.execute(c)
}

// Cancel gives up a prepared command that was not executed. Done is not
// called.
func (q *Queue) Cancel(c *Command) {
	if c.state.phase == phaseNone {
		return
	}
	q.dissolve(c)
	waits, _ := q.leave(c)
	for _, w := range waits {
		w.release()
	}
}

// enter adds c as the newest command, or says why it may not begin.
func (q *Queue) enter(c *Command) Status {
	st := &c.state
	q.mu.Lock()
	if q.gone.Load() { // since decode: what ended all commands of the queue did not find c
		q.mu.Unlock()
		return q.over()
	}
	if q.mu.leaving {
		if s := c.turnedAway(); s != Success {
			q.mu.Unlock()
			return s
		}
	}
	st.prev, st.next = q.mu.newest, nil
	if q.mu.newest != nil {
		q.mu.newest.state.next = c
	} else {
		q.mu.oldest = c
	}
	q.mu.newest = c
	st.phase = phasePrepared
	q.mu.Unlock()
	return Success
}

// start moves c on from phasePrepared. run says that the caller must run it;
// status other than Success, that it must end so.
func (q *Queue) start(c *Command) (run bool, status Status) {
	st := &c.state
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case st.abort != 0:
		return false, st.abort
	case c.Dir == DirOut && c.OutLen < c.Length:
		return false, DataTransferError
	case st.partner != nil && st.partner.state.abort != 0:
		// Whoever aborted it may not have parted the two yet: no half runs alone.
		return false, AbortedFailedFused
	}
	st.executed = true // not of one that fails here: its partner would run before they part
	if p := st.partner; p != nil {
		if !p.state.executed {
			st.phase = phaseWaiting
			return false, Success
		}
		p.state.phase = phaseRunning
	} else if st.entry.flags&flagFirstHalf != 0 && c.SQE[1]&fuseMask == fuseFirst {
		st.phase = phaseWaiting // the second half has not arrived
		return false, Success
	}
	st.phase = phaseRunning
	return true, Success
}

// leave takes c out of the list for good. It returns who waits for its end,
// and how it must end if it was aborted.
func (q *Queue) leave(c *Command) (waits []*abortWait, abort Status) {
	st := &c.state
	q.mu.Lock()
	if st.phase != phaseNone {
		if st.prev != nil {
			st.prev.state.next = st.next
		} else {
			q.mu.oldest = st.next
		}
		if st.next != nil {
			st.next.state.prev = st.prev
		} else {
			q.mu.newest = st.prev
		}
		st.prev, st.next, st.phase = nil, nil, phaseNone
	}
	if q.mu.fused == c {
		q.mu.fused, q.mu.fusedBad = nil, true
	}
	waits, st.waits = st.waits, nil
	abort = st.abort
	q.mu.Unlock()
	return waits, abort
}

// abortAll marks every command that match accepts to end with status, and has
// w wait for each. Those that wait for nothing but this end now; the others
// when the transport brings them or the device is done. With AbortedPreempt w
// does not wait for what the transport holds: such a command has no effect any
// more, and its host may never send the data.
func (q *Queue) abortAll(match func(*Command) bool, status Status, w *abortWait) (matched int) {
	var ended, withdrawn []*Command
	q.mu.Lock()
	for c := q.mu.oldest; c != nil; c = c.state.next {
		st := &c.state
		if match != nil && !match(c) {
			continue
		}
		matched++
		if st.abort == 0 {
			st.abort = status
			st.aborted.Store(true)
		}
		if w != nil && (st.phase != phasePrepared || status != AbortedPreempt) {
			w.add()
			st.waits = append(st.waits, w)
		}
		if st.phase == phaseWaiting || st.phase == phaseParked {
			st.phase = phaseRunning
			ended = append(ended, c)
		} else if c.withdraw() && !st.ending {
			st.ending = true
			withdrawn = append(withdrawn, c)
		}
	}
	q.mu.Unlock()
	for _, c := range withdrawn {
		blockdev.Complete(&c.state.req, errWithdrawn) // complete turns it into the abort
	}
	for _, c := range ended {
		q.ctrl.unpark(c)
		q.dissolve(c)
		c.complete(status)
	}
	return matched
}

// errWithdrawn ends the request of a command that was aborted before its device has begun it.
var errWithdrawn = fmt.Errorf("%w: the command was aborted", blockdev.ErrBusy)

// withdraw takes back the request of a command that its device has not begun. Called with
// the queue's mu, so that the request is that of no other command. It may be called again.
func (c *Command) withdraw() bool {
	st := &c.state
	if !st.withdrawn && st.phase == phaseRunning && st.att != nil {
		if d, ok := st.att.ns.device.(blockdev.Withdrawer); ok {
			st.withdrawn = d.Withdraw(&st.req)
		}
	}
	return st.withdrawn
}

// errDisconnected is why a controller ends with its admin connection.
var errDisconnected = errors.New("nvme: the admin connection is gone")

// Disconnect ends the queue: its connection is gone. With the admin queue the
// controller ends, and Closed of its other queues is called. Commands that the
// transport holds go to Cancel or Execute as ever; those under way end in
// their time, and their Done is called.
func (q *Queue) Disconnect() {
	if q.gone.Swap(true) {
		return
	}
	w := q.ends()
	if q.id == 0 {
		q.ctrl.end(errDisconnected)
	} else {
		q.ctrl.forget(q)
	}
	q.abortAll(nil, AbortedSQDeletion, w)
	w.release()
}

// ends notes that q ends, before anything forgets it; what is returned waits for its commands.
func (q *Queue) ends() *abortWait { return newAbortWait(q.ctrl.sub.ending.add(q)) }

// close ends the queue from this side. A host that has other paths sends by one of these what it hears the end of.
func (q *Queue) close(reason error) {
	if q.gone.Swap(true) {
		return
	}
	w := q.ends()
	q.abortAll(nil, q.over(), w)
	w.release()
	if q.closed != nil {
		q.closed(reason)
	}
}
