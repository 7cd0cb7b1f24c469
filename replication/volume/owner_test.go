package volume

import (
	"bytes"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

var testConfig = Config{
	BlockBytes: 8, RegionBytes: 32, ExtentBytes: 64, VolumeBytes: 128, MinInSync: 2,
	OpTimeout: time.Second, RequestTimeout: 100 * time.Millisecond, HedgeAfter: 10 * time.Millisecond,
	RetryAfter: 10 * time.Millisecond, OutAfter: 200 * time.Millisecond, StableAfter: 10 * time.Millisecond,
	CompareRegions: 4, RebuildJobs: 2,
}

type sent struct {
	disk int
	q    replica.Request
}

// bench is an owner with everything around it in the test's hands.
type bench struct {
	t        *testing.T
	o        *Owner
	now      clock.Mono
	sent     []sent
	proposed []Proposal
	complete []*Op
}

func (b *bench) Send(disk int, q replica.Request) { b.sent = append(b.sent, sent{disk, q}) }
func (b *bench) Propose(p Proposal)               { b.proposed = append(b.proposed, p) }
func (b *bench) Complete(op *Op)                  { b.complete = append(b.complete, op) }

// take returns what was sent of a kind since the last call, and drops the rest.
func (b *bench) take(kind replica.Kind) []sent {
	var list []sent
	for _, s := range b.sent {
		if s.q.Kind == kind {
			list = append(list, s)
		}
	}
	b.sent = nil
	return list
}

func (b *bench) answer(s sent, resp replica.Response) {
	resp.ID, resp.Epoch, resp.Boot = s.q.ID, s.q.Epoch, 1
	if s.q.Kind == replica.Read && resp.Vers == nil {
		resp.Vers = []replica.Version{{Epoch: 1, Seq: 1}}
	}
	b.o.Answer(b.now, s.disk, resp)
}

// there answers those who are asked whether they are there, or told the watermark.
func (b *bench) there() {
	for _, s := range slices.Clone(b.sent) {
		if s.q.Kind == replica.Stable {
			b.answer(s, replica.Response{Status: replica.OK})
		}
	}
	b.sent = slices.DeleteFunc(b.sent, func(s sent) bool { return s.q.Kind == replica.Stable })
}

func (b *bench) pass(d time.Duration) {
	b.now = b.now.Add(d)
	b.o.Tick(b.now)
}

// only checks that op was completed with want, and nothing else was.
func (b *bench) only(op *Op, want error) {
	b.t.Helper()
	if len(b.complete) != 1 || b.complete[0] != op || !errors.Is(op.Err, want) {
		b.t.Fatalf("completed %v with %v, want this op with %v", b.complete, op.Err, want)
	}
	b.complete = nil
}

// serves returns an owner of three replicas in sync that serves, until 10 s.
func serves(t *testing.T) *bench {
	b := &bench{t: t, now: 1}
	in := Member{Sync: InSync, Gen: 1}
	b.o = New(testConfig, b, Grant{View: View{Revision: 1, Epoch: 3, Members: []Member{in, in, in}}, Until: 10e9, Local: 1}, b.now)
	b.pass(0)
	for _, s := range b.take(replica.Fence) {
		b.answer(s, replica.Response{Status: replica.OK, Last: 40, Stable: 40})
	}
	if !b.o.Serving() {
		t.Fatal("does not serve with all replicas fenced and no tail")
	}
	return b
}

func writeAt(off int64) *Op { return &Op{Kind: Write, Off: off, Data: []byte("new data")} }

// [I3]: the last required replica decides, and one that is silent counts until
// the view has it out.
func TestWriteWaitsForMarkOut(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	writes := b.take(replica.Write)
	if len(writes) != 3 || writes[0].q.Ver != (replica.Version{Epoch: 3, Seq: 41}) {
		t.Fatalf("sent %+v, want version 3.41 to three replicas", writes)
	}
	b.answer(writes[0], replica.Response{Status: replica.OK})
	b.answer(writes[1], replica.Response{Status: replica.OK})
	for len(b.proposed) == 0 && b.now < 9e8 {
		b.pass(5 * time.Millisecond)
		b.there()
	}
	if len(b.proposed) == 0 || b.proposed[0] != (Proposal{Change: MarkOut, Disk: 2, Epoch: 3, Gen: 1}) {
		t.Fatalf("proposed %+v, want MarkOut of replica 2", b.proposed)
	}
	if len(b.complete) != 0 {
		t.Fatal("acknowledged before MarkOut was committed")
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}, {Sync: Out, Gen: 2}}})
	b.only(op, nil)
}

