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
	"blockd.dev/internal/clock"
	"blockd.dev/replication/device"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// stage is one volume with everything around it in the test's hands: one
// replica, which answers at once but to writes, and other nodes.
type stage struct {
	t  *testing.T
	v  *device.Volume
	mu sync.Mutex
	// held are writes that wait for the test to let the replica answer.
	held []*message.Sent
	// forwarded are requests to other nodes that wait for the test.
	forwarded []*message.Forwarded
	atOnce    bool // nothing waits for the test
	keep      int  // so many of the next reads are never answered
	guard     uint64
	gaveUp    chan uint64
	began     time.Time
	since     atomic.Int64
}

// Now is the volume's clock, and passes in a bubble as the time there does.
func (s *stage) Now() clock.Mono { return clock.Mono(time.Hour + time.Since(s.began)) }

func newStage(t *testing.T, patience time.Duration) *stage {
	return newStageFor(t, patience, time.Hour, time.Hour)
}

func newStageWith(t *testing.T, patience, late time.Duration) *stage {
	return newStageFor(t, patience, late, 50*time.Millisecond)
}

// newStageFor has hosts wait for the replica for op.
func newStageFor(t *testing.T, patience, late, op time.Duration) *stage {
	s := &stage{t: t, gaveUp: make(chan uint64, 8), began: time.Now()}
	v, err := device.New(device.Config{
		ID: volumeID, SizeBytes: volumeBytes, BlockSize: 4096, Layout: striped{2}, MinInSync: 1, Transport: s, Meta: s, Clock: s,
		Guard: func() uint64 { return s.guard }, GiveUp: func(epoch uint64) { s.gaveUp <- epoch }, Patience: patience, Late: late, Since: func(clock.Mono) clock.Mono { return clock.Mono(s.since.Load()) }, Timeouts: device.Timeouts{Op: op, Request: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.v = v
	t.Cleanup(func() { v.Close() })
	return s
}

func (s *stage) own(epoch uint64) { s.ownFor(epoch, time.Hour) }

func (s *stage) ownFor(epoch uint64, d time.Duration) *testLease {
	l := &testLease{}
	l.until.Store(int64(s.Now().Add(d)))
	m := device.Members{View: volume.View{Revision: epoch, Epoch: epoch, Members: []volume.Member{{Sync: volume.InSync}}}, Disks: []uint16{10}}
	if err := s.v.Own(l, 0, m, 0); err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *stage) Propose([16]byte, volume.Proposal) {}

func (s *stage) Send(m *message.Sent) {
	m.Lost, m.Response = false, replica.Response{ID: m.Request.ID, Status: replica.OK, Epoch: m.Request.Epoch, Boot: 1}
	if q := &m.Request; q.Kind == replica.Read { // all is zeroes that nobody wrote
		m.Response.Vers = make([]replica.Version, (q.Off+q.Len-1)>>16-q.Off>>16+1)
		if s.keep > 0 {
			s.keep--
			return
		}
	}
	if m.Request.Kind.Changes() && !s.atOnce {
		s.mu.Lock()
		s.held = append(s.held, m)
		s.mu.Unlock()
		return
	}
	m.Done(m)
}

func (s *stage) Forward(f *message.Forwarded) {
	f.Lost, f.NotSent = false, false
	if s.atOnce {
		answer(f, message.Done)
		return
	}
	s.mu.Lock()
	s.forwarded = append(s.forwarded, f)
	s.mu.Unlock()
}

// replicaAnswers lets the replica answer the writes that it has: one at least.
func (s *stage) replicaAnswers() {
	s.soon(func() bool { return s.writes() > 0 })
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	for _, m := range held {
		m.Done(m)
	}
}

// next is the next request that was forwarded.
func (s *stage) next() *message.Forwarded {
	s.t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		s.mu.Lock()
		if len(s.forwarded) > 0 {
			f := s.forwarded[0]
			s.forwarded = s.forwarded[1:]
			s.mu.Unlock()
			return f
		}
		s.mu.Unlock()
		if time.Now().After(end) {
			s.t.Fatal("nothing was forwarded")
		}
		time.Sleep(time.Millisecond) // sleep: until a timer of the volume has run
	}
}

func answer(f *message.Forwarded, status message.HostStatus) {
	f.Answer = message.HostAnswer{Status: status}
	f.Done(f)
}

// soon waits until ok: a timer of the owner may be at work, and do on its own
// goroutine what the test has caused.
func (s *stage) soon(ok func() bool) bool {
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			return false
		}
		time.Sleep(time.Millisecond) // sleep: until the other goroutine is done
	}
	return true
}

