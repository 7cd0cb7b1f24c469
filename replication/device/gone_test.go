package device_test

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
)

// submitBy is submit for a host whose connection has ended when gone is set.
func (s *stage) submitBy(gone *atomic.Bool, op blockdev.Op) (r *blockdev.Request, done chan struct{}) {
	done = make(chan struct{})
	r = &blockdev.Request{Op: op, Length: 4096, Gone: gone, Data: [][]byte{bytes.Repeat([]byte{1}, 4096)}, Done: func(*blockdev.Request) { close(done) }}
	if op == blockdev.OpCompareAndWrite {
		r.Data = [][]byte{make([]byte, 4096), r.Data[0]}
	}
	s.v.Submit([]*blockdev.Request{r})
	return r, done
}

func (s *stage) wantBusy(what string, r *blockdev.Request, done chan struct{}) {
	s.t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		s.t.Fatalf("%s: not ended", what)
	}
	if !errors.Is(r.Err, blockdev.ErrBusy) {
		s.t.Errorf("%s: %v, want busy", what, r.Err)
	}
}

var changes = []blockdev.Op{blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpWriteZeroes, blockdev.OpCompareAndWrite}

// What a host has sent by a connection that has ended since is not begun: it may
// have sent it by another, and newer ones.
func TestWhatHasNoHostIsNotBegun(t *testing.T) {
	for _, op := range changes {
		// It waits for an owner, who comes to this node.
		s := newStage(t, time.Hour)
		var gone, other atomic.Bool
		r, done := s.submitBy(&gone, op)
		kept, keptDone := s.submitBy(&other, blockdev.OpWrite)
		gone.Store(true)
		s.own(1)
		s.wantBusy(op.String()+" without an owner", r, done)
		s.replicaAnswers()
		<-keptDone
		if kept.Err != nil {
			t.Errorf("%v: that of another connection: %v", op, kept.Err)
		}
		if n := s.writes(); n != 0 {
			t.Errorf("%v: the replica has %d writes more", op, n)
		}

		// It came already, and ends at once.
		r, done = s.submitBy(&gone, op)
		s.wantBusy(op.String()+" when it came", r, done)

		// It waits for a session with an owner elsewhere.
		s = newStage(t, time.Hour)
		gone.Store(false)
		s.v.Forward("b")
		r, done = s.submitBy(&gone, op)
		open := s.next()
		gone.Store(true)
		answer(open, message.Done)
		s.wantBusy(op.String()+" without a session", r, done)

		// It was sent, and would have to be sent again.
		gone.Store(false)
		r, done = s.submitBy(&gone, op)
		f := s.next()
		if f.Stale(f) {
			t.Errorf("%v: who sends it is told that its host is gone", op)
		}
		gone.Store(true)
		answer(f, message.NotOwner)
		s.wantBusy(op.String()+" that was refused elsewhere", r, done)

		// It was given to who sends it, and waits for others there.
		s = newStage(t, time.Hour)
		s.v.Forward("b")
		gone.Store(false)
		r, done = s.submitBy(&gone, op)
		answer(s.next(), message.Done)
		f = s.next()
		gone.Store(true)
		notSent(t, f)
		s.wantBusy(op.String()+" that was not sent", r, done)
	}
}

// notSent has f end as one that is stale when it is about to be sent.
func notSent(t *testing.T, f *message.Forwarded) {
	t.Helper()
	if !f.Stale(f) {
		t.Error("who sends it is not told that it is stale")
	}
	f.Lost, f.NotSent = true, true
	f.Done(f)
}

// A write that waits for long until it is sent to the owner elsewhere is not begun; one of which a piece
// was sent goes on.
func TestWhatIsSentLateIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStageFor(t, time.Hour, time.Second, time.Hour)
		s.v.Forward("b")
		var host atomic.Bool
		r, done := s.submitBy(&host, blockdev.OpWrite)
		answer(s.next(), message.Done)
		f := s.next()
		time.Sleep(time.Second) // sleep: in the bubble, where it is the time that the write waits
		notSent(t, f)
		s.wantBusy("a late write", r, done)

		r, done = s.submitBy(&host, blockdev.OpWrite)
		if f = s.next(); f.Stale(f) {
			t.Error("a write that has just come is late")
		}
		time.Sleep(time.Second) // sleep: as above: there was no room for it
		notSent(t, f)
		s.wantBusy("a write that was to be sent in time, and had no room", r, done)

		const length = 1 << 20
		ended := make(chan struct{})
		r = &blockdev.Request{Op: blockdev.OpWrite, Length: length, Data: [][]byte{make([]byte, length)}, Done: func(*blockdev.Request) { close(ended) }}
		s.v.Submit([]*blockdev.Request{r})
		for n := int64(0); n < length; {
			f := s.next()
			if f.Stale(f) {
				t.Error("a write that was begun in time is not ended")
			}
			n += f.Request.Len
			answer(f, message.Done)
			time.Sleep(time.Second) // sleep: as above
		}
		if <-ended; r.Err != nil {
			t.Error(r.Err)
		}
	})
}

// What waits and has no host any more makes room soon, reads too.
func TestWhatHasNoHostDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStageFor(t, time.Second, time.Hour, time.Hour)
		for _, op := range append(changes, blockdev.OpRead) {
			s.v.Forward("")
			var gone atomic.Bool
			r, done := s.submitBy(&gone, op)
			s.waiting(1, "for an owner")
			gone.Store(true)
			s.wantBusy(op.String(), r, done)
			if !strings.Contains(r.Err.Error(), "connection") {
				t.Errorf("%v waited until %v", op, r.Err)
			}
		}
	})
}