// A write that waits for replicas is not begun when its host is gone.
func TestWaitingWriteOfNobodyIsNotBegun(t *testing.T) {
	b := serves(t)
	b.o.Unreachable(b.now, 0)
	b.o.Unreachable(b.now, 2)
	b.pass(testConfig.RetryAfter / 2)
	var gone, other atomic.Bool
	lost, kept := writeAt(0), writeAt(8)
	lost.Gone, kept.Gone = &gone, &other
	for b.now < 1e9 { // until the others count as away
		b.pass(5 * time.Millisecond)
		for _, s := range b.take(replica.Stable) {
			b.answer(s, replica.Response{Status: replica.OK})
		}
	}
	b.o.Submit(b.now, lost)
	b.o.Submit(b.now, kept)
	gone.Store(true)
	b.pass(5 * time.Millisecond)
	b.only(lost, ErrTimeout)
	if lost.Sent || len(b.take(replica.Write)) != 0 {
		t.Error("it was begun")
	}
	b.pass(testConfig.OpTimeout)
	b.only(kept, ErrTimeout)
}

// [I3]: with two of three silent nothing can be written, so nobody is marked out:
// both could still take over. New writes are refused, reads go on. When one of them
// is back the other is marked out.
func TestNobodyIsMarkedOutInVain(t *testing.T) {
	b := serves(t)
	b.o.Unreachable(b.now, 0)
	b.o.Unreachable(b.now, 2)
	for b.now < 1e9 {
		b.pass(5 * time.Millisecond)
		b.there()
	}
	st := b.o.Status()
	if len(b.proposed) != 0 || st.Below != 128 || !st.Members[0].Missed || st.Members[1].Missed || !st.Members[2].Missed {
		t.Fatalf("proposed %+v, %d bytes not writable; want nothing, and all 128 waiting for members 0 and 2", b.proposed, st.Below)
	}
	write, read := writeAt(0), readAt(0)
	b.sent = nil
	b.o.Submit(b.now, write)
	b.o.Submit(b.now, read)
	b.answer(b.take(replica.Read)[0], replica.Response{Status: replica.OK})
	b.only(read, nil)
	for len(b.complete) == 0 && b.now < 3e9 {
		b.pass(5 * time.Millisecond)
		b.there()
	}
	b.only(write, ErrTimeout)
	if write.Sent {
		t.Error("a write that could not be acknowledged was begun")
	}
	b.fenced(replica.Response{}, 0)
	if len(b.proposed) != 1 || b.proposed[0] != (Proposal{Change: MarkOut, Disk: 2, Epoch: 3, Gen: 1}) || b.o.Status().Below != 0 {
		t.Fatalf("proposed %+v with replica 0 back, want MarkOut of replica 2 and writes to go on", b.proposed)
	}
}