// writes is how many writes the replica has that wait for the test.
func (s *stage) writes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// waiting waits until n requests wait for an owner.
func (s *stage) waiting(n int, when string) {
	s.t.Helper()
	if !s.soon(func() bool { return s.v.Status().Waiting == n }) {
		s.t.Errorf("%d requests wait %s, want %d", s.v.Status().Waiting, when, n)
	}
}

// status is how a request of another node was answered: 0 while it was not.
type status struct{ atomic.Uint32 }

// serve gives a request of another node to the volume. The result shows its
// answer.
func (s *stage) serve(h message.Host) *status {
	status := &status{}
	h.Volume = volumeID
	if h.Op == blockdev.OpWrite || h.Op == blockdev.OpCompareAndWrite {
		h.Len, h.Data = 4096, make([]byte, 4096)
	}
	in := &message.Incoming{From: "b", Request: h, Done: func(in *message.Incoming) {
		status.Store(uint32(in.Answer.Status))
		in.Release()
	}}
	s.v.Serve(in)
	return status
}

func (s *stage) want(what string, got *status, want message.HostStatus) {
	s.t.Helper()
	if !s.soon(func() bool { return got.Load() == uint32(want) }) {
		s.t.Errorf("%s: answered %d, want %d", what, got.Load(), want)
	}
}

// submit starts a request of a host here. done shows when it has ended.
func (s *stage) submit(op blockdev.Op) (r *blockdev.Request, done chan struct{}) {
	done = make(chan struct{})
	r = &blockdev.Request{Op: op, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(*blockdev.Request) { close(done) }}
	if op == blockdev.OpCompareAndWrite {
		r.Data = append(r.Data, make([]byte, 4096))
	}
	s.v.Submit([]*blockdev.Request{r})
	return r, done
}

// A new session is granted when nothing of the older one is under way, and
// nothing of the older one is taken from then on. So what a node sends again
// in the new one is not followed by a first copy.
func TestNewSessionWaitsForTheOld(t *testing.T) {
	s := newStage(t, time.Hour)
	s.want("without an owner", s.serve(message.Host{Session: 1}), message.NotOwner)
	s.own(1)
	write := message.Host{Op: blockdev.OpWrite, Session: 1}
	s.want("without a session", s.serve(write), message.NoSession)
	s.want("first session", s.serve(message.Host{Session: 1}), message.Done)
	first := s.serve(write)
	s.want("while the replica has it", first, 0)
	second := s.serve(message.Host{Session: 2})
	s.want("second session while a write of the first is under way", second, 0)
	s.want("late copy of the first session", s.serve(write), message.NoSession)
	write.Session = 2
	s.want("in a session that was not granted yet", s.serve(write), message.NoSession)
	s.want("repeated attempt", s.serve(message.Host{Session: 2}), message.NoSession)
	s.replicaAnswers()
	s.want("write of the first session", first, message.Done)
	s.want("second session", second, message.Done)
	write.Session = 1
	s.want("later copy of the first session", s.serve(write), message.NoSession)
	write.Session = 2
	again := s.serve(write)
	s.replicaAnswers()
	s.want("in the second session", again, message.Done)
}

// A session ends with the lease: another owner on the same node doesn't know it.
func TestSessionEndsWithTheLease(t *testing.T) {
	s := newStage(t, time.Hour)
	s.own(1)
	s.want("session", s.serve(message.Host{Session: 1}), message.Done)
	write := s.serve(message.Host{Op: blockdev.OpWrite, Session: 1})
	s.own(2)
	s.want("write that the owner has ended with", write, message.Unresolved)
	s.replicaAnswers()
	s.want("in a session of the lease before", s.serve(message.Host{Op: blockdev.OpWrite, Session: 1}), message.NoSession)
}

