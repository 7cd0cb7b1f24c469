package device_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/blockdev"
)

// What was held back for the limits of the volume is begun by the owner here however long that
// took, since all of the volume's requests were held in one queue; it is not after a
// standstill, nor sent to an owner elsewhere when it is late.
func TestWhatWasHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		submit := func(s *stage) (*blockdev.Request, chan struct{}) {
			done := make(chan struct{})
			r := &blockdev.Request{Op: blockdev.OpWrite, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Since: s.Now().Add(-time.Minute),
				Done: func(*blockdev.Request) { close(done) }}
			s.v.Submit([]*blockdev.Request{r})
			return r, done
		}
		s := newStageWith(t, time.Hour, 50*time.Millisecond)
		s.own(1)
		r, done := submit(s)
		s.replicaAnswers()
		<-done
		if r.Err != nil {
			t.Errorf("at the owner: %v", r.Err)
		}
		s.since.Store(int64(s.Now()))
		r, done = submit(s)
		<-done
		if !errors.Is(r.Err, blockdev.ErrBusy) {
			t.Errorf("after a standstill: %v", r.Err)
		}

		s = newStageWith(t, time.Hour, 50*time.Millisecond)
		s.v.Forward("b")
		r, done = submit(s)
		<-done
		if !errors.Is(r.Err, blockdev.ErrBusy) {
			t.Errorf("at a node that forwards: %v", r.Err)
		}
		s = newStageWith(t, time.Hour, 50*time.Millisecond)
		r, done = submit(s)
		<-done
		if !errors.Is(r.Err, blockdev.ErrBusy) {
			t.Errorf("without an owner: %v", r.Err)
		}
	})
}
