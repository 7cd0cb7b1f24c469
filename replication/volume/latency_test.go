package volume

import (
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// after lets d pass, and a replica answer then; held is for how long its node had the request.
func (b *bench) after(d time.Duration, s sent, held time.Duration) {
	b.now = b.now.Add(d)
	b.answer(s, replica.Response{Status: replica.OK, Last: uint64(held)})
}

// counted checks that a stage has counted one thing of so long.
func counted(t *testing.T, stage string, l Latency, want time.Duration) {
	t.Helper()
	if l.Count != 1 || l.Sum != want || l.Max != want {
		t.Errorf("%s: %d of %v in all, %v at most; want one of %v", stage, l.Count, l.Sum, l.Max, want)
	}
}

// A write's time is told by stage: until the lock, to the slowest of the other replicas, and for how
// long the node of that one had it. What the local replica takes is no part of that.
func TestWriteStages(t *testing.T) {
	b := serves(t) // replica 1 is local
	first, second := writeAt(0), writeAt(0)
	b.o.Submit(b.now, first)
	writes := b.take(replica.Write)
	b.now = b.now.Add(time.Millisecond)
	b.o.Submit(b.now, second)
	b.after(0, writes[0], 700*time.Microsecond)
	b.after(time.Millisecond, writes[2], 500*time.Microsecond) // 2 ms after it began
	b.after(3*time.Millisecond, writes[1], 0)
	b.only(first, nil)
	st := b.o.Status()
	counted(t, "others", st.Others, 2*time.Millisecond)
	counted(t, "node of the slowest", st.OtherNode, 500*time.Microsecond)
	counted(t, "slowest of all", st.Slow, 5*time.Millisecond)
	counted(t, "local", st.Members[1].Writes, 5*time.Millisecond)
	if st.LockWrites.Count != 2 || st.LockWrites.Max != 4*time.Millisecond || st.LockReads.Count != 0 || st.Lock.Count != 2 || st.Lock.Max != 4*time.Millisecond {
		t.Errorf("until the lock: %v, %v; want the second to have waited 4 ms for the first", st.LockWrites.Max, st.Lock.Max)
	}

	// A replica of an older version tells nothing, and one that tells what can't be isn't believed.
	writes = b.take(replica.Write)
	b.after(0, writes[1], 0)
	b.after(time.Millisecond, writes[0], 0)
	b.after(time.Millisecond, writes[2], time.Hour)
	b.only(second, nil)
	if st := b.o.Status(); st.OtherNode.Count != 1 || st.Others.Count != 2 {
		t.Errorf("%d of %d writes count with the time at the slowest's node, want 1 of 2", st.OtherNode.Count, st.Others.Count)
	}
}

// A read counts at the replica that it is answered by, and as hedged when a second one was asked.
func TestReadStages(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Read, Data: make([]byte, 8)}
	b.o.Submit(b.now, op)
	reads := b.take(replica.Read)
	if len(reads) != 1 || reads[0].disk != 1 {
		t.Fatalf("asked %+v, want the local replica", reads)
	}
	b.answer(reads[0], replica.Response{Status: replica.OK, Data: make([]byte, 8)})
	b.only(op, nil)
	if st := b.o.Status(); st.Hedged.Count != 0 || st.LockReads.Count != 1 || st.Members[1].Reads.Count != 1 {
		t.Errorf("%d hedged, %d locked, %d read here", st.Hedged.Count, st.LockReads.Count, st.Members[1].Reads.Count)
	}
	b.o.Submit(b.now, op)
	b.take(replica.Read)
	b.pass(testConfig.HedgeAfter)
	reads = b.take(replica.Read)
	if len(reads) != 1 || reads[0].disk == 1 {
		t.Fatalf("asked %+v, want another replica", reads)
	}
	b.now = b.now.Add(2 * time.Millisecond)
	b.answer(reads[0], replica.Response{Status: replica.OK, Data: make([]byte, 8), Last: uint64(time.Millisecond)})
	b.only(op, nil)
	st := b.o.Status()
	counted(t, "hedged", st.Hedged, testConfig.HedgeAfter+2*time.Millisecond)
	counted(t, "the other replica", st.Members[reads[0].disk].Reads, 2*time.Millisecond)
	counted(t, "its node", st.Members[reads[0].disk].ReadsNode, time.Millisecond)
}

// A replica that is brought back tells for how long, one that isn't tells nothing.
func TestRebuildingTellsForHowLong(t *testing.T) {
	b := begins(t, testConfig, Member{Sync: InSync, Gen: 1}, Member{Sync: InSync, Gen: 1}, Member{Sync: Out, Gen: 2})
	b.fenced(ok, 0, 1, 2)
	began := b.now
	b.pass(30 * time.Millisecond)
	for d, m := range b.o.Status().Members {
		if want := b.now.Sub(began); d == 2 && m.Rebuilding != want || d != 2 && m.Rebuilding != 0 {
			t.Errorf("replica %d has been brought back for %v", d, m.Rebuilding)
		}
	}
}

// A Meter counts what a Latency does, from any goroutine.
func TestMeter(t *testing.T) {
	var m Meter
	var want Latency
	done := make(chan struct{})
	for g := range 4 {
		go func() {
			for i := range 1000 {
				m.Add(time.Duration(i*4+g) * time.Microsecond)
			}
			done <- struct{}{}
		}()
	}
	for i := range 4000 {
		want.add(time.Duration(i) * time.Microsecond)
	}
	for range 4 {
		<-done
	}
	if got := m.Latency(); got != want {
		t.Errorf("mean %v, max %v, %d; want %v, %v, %d", got.Mean(), got.Max, got.Count, want.Mean(), want.Max, want.Count)
	}
	var twice Latency
	twice.Merge(&want)
	twice.Merge(&want)
	if twice.Count != 8000 || twice.Mean() != want.Mean() || twice.Quantile(0.5) != want.Quantile(0.5) {
		t.Errorf("twice the same: %d, mean %v", twice.Count, twice.Mean())
	}
}