// The pieces of a long write that are not begun when its host goes are left out.
func TestPiecesWithoutHostAreNotBegun(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		s := newStage(t, time.Hour)
		var gone atomic.Bool
		done := make(chan struct{})
		const length = 32 << 20 // more pieces than are under way at a time
		r := &blockdev.Request{Op: blockdev.OpWrite, Length: length, Gone: &gone, Data: [][]byte{make([]byte, length)}, Done: func(*blockdev.Request) { close(done) }}
		begun := 0
		if elsewhere {
			s.v.Forward("b")
			s.v.Submit([]*blockdev.Request{r})
			answer(s.next(), message.Done)
			first := s.next()
			gone.Store(true)
			answer(first, message.Done)
			for begun = 1; ; begun++ {
				select {
				case <-done:
				default:
					answer(s.next(), message.Done)
					continue
				}
				break
			}
		} else {
			s.own(1)
			s.v.Submit([]*blockdev.Request{r})
			s.soon(func() bool { return s.writes() == 16 })
			gone.Store(true)
			begun = s.writes()
			s.replicaAnswers()
		}
		s.wantBusy("a long write", r, done)
		if begun != 16 || s.writes() != 0 {
			t.Errorf("elsewhere %v: %d pieces were begun, and then %d more; want those that were under way", elsewhere, begun, s.writes())
		}
	}
}

// What was begun when its host went has happened, and nothing says that it has not.
func TestWhatWasBegunEndsAsItDid(t *testing.T) {
	for _, elsewhere := range []bool{false, true} {
		s := newStage(t, time.Hour)
		var gone atomic.Bool
		if elsewhere {
			s.v.Forward("b")
		} else {
			s.own(1)
		}
		r, done := s.submitBy(&gone, blockdev.OpWrite)
		if elsewhere {
			answer(s.next(), message.Done)
			f := s.next()
			gone.Store(true)
			answer(f, message.Done)
		} else {
			s.soon(func() bool { return s.writes() == 1 })
			gone.Store(true)
			s.replicaAnswers()
		}
		<-done
		if r.Err != nil {
			t.Errorf("elsewhere %v: %v", elsewhere, r.Err)
		}
	}
}

// A node that stops lets nothing wait: not for an owner, nor here for replicas.
func TestLeave(t *testing.T) {
	s := newStage(t, time.Hour)
	parked, parkedDone := s.submit(blockdev.OpRead)
	s.waiting(1, "for an owner")
	s.v.Leave()
	s.wantBusy("that waits for an owner", parked, parkedDone)
	parked, parkedDone = s.submit(blockdev.OpRead)
	s.wantBusy("that comes to wait", parked, parkedDone)

	s = newStage(t, time.Hour)
	s.own(1)
	r, done := s.submit(blockdev.OpWrite)
	if !s.soon(func() bool { return s.writes() == 1 }) {
		t.Fatal("the replica has not got the write")
	}
	s.v.Leave()
	s.wantBusy("that waits for replicas", r, done)
	s.replicaAnswers()
	if s.v.Status().Owner {
		t.Error("it owns the volume still")
	}

	// What goes to another owner goes on.
	s = newStage(t, time.Hour)
	s.v.Forward("b")
	r, done = s.submit(blockdev.OpWrite)
	answer(s.next(), message.Done)
	f := s.next()
	s.v.Leave()
	answer(f, message.Done)
	<-done
	if r.Err != nil {
		t.Errorf("forwarded: %v", r.Err)
	}
}

// What waits for a session with the next owner has leaveGrace for it from Leave on, however long the hand-over took.
func TestLeaveWaitsForSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, begins := range []bool{true, false} {
			s := newStageFor(t, time.Hour, time.Hour, time.Hour)
			r, done := s.submit(blockdev.OpRead)
			s.waiting(1, "for an owner")
			time.Sleep(time.Minute) // sleep: in the bubble, where it is the time that the hand-over takes
			s.v.Forward("b")
			session := s.next()
			s.v.Leave()
			time.Sleep(100 * time.Millisecond) // sleep: as above, for the session
			if !begins {
				s.wantBusy("without a session", r, done)
				continue
			}
			answer(session, message.Done)
			f := s.next()
			f.Answer = message.HostAnswer{Status: message.Done, Data: make([]byte, 4096)}
			f.Done(f)
			if <-done; r.Err != nil {
				t.Errorf("a session begins 100 ms after Leave: %v", r.Err)
			}
		}
	})
}

// A request whose wait is over has failed, also when an owner turns up while others are told.
func TestTheEndOfAWaitIsJudgedOnce(t *testing.T) {
	s := newStage(t, time.Hour)
	var told sync.WaitGroup
	var once sync.Once
	requests := make([]*blockdev.Request, 3)
	for i := range requests {
		told.Add(1)
		requests[i] = &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(*blockdev.Request) {
			once.Do(func() { s.v.Forward("b") })
			told.Done()
		}}
		s.v.Submit(requests[i : i+1])
	}
	s.waiting(len(requests), "for an owner")
	s.v.Leave()
	told.Wait()
	for i, r := range requests {
		if !errors.Is(r.Err, blockdev.ErrBusy) {
			t.Errorf("write %d, which nobody has done, ended with %v", i, r.Err)
		}
	}
}
