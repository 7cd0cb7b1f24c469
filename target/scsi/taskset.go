package scsi

import (
	"fmt"
	"sync"

	"blockd.dev/blockdev"
)

// Every I_T_L nexus has its own task set (TST=001b in the control mode page),
// so commands of different hosts, and of one host to different units, share no
// lock. A task enters the set in Prepare and leaves it before Done.
//
//	SIMPLE         starts when no older ORDERED task is in the set
//	ORDERED        starts when no older task is in the set
//	HEAD OF QUEUE  starts at once

// phase is where a task is.
type phase uint8

const (
	phaseNone     phase = iota // not in a set: before Prepare, after Done, or no unit
	phasePrepared              // waits for its data; the transport holds it
	phaseWaiting               // Execute was called; waits for older tasks
	phaseRunning               // a handler or the device works on it
	phaseDropped               // aborted while the transport held it; out of the set
)

// abortKind says how an aborted task ends.
type abortKind uint8

const (
	abortNo     abortKind = iota
	abortSilent           // no response (SAM-5 §5.6)
	abortStatus           // TASK ABORTED: another nexus did it and TAS=1, or the unit went
)

// taskSet is the task set of one I_T_L nexus.
type taskSet struct {
	mu      sync.Mutex
	oldest  *Task // doubly linked by state.prev and state.next, in order of Prepare
	newest  *Task
	ordered int // ORDERED tasks in the set
	waiting int // tasks in phaseWaiting
	closed  bool
}

// abortWait counts the tasks that a task management function waits for.
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

// enter adds t as the newest task; false when the nexus is gone.
func (s *taskSet) enter(t *Task) bool {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return false
	}
	st := &t.state
	st.prev, st.next = s.newest, nil
	if s.newest != nil {
		s.newest.state.next = t
	} else {
		s.oldest = t
	}
	s.newest = t
	if t.Attr == AttrOrdered {
		s.ordered++
	}
	st.phase = phasePrepared
	s.mu.Unlock()
	return true
}

func (s *taskSet) unlinkLocked(t *Task) {
	st := &t.state
	if st.prev != nil {
		st.prev.state.next = st.next
	} else {
		s.oldest = st.next
	}
	if st.next != nil {
		st.next.state.prev = st.prev
	} else {
		s.newest = st.prev
	}
	st.prev, st.next = nil, nil
	if t.Attr == AttrOrdered {
		s.ordered--
	}
}

// mayRunLocked decides by attribute whether t may start now.
func (s *taskSet) mayRunLocked(t *Task) bool {
	switch t.Attr {
	case AttrHeadOfQueue:
		return true
	case AttrOrdered:
		return s.oldest == t
	}
	if s.ordered == 0 {
		return true
	}
	for o := t.state.prev; o != nil; o = o.state.prev {
		if o.Attr == AttrOrdered {
			return false
		}
	}
	return true
}

// start moves t on from phasePrepared. run says that the caller must run it,
// dropped that it was aborted meanwhile.
func (s *taskSet) start(t *Task) (run, dropped bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case t.state.phase == phaseDropped:
		return false, true
	case s.mayRunLocked(t):
		t.state.phase = phaseRunning
		return true, false
	}
	t.state.phase = phaseWaiting
	s.waiting++
	return false, false
}

// runnableLocked moves every waiting task that may start to phaseRunning and
// appends it to list.
func (s *taskSet) runnableLocked(list []*Task) []*Task {
	for t := s.oldest; t != nil && s.waiting > 0; t = t.state.next {
		if t.state.phase == phaseWaiting && s.mayRunLocked(t) {
			t.state.phase = phaseRunning
			s.waiting--
			list = append(list, t)
		}
	}
	return list
}

// leave takes a task out of the set for good and returns who waits for its
// end and which tasks may start now.
func (s *taskSet) leave(t *Task) (waits []*abortWait, run []*Task, kind abortKind) {
	st := &t.state
	s.mu.Lock()
	if st.phase != phaseDropped {
		s.unlinkLocked(t)
	}
	st.phase = phaseNone
	kind = st.abort
	waits, st.waits = st.waits, nil
	if s.waiting > 0 {
		run = s.runnableLocked(nil)
	}
	s.mu.Unlock()
	return waits, run, kind
}

// abort ends every task that match accepts; nil accepts all. Tasks that the
// device works on are marked, and w waits for them; waiting ones end now; the
// ones that the transport still holds end when it brings or cancels them,
// without any effect. It returns how many tasks matched.
func (s *taskSet) abort(match func(*Task) bool, kind abortKind, w *abortWait) int {
	var ended, withdrawn, run []*Task
	matched := 0
	s.mu.Lock()
	for t := s.oldest; t != nil; {
		next := t.state.next
		if match == nil || match(t) {
			matched++
			st := &t.state
			if st.abort == abortNo {
				st.abort = kind
				st.aborted.Store(true)
			}
			switch st.phase {
			case phasePrepared:
				s.unlinkLocked(t)
				st.phase = phaseDropped
			case phaseWaiting:
				s.waiting--
				s.unlinkLocked(t)
				st.phase = phaseDropped
				ended = append(ended, t)
			case phaseRunning:
				if w != nil {
					w.add()
					st.waits = append(st.waits, w)
				}
				if t.withdraw() {
					withdrawn = append(withdrawn, t)
				}
			}
		}
		t = next
	}
	if s.waiting > 0 {
		run = s.runnableLocked(nil)
	}
	s.mu.Unlock()
	for _, t := range withdrawn {
		blockdev.Complete(&t.state.req, errWithdrawn) // finish turns it into the abort
	}
	for _, t := range ended {
		t.finish()
	}
	for _, t := range run {
		t.run()
	}
	return matched
}

// errWithdrawn ends the request of a task that was aborted, or turned away, before its device has begun it.
var errWithdrawn = fmt.Errorf("%w: it was taken back before it began", blockdev.ErrBusy)

// withdraw takes back the request of a task that its device has not begun. Called with
// the set's mu, so that the request is that of no other task.
func (t *Task) withdraw() bool {
	d, ok := t.state.itl.lu.device.(blockdev.Withdrawer)
	return ok && d.Withdraw(&t.state.req)
}

// takeBack ends with ErrBusy the requests of tasks that the device has not begun, and gives back.
func (s *taskSet) takeBack() {
	var back []*Task
	s.mu.Lock()
	for t := s.oldest; t != nil; t = t.state.next {
		if t.state.phase == phaseRunning && t.withdraw() {
			back = append(back, t)
		}
	}
	s.mu.Unlock()
	for _, t := range back {
		blockdev.Complete(&t.state.req, errWithdrawn)
	}
}

// busy reports whether a task is in the set.
func (s *taskSet) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oldest != nil
}

// close aborts everything and lets no task in any more; w waits for what the device works on.
func (s *taskSet) close(kind abortKind, w *abortWait) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.abort(nil, kind, w)
}
