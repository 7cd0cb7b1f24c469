package device_test

import (
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
)

// What has to wait for another request of its range was let pass by the reservations of when it came.
// If there are newer ones once it can go on it changes nothing any more, whoever forwarded it: a
// host that has fenced another one does not wait for what came by a node that is down since.
func TestReservationsChangeWhileARangeIsLocked(t *testing.T) {
	for _, op := range []blockdev.Op{blockdev.OpWrite, blockdev.OpUnmap, blockdev.OpWriteZeroes} {
		s := newStage(t, time.Hour)
		s.own(1)
		s.guard = 5
		s.want("session", s.serve(message.Host{Session: 1}), message.Done)
		_, first := s.submit(blockdev.OpCompareAndWrite) // has the range for itself
		s.soon(func() bool { return s.writes() == 1 })
		forwarded := s.serve(message.Host{Op: op, Session: 1, Guard: 5, Len: 4096})
		r, done := s.submit(op)
		s.want(op.String()+" while the range is locked", forwarded, 0)
		s.guard, s.atOnce = 6, true
		s.replicaAnswers()
		<-first
		s.want(op.String()+" that was forwarded, by older reservations", forwarded, message.Failed)
		s.wantBusy(op.String()+" by older reservations", r, done)
		if r.Err != nil && !strings.Contains(r.Err.Error(), "reservations") {
			t.Errorf("%v: %v", op, r.Err)
		}
	}
}

// Nor is the rest of a long request begun, of which parts had to wait for others.
func TestReservationsChangeAmidALongRequest(t *testing.T) {
	s := newStage(t, time.Hour)
	s.own(1)
	s.guard = 5
	done := make(chan struct{})
	r := &blockdev.Request{Op: blockdev.OpWriteZeroes, Length: 32 * message.DataMax, Done: func(*blockdev.Request) { close(done) }}
	s.v.Submit([]*blockdev.Request{r})
	s.soon(func() bool { return s.writes() > 1 })
	s.guard, s.atOnce = 6, true
	s.replicaAnswers()
	s.wantBusy("the rest", r, done)
}
