package volume

import (
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// outOf tells whether MarkOut of a member was proposed.
func (b *bench) outOf(member int) bool {
	for _, p := range b.proposed {
		if p.Change == MarkOut && p.Disk == member {
			return true
		}
	}
	return false
}

// busy has hosts write without a break, in d; hold says what stays without an answer. What was held,
// and the sessions that were begun, come back.
func (b *bench) busy(d time.Duration, hold func(s sent) bool) (held []sent, fences int) {
	b.t.Helper()
	for end := b.now.Add(d); b.now < end; b.pass(5 * time.Millisecond) {
		b.o.Submit(b.now, writeAt(64))
		for len(b.sent) > 0 {
			s := b.sent[0]
			b.sent = b.sent[1:]
			if s.q.Kind == replica.Fence {
				fences++
			}
			if hold(s) {
				held = append(held, s)
			} else {
				b.answer(s, ok)
			}
		}
	}
	return held, fences
}

// A replica that answers others keeps its session though one request takes long: not for ever, though,
// since a host waits.
func TestOneSlowRequest(t *testing.T) {
	b := serves(t)
	slow := func(s sent) bool { return s.disk == 2 && s.q.Off == 0 && s.q.Kind == replica.Write }
	op := writeAt(0)
	b.o.Submit(b.now, op)
	held, fences := b.busy(testConfig.RequestTimeout*5/2, slow)
	if fences != 0 || len(held) != 1 || len(b.proposed) != 0 {
		t.Fatalf("%d sessions begun, %d requests held, proposed %+v; want nothing but one slow write", fences, len(held), b.proposed)
	}
	b.answer(held[0], ok)
	if b.complete[len(b.complete)-1] != op || op.Err != nil {
		t.Fatalf("the slow write ended with %v", op.Err)
	}

	b.o.Submit(b.now, writeAt(0))
	if _, fences = b.busy(requestLimit*testConfig.RequestTimeout-10*time.Millisecond, slow); fences != 0 || b.outOf(2) {
		t.Fatalf("%d sessions begun, proposed %+v before the limit", fences, b.proposed)
	}
	if b.busy(20*time.Millisecond, slow); !b.outOf(2) {
		t.Errorf("proposed %+v, want to do without the replica that keeps a write to itself", b.proposed)
	}
}

// A disk writes no more, and reads are answered, from memory perhaps: it is out in bounded time.
func TestWritesHangThoughReadsDoNot(t *testing.T) {
	b := serves(t)
	b.o.Submit(b.now, writeAt(0))
	hung := func(s sent) bool {
		return s.disk == 1 && s.q.Kind != replica.Read && s.q.Kind != replica.Stable
	}
	reads := 0
	for b.now < 1e9 && !b.outOf(1) {
		b.o.Submit(b.now, readAt(32))
		b.busy(5*time.Millisecond, func(s sent) bool {
			if s.disk == 1 && s.q.Kind == replica.Read {
				reads++
			}
			return hung(s)
		})
	}
	if took, want := b.now.Sub(1), requestLimit*testConfig.RequestTimeout; took > want+20*time.Millisecond || reads < 10 {
		t.Errorf("marked out after %v, with %d reads answered: want %v", took, reads, want)
	}
}

// A session in which a replica takes none of the writes that it owes is of no use: the next one is not waited for.
func TestSessionsOfNoUse(t *testing.T) {
	b := serves(t)
	b.o.Submit(b.now, writeAt(0))
	_, fences := b.busy(testConfig.OutAfter+testConfig.RequestTimeout*3/2, func(s sent) bool {
		return s.disk == 2 && s.q.Kind == replica.Write
	})
	if fences == 0 || !b.outOf(2) {
		t.Errorf("%d sessions, proposed %+v: want to do without a replica that begins sessions and writes nothing", fences, b.proposed)
	}
}

// What the owner has not heard since it stood still itself was perhaps said.
func TestOwnerStandsStill(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	writes := b.take(replica.Write)
	b.o.Unreachable(b.now, 0)
	b.pass(time.Second / 2)
	b.there()
	if fences := b.take(replica.Fence); len(fences) != 1 || fences[0].disk != 0 || len(b.proposed) != 0 {
		t.Fatalf("sent %+v, proposed %+v after standing still, want a new session with who was lost before", fences, b.proposed)
	}
	for _, s := range writes[1:] {
		b.answer(s, ok)
	}
	for end := b.now.Add(testConfig.OutAfter); b.now < end; b.pass(5 * time.Millisecond) {
		b.there()
		if b.outOf(0) {
			t.Fatalf("who is lost is marked out %v before OutAfter of watching is over", end.Sub(b.now))
		}
	}
	if !b.outOf(0) || b.outOf(1) || b.outOf(2) {
		t.Errorf("proposed %+v after OutAfter of watching, want to do without who is lost", b.proposed)
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: Out, Gen: 2}, {Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}}})
	b.only(op, nil)
}

// hold answers all but requests of a kind, which come back.
func (r *rebuilding) hold(d time.Duration, kind replica.Kind) (held []sent) {
	for end := r.now.Add(d); r.now < end; r.pass(time.Millisecond) {
		for len(r.sent) > 0 {
			s := r.sent[0]
			if r.sent = r.sent[1:]; s.q.Kind == kind {
				held = append(held, s)
			} else {
				r.bench.answer(s, whole(s, ok))
			}
		}
	}
	return held
}

// Nobody waits for a copy, so a replica has more time for it; what hosts write where it is made
// waits, so not for ever.
func TestSlowCopies(t *testing.T) {
	r := newRebuilding(t, broad(), nil)
	held := r.hold(testConfig.RequestTimeout*2, replica.Copy)
	if len(held) == 0 || r.o.conns[2].session != 1 {
		t.Fatalf("%d copies are slow, in session %d: want some in the first one", len(held), r.o.conns[2].session)
	}
	for _, s := range held {
		r.bench.answer(s, ok)
	}
	if !r.run(time.Second) || r.o.conns[2].session != 1 {
		t.Fatalf("not done in session %d", r.o.conns[2].session)
	}
	r = newRebuilding(t, broad(), nil)
	if r.hold(requestLimit*testConfig.RequestTimeout+50*time.Millisecond, replica.Copy); r.o.conns[2].session == 1 {
		t.Error("copies without an answer hold their regions for ever")
	}
}