// What was let pass by older reservations is refused.
func TestOldReservationsAreRefused(t *testing.T) {
	s := newStage(t, time.Hour)
	s.own(1)
	s.guard = 5
	s.want("session", s.serve(message.Host{Session: 1}), message.Done)
	s.want("older", s.serve(message.Host{Op: blockdev.OpWrite, Session: 1, Guard: 4}), message.Behind)
	same := s.serve(message.Host{Op: blockdev.OpWrite, Session: 1, Guard: 5})
	s.replicaAnswers()
	s.want("the same", same, message.Done)

	s.v.Disown()
	s.v.Forward("b")
	r, done := s.submit(blockdev.OpWrite)
	answer(s.next(), message.Done)
	f := s.next()
	if f.Request.Guard != 5 {
		t.Errorf("forwarded with guard %d, want 5", f.Request.Guard)
	}
	answer(f, message.Behind)
	<-done
	if !errors.Is(r.Err, blockdev.ErrBusy) {
		t.Errorf("the host is told %v, want that it should come again", r.Err)
	}
}

// What waited for an owner was let pass by the reservations of then: if there are newer ones it
// is not begun, whether the owner is here or elsewhere. Nor is it begun again.
func TestReservationsChangeWhileRequestsWait(t *testing.T) {
	for _, op := range append(changes, blockdev.OpRead) {
		for _, elsewhere := range []bool{false, true} {
			s := newStage(t, time.Hour)
			s.guard = 5
			older, olderDone := s.submit(op)
			s.guard = 6
			if elsewhere {
				s.v.Forward("b")
			} else {
				s.own(1)
			}
			s.wantBusy(op.String()+" by older reservations", older, olderDone)
			if older.Err == nil || !strings.Contains(older.Err.Error(), "reservations") || s.writes() != 0 {
				t.Errorf("%v, elsewhere %v: %v, and the replica has %d writes", op, elsewhere, older.Err, s.writes())
			}
		}
	}

	s := newStage(t, time.Hour)
	s.guard = 5
	r, done := s.submit(blockdev.OpWrite)
	s.own(1)
	s.replicaAnswers()
	<-done
	if r.Err != nil {
		t.Errorf("by the same reservations: %v", r.Err)
	}

	r, done = s.submit(blockdev.OpWrite)
	s.soon(func() bool { return s.writes() == 1 })
	s.v.Disown() // the write is sent, and not answered
	s.waiting(1, "after the end of the owner")
	s.guard = 6
	s.own(2)
	s.wantBusy("that would be begun again", r, done)
	if s.writes() != 1 {
		t.Errorf("the replica has %d writes, want that of the first owner", s.writes())
	}
	s.replicaAnswers()
}

// What had no answer is sent again, in a newer session only.
func TestLostRequestsAreSentAgainInANewSession(t *testing.T) {
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpUnmap} {
		s := newStage(t, time.Hour)
		s.v.Forward("b")
		r, done := s.submit(op)
		open := s.next()
		answer(open, message.NotOwner) // it has not heard of its lease yet
		open = s.next()
		if open.Request.Op != 0 {
			t.Fatalf("%v: sent without a session", op)
		}
		session := open.Request.Session
		answer(open, message.Done)
		f := s.next()
		if f.Request.Op != op || f.Request.Session != session {
			t.Fatalf("%v: sent %v in session %d, want %d", op, f.Request.Op, f.Request.Session, session)
		}
		f.Lost = true
		f.Done(f)
		open = s.next()
		if open.Request.Op != 0 || open.Request.Session <= session {
			t.Fatalf("%v: after a loss %v was sent in session %d, want the beginning of one after %d", op, open.Request.Op, open.Request.Session, session)
		}
		session = open.Request.Session
		answer(open, message.Done)
		f = s.next()
		if f.Request.Session != session {
			t.Fatalf("%v: sent again in session %d, want %d", op, f.Request.Session, session)
		}
		f.Answer = message.HostAnswer{Status: message.Done}
		if op == blockdev.OpRead {
			f.Answer.Data = make([]byte, 4096)
		}
		f.Done(f)
		<-done
		if r.Err != nil {
			t.Errorf("%v: %v", op, r.Err)
		}
	}
}

