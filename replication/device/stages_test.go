package device_test

import (
	"testing"
	"testing/synctest"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
)

// A request that had to wait for an owner counts with that where the owner is, once, whatever number
// of pieces it has; one that went to an owner elsewhere counts with all that it took.
func TestTimesBeforeAndBesideTheOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, time.Hour)
		s.atOnce = true
		submit := func(op blockdev.Op, off, n int64) chan struct{} {
			done := make(chan struct{})
			s.v.Submit([]*blockdev.Request{{Op: op, Offset: off, Length: n, Data: [][]byte{make([]byte, n)}, Done: func(*blockdev.Request) { close(done) }}})
			return done
		}
		wrote := submit(blockdev.OpWrite, 1<<20-4096, 8192) // two pieces
		time.Sleep(3 * time.Millisecond)                    // sleep: in a bubble
		s.own(1)
		<-wrote
		read := submit(blockdev.OpRead, 0, 4096)
		<-read
		st := s.v.Status()
		if q := st.Queued; q.Writes.Count != 1 || q.Writes.Max != 3*time.Millisecond || q.Reads.Count != 1 || q.Reads.Max != 0 {
			t.Errorf("queued: %d writes, %v; %d reads, %v; want one of 3 ms, and one of none", q.Writes.Count, q.Writes.Max, q.Reads.Count, q.Reads.Max)
		}
		if st.Sent.Writes.Count != 0 {
			t.Error("an owner counts as a node that forwards")
		}

		s.v.Disown()
		s.v.Forward("b")
		s.atOnce = false
		wrote = submit(blockdev.OpWrite, 0, 4096)
		answer(s.next(), message.Done) // the session
		f := s.next()
		time.Sleep(2 * time.Millisecond) // sleep: in a bubble
		answer(f, message.Done)
		<-wrote
		wrote = submit(blockdev.OpWrite, 0, 4096)
		answer(s.next(), message.Failed)
		<-wrote
		st = s.v.Status()
		if n := st.Sent; n.Writes.Count != 1 || n.Writes.Max != 2*time.Millisecond || n.Reads.Count != 0 {
			t.Errorf("forwarded: %d writes, %v; want the one that was done, of 2 ms", n.Writes.Count, n.Writes.Max)
		}
	})
}

// The nodes of the other replicas tell the owner for how long they had its requests, over the network.
func TestNodesTellTheirTime(t *testing.T) {
	c := newCluster(t, options{memory: true})
	c.meta.grant(c.nodes[0])
	v := c.nodes[0].vol
	for i := range int64(20) {
		if err := blockdev.WriteAt(v, make([]byte, 4096), i*4096); err != nil {
			t.Fatal(err)
		}
	}
	st := v.Status().Volume
	if st.Others.Count == 0 || st.OtherNode.Count != st.Others.Count || st.OtherNode.Sum <= 0 || st.OtherNode.Sum >= st.Others.Sum {
		t.Errorf("%d writes waited for others, %v; of %d of them the others' nodes tell, %v", st.Others.Count, st.Others.Sum, st.OtherNode.Count, st.OtherNode.Sum)
	}
}