// [I4]: a host that was told of a failure has its buffer back; the write goes
// on with a copy, and its range stays locked.
func TestTimedOutWriteKeepsItsLock(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	for _, s := range b.take(replica.Write)[:2] {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	for op.Err == nil && b.now < 2e9 {
		b.pass(20 * time.Millisecond)
		b.there()
	}
	b.only(op, ErrTimeout)
	copy(op.Data, "scribble")
	fences := b.take(replica.Fence)
	read := &Op{Kind: Read, Data: make([]byte, 8)}
	b.o.Submit(b.now, read)
	if len(b.take(replica.Read)) != 0 {
		t.Fatal("a read passed the lock of a write that not every replica has")
	}
	for _, s := range fences[len(fences)-1:] {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	again := b.take(replica.Write)
	if len(again) != 1 || again[0].disk != 2 || !bytes.Equal(again[0].q.Data, []byte("new data")) || again[0].q.Ver.Seq != 41 {
		t.Fatalf("sent again: %+v", again)
	}
	b.answer(again[0], replica.Response{Status: replica.OK})
	if len(b.take(replica.Read)) != 1 {
		t.Error("the read did not go on when every replica had the write")
	}
}

// A slow read is asked of a second replica; the first answer counts.
func TestHedgedRead(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Read, Off: 8, Data: make([]byte, 8)}
	b.o.Submit(b.now, op)
	first := b.take(replica.Read)
	if len(first) != 1 || first[0].disk != 1 {
		t.Fatalf("asked %+v, want the local replica", first)
	}
	b.pass(testConfig.HedgeAfter)
	second := b.take(replica.Read)
	if len(second) != 1 || second[0].disk == 1 {
		t.Fatalf("hedged with %+v, want one other replica", second)
	}
	b.answer(second[0], replica.Response{Status: replica.OK, Data: []byte("12345678")})
	b.only(op, nil)
	if string(op.Data) != "12345678" {
		t.Errorf("read %q", op.Data)
	}
	copy(op.Data, "mine now")
	b.answer(first[0], replica.Response{Status: replica.OK, Data: []byte("12345678")})
	if string(op.Data) != "mine now" || len(b.complete) != 0 {
		t.Error("the second answer touched the buffer or completed the op again")
	}
}

// [I5]: data that comes after the lease has ended is not told.
func TestLeaseIsCheckedWhenDataComes(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Read, Data: make([]byte, 8)}
	b.o.Submit(b.now, op)
	s := b.take(replica.Read)[0]
	b.now = 10e9
	b.answer(s, replica.Response{Status: replica.OK, Data: make([]byte, 8)})
	b.only(op, ErrNotOwner)
	if !b.o.Over() || b.o.Deadline() != clock.Never {
		t.Error("the owner goes on after its lease")
	}
}

// An idle owner is ticked when its lease ends as far as it knows. A renewal that
// it hears of at that instant came in time.
func TestRenewalHeardOfAtTheEnd(t *testing.T) {
	b := serves(t)
	b.now = 10e9
	b.o.Renew(b.now, 11e9)
	if b.o.Over() {
		t.Fatal("over though the lease goes on")
	}
	b.now = 11e9
	if b.o.Renew(b.now, 10e9); !b.o.Over() {
		t.Error("goes on after its lease")
	}
}

// Data that one replica can't read is read from another and written to all.
func TestReadRepair(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Read, Data: make([]byte, 8)}
	b.o.Submit(b.now, op)
	b.answer(b.take(replica.Read)[0], replica.Response{Status: replica.Medium})
	other := b.take(replica.Read)
	if len(other) != 1 || other[0].disk == 1 {
		t.Fatalf("asked %+v, want another replica", other)
	}
	b.answer(other[0], replica.Response{Status: replica.OK, Data: []byte("good one")})
	b.only(op, nil)
	again := b.take(replica.Read)
	if len(again) != 1 || again[0].disk == 1 {
		t.Fatalf("repair reads from %+v, want a replica that can", again)
	}
	b.answer(again[0], replica.Response{Status: replica.OK, Data: []byte("good one")})
	if w := b.take(replica.Write); len(w) != 3 || string(w[0].q.Data) != "good one" {
		t.Errorf("repair wrote %+v", w)
	}
}

// TestRepairOfAHole: what has no data is a hole, whether it comes from this node, as nothing, or from another one, as what is
// left of a message.
func TestRepairOfAHole(t *testing.T) {
	for _, none := range [][]byte{nil, {}} {
		b := serves(t)
		b.o.Submit(b.now, &Op{Kind: Read, Data: make([]byte, 8)})
		b.answer(b.take(replica.Read)[0], replica.Response{Status: replica.Medium})
		for range 2 { // for the host, and for the repair
			b.answer(b.take(replica.Read)[0], replica.Response{Status: replica.OK, Data: none})
		}
		if len(b.take(replica.Clear)) != 3 {
			t.Errorf("a hole that was read as %#v is not made on all three replicas", none)
		}
	}
}