// A compare-and-write is sent again only if the owner can't have done it.
func TestCompareAndWriteIsNotDoneTwice(t *testing.T) {
	for name, c := range map[string]struct {
		answer func(*message.Forwarded)
		again  bool
	}{
		"refused":    {func(f *message.Forwarded) { answer(f, message.NoSession) }, true},
		"not sent":   {func(f *message.Forwarded) { f.Lost, f.NotSent = true, true; f.Done(f) }, true},
		"lost":       {func(f *message.Forwarded) { f.Lost = true; f.Done(f) }, false},
		"unresolved": {func(f *message.Forwarded) { answer(f, message.Unresolved) }, false},
	} {
		s := newStage(t, time.Hour)
		s.v.Forward("b")
		r, done := s.submit(blockdev.OpCompareAndWrite)
		answer(s.next(), message.Done)
		f := s.next()
		c.answer(f)
		if c.again {
			answer(s.next(), message.Done)
			answer(s.next(), message.Done)
		}
		<-done
		if c.again != (r.Err == nil) || r.Err != nil && !errors.Is(r.Err, blockdev.ErrIO) {
			t.Errorf("%s: %v", name, r.Err)
		}
	}

	// With the owner here: it ends while the replica has the write.
	s := newStage(t, time.Hour)
	s.own(1)
	r, done := s.submit(blockdev.OpCompareAndWrite)
	if !s.soon(func() bool { return s.writes() == 1 }) {
		t.Fatalf("the replica has %d writes, want that of the compare-and-write: %+v", s.writes(), s.v.Status().Volume.Members)
	}
	s.v.Disown()
	<-done
	if !errors.Is(r.Err, blockdev.ErrIO) {
		t.Errorf("after the owner's end: %v", r.Err)
	}
	s.replicaAnswers()
}

// A compare-and-write of two pieces, of which one is written and the other can't be begun,
// since a read holds its lock, ends with an error that does not have it sent again.
func TestCompareAndWriteInPartIsNotDoneTwice(t *testing.T) {
	const boundary = 1 << 20 // of two pieces
	submit := func(s *stage, op blockdev.Op, off int64, data ...[]byte) (*blockdev.Request, chan struct{}) {
		done := make(chan struct{})
		r := &blockdev.Request{Op: op, Offset: off, Length: int64(len(data[0])), Data: data, Done: func(*blockdev.Request) { close(done) }}
		s.v.Submit([]*blockdev.Request{r})
		return r, done
	}
	for name, then := range map[string]func(s *stage){
		"another owner": func(s *stage) { s.own(2) },
		"too late":      func(s *stage) {}, // when time has passed
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStageFor(t, time.Hour, time.Hour, 50*time.Millisecond)
				s.own(1)
				s.keep = 1
				_, read := submit(s, blockdev.OpRead, boundary, make([]byte, 4096))
				r, done := submit(s, blockdev.OpCompareAndWrite, boundary-4096, make([]byte, 8192), bytes.Repeat([]byte{1}, 8192))
				if !s.soon(func() bool { return s.writes() == 1 }) {
					t.Fatal("the first piece was not sent")
				}
				s.replicaAnswers()
				then(s)
				select {
				case <-done:
				case <-time.After(time.Second):
					t.Fatalf("it goes on, and %d pieces are written more", s.writes())
				}
				if !errors.Is(r.Err, blockdev.ErrIO) || s.writes() != 0 {
					t.Errorf("%v, and %d pieces written more; want an I/O error", r.Err, s.writes())
				}
				<-read
			})
		})
	}

	// What differs in the second piece is found before the first one is written.
	s := newStage(t, time.Hour)
	s.own(1)
	old := make([]byte, 8192)
	old[8191] = 1
	r, done := submit(s, blockdev.OpCompareAndWrite, boundary-4096, old, make([]byte, 8192))
	<-done
	if !errors.Is(r.Err, blockdev.ErrMiscompare) || s.writes() != 0 {
		t.Errorf("%v, and %d pieces written; want that the data differs", r.Err, s.writes())
	}
}

// While nobody owns the volume requests wait, not for ever, and go on with the
// next owner.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, 50*time.Millisecond)
		r, done := s.submit(blockdev.OpWrite)
		<-done
		if !errors.Is(r.Err, blockdev.ErrBusy) {
			t.Errorf("after the end of patience: %v", r.Err)
		}

		s = newStage(t, time.Hour)
		r, done = s.submit(blockdev.OpWrite)
		s.own(1)
		s.v.Disown() // the write is sent, and not answered
		s.waiting(1, "after the end of the owner")
		s.own(2)
		s.soon(func() bool { return s.writes() == 2 }) // that of the first owner, and of this one
		s.replicaAnswers()
		<-done
		if r.Err != nil {
			t.Errorf("with the next owner: %v", r.Err)
		}
	})
}

