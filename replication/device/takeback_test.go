package device_test

import (
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/blockdev"
)

// What waits for an owner can be taken back, and then is not done when there is one; what it has begun can't.
func TestTakeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, time.Hour)
		request := func(off int64) (*blockdev.Request, *bool) {
			ended := new(bool)
			return &blockdev.Request{Op: blockdev.OpWrite, Offset: off, Length: 4096, Data: [][]byte{make([]byte, 4096)},
				Done: func(*blockdev.Request) { *ended = true }}, ended
		}
		a, endedA := request(0)
		b, endedB := request(8192)
		s.v.Submit([]*blockdev.Request{a, b})
		is := func(r *blockdev.Request) func(*blockdev.Request) bool {
			return func(q *blockdev.Request) bool { return q == r }
		}
		if !s.v.TakeBack(is(a)) || s.v.TakeBack(is(a)) || s.v.Status().Waiting != 1 {
			t.Fatalf("%d wait", s.v.Status().Waiting)
		}
		s.own(1)
		synctest.Wait()
		if s.v.TakeBack(is(b)) {
			t.Error("what the owner has begun was taken back")
		}
		if n := s.writes(); n != 1 {
			t.Errorf("the replica has %d writes, want 1", n)
		}
		// An owner has begun it, and has ended: it may have been done.
		s.v.Disown()
		synctest.Wait()
		if s.v.Status().Waiting != 1 || s.v.TakeBack(is(b)) {
			t.Errorf("%d wait; what may have been done was taken back", s.v.Status().Waiting)
		}
		s.own(2)
		s.atOnce = true
		s.replicaAnswers()
		synctest.Wait()
		if *endedA || !*endedB {
			t.Errorf("ended: %v and %v, want the second one", *endedA, *endedB)
		}
	})
}