// A read fails only when a block of it can't be read anywhere: of three replicas
// that each have another bad block, all three are asked for every block.
func TestReadOfBlocksThatDifferentReplicasLack(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Read, Data: make([]byte, 32)}
	b.o.Submit(b.now, op)
	for len(b.sent) > 0 {
		list := b.take(replica.Read)
		for _, s := range list {
			resp := replica.Response{Status: replica.OK, Data: bytes.Repeat([]byte{'a' + byte(s.q.Off/8)}, int(s.q.Len))}
			if s.q.Off <= int64(s.disk)*8 && int64(s.disk)*8 < s.q.Off+s.q.Len {
				resp = replica.Response{Status: replica.Medium}
			}
			b.answer(s, resp)
		}
	}
	b.only(op, nil)
	if want := "aaaaaaaabbbbbbbbccccccccdddddddd"; string(op.Data) != want {
		t.Errorf("read %q, want %q", op.Data, want)
	}
}

// A comparison that fails changes nothing; one that holds writes.
func TestCompareWrite(t *testing.T) {
	for _, there := range []string{"expected", "differs!"} {
		b := serves(t)
		op := &Op{Kind: CompareWrite, Data: []byte("new data"), Compare: []byte("expected")}
		b.o.Submit(b.now, op)
		b.answer(b.take(replica.Read)[0], replica.Response{Status: replica.OK, Data: []byte(there)})
		writes := b.take(replica.Write)
		if there == "differs!" {
			b.only(op, ErrMismatch)
			if len(writes) != 0 {
				t.Error("written although the comparison failed")
			}
			continue
		}
		for _, s := range writes {
			b.answer(s, replica.Response{Status: replica.OK})
		}
		b.only(op, nil)
	}
}

// An owner that learns of a newer one ends, at once.
func TestDeposed(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	s := b.take(replica.Write)[0]
	b.o.Answer(b.now, s.disk, replica.Response{ID: s.q.ID, Status: replica.OldEpoch, Epoch: 4})
	b.only(op, ErrNotOwner)
	late := writeAt(0)
	b.o.Submit(b.now, late)
	b.only(late, ErrNotOwner)
}

// [I5] [I7]: a takeover with a replica that can't be fenced marks it out,
// waits for the old lease, and writes the tail again everywhere.
func TestTakeover(t *testing.T) {
	b := &bench{t: t, now: 1}
	in := Member{Sync: InSync, Gen: 1}
	b.o = New(testConfig, b, Grant{View: View{Revision: 1, Epoch: 3, Members: []Member{in, in, in}}, Until: 10e9, Waits: 2e9, Local: -1}, b.now)
	b.pass(0)
	for i, s := range b.take(replica.Fence)[:2] {
		resp := replica.Response{Status: replica.OK, Last: 40, Stable: 38}
		if i == 1 {
			resp.Tail = []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 40}, Off: 16, Len: 8}}
		}
		b.answer(s, resp)
	}
	for len(b.proposed) == 0 && b.now < 1e9 {
		b.pass(5 * time.Millisecond)
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
	if b.take(replica.Read); b.o.Serving() {
		t.Fatal("serves while the old lease may read from a replica that is not fenced")
	}
	b.now = 2e9
	b.pass(0)
	reads := b.take(replica.Read)
	if len(reads) != 1 || reads[0].disk != 1 || reads[0].q.Off != 16 {
		t.Fatalf("reads %+v, want the tail's write from its holder", reads)
	}
	b.answer(reads[0], replica.Response{Status: replica.OK, Data: []byte("unstable")})
	writes := b.take(replica.Write)
	if len(writes) != 2 || writes[0].q.Ver != (replica.Version{Epoch: 3, Seq: 41}) || string(writes[0].q.Data) != "unstable" || writes[0].q.Stable != 0 {
		t.Fatalf("writes %+v, want it to both, without a watermark", writes)
	}
	for _, s := range writes {
		if b.o.Serving() {
			t.Error("serves before the replicas are equal")
		}
		b.answer(s, replica.Response{Status: replica.OK})
	}
	if !b.o.Serving() {
		t.Error("does not serve though the replicas are equal")
	}
}
