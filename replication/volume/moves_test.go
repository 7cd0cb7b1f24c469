package volume

import (
	"testing"

	"blockd.dev/replication/replica"
)

// moving is an owner of two extents: the first is on members 0 and 1 and is moved to 2,
// which keeps the second one with 1.
func moving(t *testing.T) *bench {
	c := testConfig
	c.Sets = func(extent int64) []int { return [][]int{{0, 1}, {1, 2}}[extent] }
	c.Arriving = func(extent int64) int { return []int{2, -1}[extent] }
	c.ArrivingSince, c.CompareRegions = 3, 2
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, c, in, in, in)
	for _, s := range b.sent {
		if to2 := s.disk == 2; to2 != (s.q.Gen == 3 && len(s.q.Arriving) == 1 && s.q.Arriving[0] == replica.Range{Len: 64}) || to2 != (s.q.Gen != 0) {
			t.Fatalf("fence of member %d: %+v, want that the first extent arrives at member 2 since epoch 3", s.disk, s.q)
		}
	}
	b.fenced(replica.Response{}, 0, 1, 2)
	return b
}

// only1 takes the only request of a kind.
func (b *bench) only1(kind replica.Kind) sent {
	b.t.Helper()
	list := b.take(kind)
	if len(list) != 1 {
		b.t.Fatalf("%d requests of kind %d: %+v, want one", len(list), kind, list)
	}
	return list[0]
}

var same = replica.Version{Epoch: 1, Seq: 1}

// compared has the second region of the extent found different, and returns the read of it.
func (b *bench) compared() (read sent) {
	b.t.Helper()
	b.answer(b.only1(replica.Versions), replica.Response{Status: replica.OK, Vers: []replica.Version{same, same}})
	confirm := b.only1(replica.Confirm)
	if confirm.disk != 2 || confirm.q.Gen != 3 || confirm.q.Off != 0 || confirm.q.Len != 64 {
		b.t.Fatalf("compares by %+v", confirm)
	}
	b.answer(confirm, replica.Response{Status: replica.OK, Differ: []int64{32}})
	if read = b.only1(replica.Read); read.disk == 2 {
		b.t.Fatal("what arrives is read from where it arrives")
	}
	return read
}

// copied has it copied.
func (b *bench) copied(read sent) {
	b.t.Helper()
	b.answer(read, replica.Response{Status: replica.OK, Data: make([]byte, 32), Vers: []replica.Version{same}})
	copied := b.only1(replica.Copy)
	if copied.disk != 2 || copied.q.Gen != 3 || copied.q.Off != 32 || copied.q.Ver != same {
		b.t.Fatalf("copies by %+v", copied)
	}
	if a := b.o.Status().Members[2].Arriving; a != (Arriving{Regions: 2, Left: 1}) {
		b.t.Fatalf("%+v has arrived before the answer, want one of two regions", a)
	}
	b.answer(copied, replica.Response{Status: replica.OK})
}

// begun sends a write to the first extent, which all but some members answer.
func (b *bench) begun(op *Op, but int) (left sent) {
	b.t.Helper()
	b.o.Submit(b.now, op)
	list := b.take(replica.Write)
	if len(list) != 3 {
		b.t.Fatalf("written to %+v, want the set and where it arrives", list)
	}
	for _, s := range list {
		if s.disk == but {
			left = s
			continue
		}
		b.answer(s, replica.Response{Status: replica.OK})
	}
	return left
}

// The target of a move takes each write, and is not missed when it is away; once
// the move may be finished it is. [I11] Only a view that says that it came to nothing ends that.
func TestMove(t *testing.T) {
	b := moving(t)
	b.compared()
	op := writeAt(0)
	if left := b.begun(op, 2); left.q.Gen != 3 {
		t.Errorf("a bare write without the generation of the move: %+v", left.q)
	}
	b.o.Unreachable(b.now, 2)
	b.only(op, nil) // without the target
	b.pass(testConfig.RetryAfter)
	b.fenced(replica.Response{}, 2)
	if len(b.proposed) != 0 {
		t.Fatalf("proposed %+v before all has arrived", b.proposed)
	}
	b.copied(b.compared())
	finish := Proposal{Change: Finish, Disk: 2, Epoch: 3, Gen: 1}
	if len(b.proposed) != 1 || b.proposed[0] != finish {
		t.Fatalf("proposed %+v, want %+v", b.proposed, finish)
	}

	b.o.Unreachable(b.now, 2)
	b.pass(testConfig.RetryAfter)
	if f := b.only1(replica.Fence); f.disk != 2 || f.q.Gen != 0 || len(f.q.Arriving) != 0 {
		t.Errorf("fence of what may be in the set by now: %+v", f.q)
	}
	op = writeAt(0)
	b.o.Submit(b.now, op)
	for _, s := range b.take(replica.Write) {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	if len(b.complete) != 0 {
		t.Fatal("acknowledged without the target of a move that may be finished")
	}
	in := Member{Sync: InSync, Gen: 1}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: InSync, Gen: 2}}})
	b.only(op, nil)
}

// [I9]: an owner that drains waits also for where extents arrive: that is told the
// watermark, so it has to have what is below.
func TestDrainWaitsForWhatArrives(t *testing.T) {
	b := moving(t)
	b.compared()
	op := writeAt(0)
	left := b.begun(op, 2)
	b.o.Drain(b.now)
	for _, s := range b.take(replica.Stable) {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	if b.o.Over() || len(b.complete) != 0 {
		t.Fatal("over before the target of a move has answered")
	}
	b.answer(left, replica.Response{Status: replica.OK})
	b.only(op, nil)
}