// A host that has had no answer for long may have sent a write by another path, and
// newer ones after it: a node that was cut off must not do it then. A read
// that nobody waits for harms nobody.
func TestWhatIsLateIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpCompareAndWrite} {
			late := op != blockdev.OpRead
			s := newStageWith(t, time.Hour, 50*time.Millisecond)
			s.v.Forward("b")
			r, done := s.submit(op)
			open := s.next() // the owner can't be reached
			if late {
				<-done
				if !errors.Is(r.Err, blockdev.ErrBusy) {
					t.Errorf("%v: waits for a session: %v", op, r.Err)
				}
			} else {
				answer(open, message.Done)
				f := s.next()
				f.Answer = message.HostAnswer{Status: message.Done, Data: make([]byte, 4096)}
				f.Done(f)
				<-done
				if r.Err != nil {
					t.Errorf("%v: %v", op, r.Err)
				}
				continue
			}

			// What was sent, and is lost when it is late.
			s = newStageWith(t, time.Hour, 50*time.Millisecond)
			s.v.Forward("b")
			answerLater := time.After(100 * time.Millisecond)
			r, done = s.submit(op)
			answer(s.next(), message.Done)
			f := s.next()
			<-answerLater
			f.Lost, f.NotSent = true, true
			f.Done(f)
			<-done
			if !errors.Is(r.Err, blockdev.ErrBusy) {
				t.Errorf("%v: lost when it was late: %v", op, r.Err)
			}
		}
	})
}

// After a standstill of the process what came before its end is not begun.
func TestWhatCameBeforeAStandstillIsNotBegun(t *testing.T) {
	s := newStage(t, time.Hour)
	r, done := s.submit(blockdev.OpWrite)
	s.since.Store(int64(s.Now()))
	s.own(1)
	<-done
	if !errors.Is(r.Err, blockdev.ErrBusy) || len(s.held) != 0 {
		t.Errorf("%v, and the replica has %d writes", r.Err, len(s.held))
	}
	r, done = s.submit(blockdev.OpWrite)
	s.replicaAnswers()
	<-done
	if r.Err != nil {
		t.Errorf("what came later: %v", r.Err)
	}
	s.since.Store(int64(clock.Never))
	r, done = s.submit(blockdev.OpWrite)
	<-done
	if !errors.Is(r.Err, blockdev.ErrBusy) {
		t.Errorf("while the standstill is dealt with: %v", r.Err)
	}
}

// An owner whose lease is not renewed in time says so, once, and serves no more
// though a renewal should follow.
func TestLateRenewalGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, time.Hour)
		l := s.ownFor(3, 30*time.Millisecond)
		select {
		case epoch := <-s.gaveUp:
			if epoch != 3 {
				t.Errorf("gave up epoch %d, want 3", epoch)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("did not give up")
		}
		l.until.Store(int64(s.Now().Add(time.Hour)))
		r, done := s.submit(blockdev.OpRead)
		s.waiting(1, "for the next owner")
		s.own(4)
		<-done
		if r.Err != nil {
			t.Errorf("with the next owner: %v", r.Err)
		}
		if n := len(s.gaveUp); n != 0 {
			t.Errorf("gave up %d times more", n)
		}
	})
}

// A host that was told to come again has its memory back, while a replica is
// still being sent to: what that gets is what was written.
func TestTimedOutWriteKeepsItsData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStageFor(t, time.Hour, time.Hour, 50*time.Millisecond)
		s.own(1)
		write := func(off int64, fill byte) *blockdev.Request {
			data := bytes.Repeat([]byte{fill}, 4096)
			done := make(chan struct{})
			r := &blockdev.Request{Op: blockdev.OpWrite, Offset: off, Length: 4096, Data: [][]byte{data}, Done: func(*blockdev.Request) { close(done) }}
			s.v.Submit([]*blockdev.Request{r})
			<-done
			clear(data) // it is the host's again
			return r
		}
		for i := range int64(8) {
			if r := write(i*4096, byte(i+1)); !errors.Is(r.Err, blockdev.ErrBusy) {
				t.Fatalf("a write that no replica has answered: %v", r.Err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.held) != 8 {
			t.Fatalf("the replica has %d writes, want 8", len(s.held))
		}
		for i, m := range s.held {
			if want := bytes.Repeat([]byte{byte(i + 1)}, 4096); !bytes.Equal(m.Request.Data, want) {
				t.Errorf("write %d is sent with other data, which begins with %d", i+1, m.Request.Data[0])
			}
		}
	})
}
