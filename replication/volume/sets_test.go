package volume

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// spread is four extents on four members, of which each has two copies:
// 0 1, 1 2, 2 3, 3 0.
func spread() Config {
	c := testConfig
	c.VolumeBytes, c.MinInSync = 4*c.ExtentBytes, 1
	c.Sets = func(extent int64) []int { return []int{int(extent) % 4, int(extent+1) % 4} }
	return c
}

// begins returns an owner that has sent its first Fences.
func begins(t *testing.T, cfg Config, members ...Member) *bench {
	b := &bench{t: t, now: 1}
	b.o = New(cfg, b, Grant{View: View{Revision: 1, Epoch: 3, Members: members}, Until: 100e9, Local: -1}, b.now)
	b.pass(0)
	return b
}

// fenced answers the Fences of these members, and who is asked whether it is there.
func (b *bench) fenced(resp replica.Response, members ...int) {
	resp.Status = replica.OK
	b.there()
	for _, s := range b.take(replica.Fence) {
		for _, d := range members {
			if s.disk == d {
				b.answer(s, resp)
			}
		}
	}
}

// do submits an op, answers all that comes of it with OK, and tells how it ended.
func (b *bench) do(op *Op) error {
	b.o.Submit(b.now, op)
	for len(b.sent) > 0 {
		list := b.sent
		b.sent = nil
		for _, s := range list {
			resp := replica.Response{Status: replica.OK, Differ: nil}
			if s.q.Kind == replica.Read {
				resp.Vers = []replica.Version{{Epoch: 1, Seq: 1}}
			}
			b.answer(s, resp)
		}
	}
	if len(b.complete) == 0 {
		return errWaits
	}
	b.complete = nil
	return op.Err
}

var errWaits = errors.New("waits")

func readAt(off int64) *Op { return &Op{Kind: Read, Off: off, Data: make([]byte, 8)} }

// Each extent is read from and written to those that keep it.
func TestExtentsHaveTheirOwnReplicas(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, spread(), in, in, in, in)
	b.fenced(replica.Response{}, 0, 1, 2, 3)
	b.o.Submit(b.now, &Op{Kind: Write, Off: 64, Data: make([]byte, 128)}) // extents 1 and 2
	to := map[int64][]int{}
	for _, s := range b.take(replica.Write) {
		to[s.q.Off] = append(to[s.q.Off], s.disk)
	}
	if len(to) != 2 || len(to[64]) != 2 || to[64][0] != 1 || to[64][1] != 2 || len(to[128]) != 2 || to[128][0] != 2 || to[128][1] != 3 {
		t.Errorf("extents 1 and 2 were written to members %v", to)
	}
	for off, want := range map[int64]int{0: 0b0011, 64: 0b0110, 128: 0b1100, 192: 0b1001} {
		for range 4 {
			b.o.Submit(b.now, readAt(off+32))
			for _, s := range b.take(replica.Read) {
				if want>>s.disk&1 == 0 {
					t.Errorf("extent %d was read from member %d", off/64, s.disk)
				}
			}
		}
	}
}

// A takeover whose member 3 is away and can't be marked out, since it is the
// last one with extent 2, serves the extents that it does not keep; the others
// when it is back.
func TestOneExtentUnreadable(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, spread(), in, in, Member{Sync: Out, Gen: 2}, in)
	b.fenced(replica.Response{}, 0, 1)
	for range 100 {
		b.pass(testConfig.RetryAfter)
		b.fenced(replica.Response{}, 0, 1, 2)
	}
	for _, p := range b.proposed {
		if p.Change == MarkOut {
			t.Errorf("proposed %+v: member 3 has the only copy of extent 2", p)
		}
	}
	st := b.o.Status()
	if st.Serving || st.Unserved != 128 || st.Members[3].Connected || st.Members[3].Away < 500*time.Millisecond {
		t.Errorf("status %+v, want 128 bytes not served, and member 3 away", st)
	}
	for off, want := range map[int64]error{0: nil, 64: nil, 128: errWaits, 192: errWaits} {
		for _, op := range []*Op{writeAt(off), readAt(off)} {
			if err := b.do(op); !errors.Is(err, want) {
				t.Errorf("op %d on extent %d: %v, want %v", op.Kind, off/64, err, want)
			}
		}
	}
	for range 20 {
		b.pass(testConfig.RetryAfter)
		b.fenced(replica.Response{}, 3)
	}
	if !b.o.Serving() {
		t.Error("does not serve all extents with member 3 back")
	}
}

// [I3]: an extent below min_in_sync takes no writes, its neighbours do.
func TestMinInSyncIsPerExtent(t *testing.T) {
	cfg := spread()
	cfg.MinInSync = 2
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, cfg, Member{Sync: Out, Gen: 2}, in, in, in)
	b.fenced(replica.Response{}, 0, 1, 2, 3)
	for off, want := range map[int64]error{0: errWaits, 64: nil, 128: nil, 192: errWaits} {
		if err := b.do(writeAt(off)); !errors.Is(err, want) {
			t.Errorf("write to extent %d: %v, want %v", off/64, err, want)
		}
		if err := b.do(readAt(off)); err != nil {
			t.Errorf("read of extent %d: %v", off/64, err)
		}
	}
	if st := b.o.Status(); st.Below != 128 || st.Waiting != 2 {
		t.Errorf("%d bytes below min_in_sync and %d ops waiting, want 128 and 2", st.Below, st.Waiting)
	}
}

// [I6]: a replica is told no watermark while the takeover of one of its
// extents goes on, and one that keeps others is.
func TestWatermarkWaitsForEveryExtentOfAReplica(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, spread(), in, in, in, in)
	b.fenced(replica.Response{Last: 9, Stable: 9}, 0, 1, 2)
	if err := b.do(writeAt(0)); err != nil {
		t.Fatal(err)
	}
	b.o.Submit(b.now, writeAt(8))
	for _, s := range b.take(replica.Write) {
		if want := map[int]uint64{0: 0, 1: 10}[s.disk]; s.q.Stable != want {
			t.Errorf("member %d was told %d, want %d", s.disk, s.q.Stable, want)
		}
	}
}

// [I7]: what one member of a set has of an extent goes to that set, in one
// request where blocks of several writes lie side by side.
func TestTakeoverOfOneSet(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, spread(), in, in, in, in)
	tail := replica.Response{Last: 12, Tail: []replica.Entry{
		{Ver: replica.Version{Epoch: 2, Seq: 11}, Off: 64, Len: 8}, {Ver: replica.Version{Epoch: 2, Seq: 12}, Off: 72, Len: 16},
	}}
	fences := b.take(replica.Fence)
	for _, s := range fences {
		resp := replica.Response{Status: replica.OK}
		if s.disk == 2 {
			resp = tail
			resp.Status = replica.OK
		}
		b.answer(s, resp)
	}
	reads := b.take(replica.Read)
	if len(reads) != 1 || reads[0].disk != 2 || reads[0].q.Off != 64 || reads[0].q.Len != 24 {
		t.Fatalf("reads %+v, want 24 bytes at 64 from member 2", reads)
	}
	if b.o.Status().Unserved != 64 {
		t.Errorf("%d bytes are not served, want extent 1 only", b.o.Status().Unserved)
	}
	b.answer(reads[0], replica.Response{Status: replica.OK}) // no data: zeroes
	clears := b.take(replica.Clear)
	if len(clears) != 2 || clears[0].disk != 1 || clears[1].disk != 2 || clears[0].q.Ver.Seq != 13 {
		t.Fatalf("sent %+v, want a clear as write 13 to members 1 and 2", clears)
	}
	for _, s := range clears {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	if st := b.o.Status(); !st.Serving || st.Equalized != 1 {
		t.Errorf("serving %v with %d repeated, want true and 1", st.Serving, st.Equalized)
	}
}

// A volume that grows has the new extent served once its new member is fenced;
// ops beyond the end wait until then.
func TestGrow(t *testing.T) {
	cfg := spread()
	old := cfg.Sets
	cfg.Sets = func(extent int64) []int {
		if extent == 4 {
			return []int{0, 4}
		}
		return old(extent)
	}
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, cfg, in, in, in, in)
	b.fenced(replica.Response{}, 0, 1, 2, 3)
	if err := b.do(writeAt(256)); !errors.Is(err, errWaits) {
		t.Fatalf("a write beyond the end: %v", err)
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, in, in, in}})
	b.o.Grow(320)
	b.pass(0)
	b.fenced(replica.Response{}, 4)
	writes := b.take(replica.Write)
	if !b.o.Serving() || len(writes) != 2 || writes[0].disk != 0 || writes[1].disk != 4 {
		t.Errorf("serving %v, writes %+v, want true, and the write to members 0 and 4", b.o.Serving(), writes)
	}
}

// A replica that the transport can't reach is marked out after GoneAfter.
func TestUnreachable(t *testing.T) {
	cfg := testConfig
	cfg.GoneAfter = 30 * time.Millisecond
	for _, hint := range []bool{true, false} {
		in := Member{Sync: InSync, Gen: 1}
		b := begins(t, cfg, in, in, in)
		b.fenced(replica.Response{}, 0, 1)
		start := b.now
		if hint {
			b.o.Unreachable(b.now, 2)
		}
		for len(b.proposed) == 0 && b.now < 5e9 {
			b.pass(5 * time.Millisecond)
		}
		took, want := b.now.Sub(start), cfg.OutAfter
		if hint {
			want = cfg.GoneAfter
		}
		if took < want || took > want+10*time.Millisecond {
			t.Errorf("hint %v: MarkOut after %v, want %v", hint, took, want)
		}
	}
}

// [I6]: a drain ends when what is in flight has ended and every required replica
// knows; new ops and those that have not begun are given back, having done nothing.
func TestDrain(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	writes := b.take(replica.Write)
	b.o.Drain(b.now)
	late := writeAt(64)
	b.o.Submit(b.now, late)
	b.only(late, ErrNotOwner)
	if late.Sent || b.o.Over() {
		t.Fatalf("sent %v, over %v: want neither", late.Sent, b.o.Over())
	}
	for _, s := range writes {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	b.only(op, nil)
	last := b.take(replica.Stable)
	if len(last) != 3 || last[0].q.Stable != 41 || b.o.Over() {
		t.Fatalf("sent %+v, want watermark 41 to all three, and no end before they have it", last)
	}
	for _, s := range last {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	if !b.o.Over() || !b.o.Drained() {
		t.Error("the drain did not end")
	}
}

// A drain that can't end well is over after OpTimeout, and says so.
func TestDrainGivesUp(t *testing.T) {
	b := serves(t)
	b.o.Submit(b.now, writeAt(0))
	b.o.Drain(b.now)
	for b.now < 9e9 && !b.o.Over() {
		b.pass(b.o.Deadline().Sub(b.now))
	}
	if !b.o.Over() || b.o.Drained() || b.now > 2e9 {
		t.Errorf("over %v, drained %v at %v", b.o.Over(), b.o.Drained(), b.now)
	}
}

// [I10]: a generation of 0 is one like any other, not one that is in doubt.
func TestFirstGeneration(t *testing.T) {
	in := Member{Sync: InSync}
	b := begins(t, testConfig, in, in, in)
	b.fenced(replica.Response{}, 0, 1, 2)
	if b.pass(0); len(b.proposed) > 0 {
		t.Errorf("proposed %+v with all replicas in sync", b.proposed)
	}
}

// An owner with nothing to do asks for no tick before its lease ends.
func TestIdle(t *testing.T) {
	b := serves(t)
	for b.now < 1e9 && b.o.Deadline() != 10e9 {
		b.pass(b.o.Deadline().Sub(b.now))
		for _, s := range b.take(replica.Stable) {
			b.answer(s, replica.Response{Status: replica.OK})
		}
	}
	if got := b.o.Deadline(); got != clock.Mono(10e9) {
		t.Errorf("the next tick is due at %d, want the end of the lease", got)
	}
}

// Unmap and WriteZeroes go to all replicas as what they are.
func TestClears(t *testing.T) {
	for op, kind := range map[OpKind]replica.Kind{Unmap: replica.Clear, WriteZeroes: replica.Zero} {
		b := serves(t)
		o := &Op{Kind: op, Off: 32, Len: 64} // parts of two extents
		b.o.Submit(b.now, o)
		got := b.take(kind)
		if len(got) != 6 || got[0].q.Len != 32 || got[0].q.Data != nil || got[3].q.Off != 64 {
			t.Fatalf("kind %d sent %+v", op, got)
		}
		for _, s := range got {
			b.answer(s, replica.Response{Status: replica.OK})
		}
		b.only(o, nil)
	}
}

// A write waits while a replica has as many unstable ones as it may.
func TestTailIsBounded(t *testing.T) {
	cfg := testConfig
	cfg.TailMax = 3
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, cfg, in, in, in)
	fences := b.take(replica.Fence)
	for i := range int64(5) {
		b.o.Submit(b.now, writeAt(8*i))
	}
	for _, s := range fences {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	writes := b.take(replica.Write)
	if len(writes) != 9 || b.o.Status().Waiting != 2 {
		t.Fatalf("%d requests sent and %d ops waiting, want 3 writes to 3 replicas and 2 ops", len(writes), b.o.Status().Waiting)
	}
	for _, s := range writes {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	b.pass(cfg.StableAfter)
	if b.o.Status().Waiting != 0 {
		t.Error("the watermark did not let the others go on")
	}
}

// A copy of zeroes is a hole. Resync goes slower while hosts wait, and goes on.
func TestResyncIsPacedAndCopiesHoles(t *testing.T) {
	free := resyncs(t, 0)
	paced := resyncs(t, time.Millisecond)
	if free < 50*time.Millisecond || paced < 2*free || paced > 20*free {
		t.Errorf("a resync beside slow hosts took %v unpaced, %v paced", free, paced)
	}
}

// resyncs tells how long it takes to bring a member back, all of whose regions
// differ, while each read of a host takes 3 ms.
func resyncs(t *testing.T, pace time.Duration) time.Duration {
	cfg := testConfig
	cfg.VolumeBytes = 64 * cfg.RegionBytes
	cfg.Pace, cfg.PaceMax = pace, 32*time.Millisecond
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, cfg, in, in, Member{Sync: Out, Gen: 2})
	b.fenced(replica.Response{}, 0, 1, 2)
	holes := 0
	for b.now < 20e9 && b.o.Status().Members[2].Sync != InSync {
		for _, p := range b.proposed {
			sync := map[Change]Sync{MarkRebuilding: Rebuilding, MarkIn: InSync}[p.Change]
			b.o.Meta(b.now, View{Revision: b.o.view.Revision + 1, Epoch: 3, Members: []Member{in, in, {Sync: sync, Gen: 3}}})
		}
		b.proposed = nil
		list := b.sent
		b.sent = nil
		b.now = b.now.Add(3 * time.Millisecond)
		for _, s := range list {
			resp := replica.Response{Status: replica.OK}
			switch s.q.Kind {
			case replica.Versions, replica.Read:
				resp.Vers = make([]replica.Version, max(1, s.q.Len/cfg.RegionBytes))
			case replica.Confirm:
				for off := s.q.Off; off < s.q.Off+s.q.Len; off += cfg.RegionBytes {
					resp.Differ = append(resp.Differ, off)
				}
			case replica.Copy:
				if len(s.q.Data) == 0 {
					holes++
				}
			}
			b.answer(s, resp)
		}
		b.o.Submit(b.now, readAt(0))
		b.pass(0)
	}
	if m := b.o.Status().Members[2]; m.Sync != InSync || holes != 64 {
		t.Fatalf("%+v, and %d holes copied, want it in sync by 64", m, holes)
	}
	return time.Duration(b.now)
}

// The buckets of a Latency are in order and an eighth wide.
func TestLatency(t *testing.T) {
	last := -1
	for d := time.Duration(0); d < 8*time.Second; d += d/50 + 300*time.Nanosecond {
		i := latencyBucket(d)
		if i < last || d >= latencyBound(i) || d > 8*time.Microsecond && latencyBound(i) > d+d/7 {
			t.Fatalf("%v is in bucket %d, up to %v, after %d", d, i, latencyBound(i), last)
		}
		last = i
	}
	var l Latency
	for i := 1; i <= 1000; i++ {
		l.add(time.Duration(i) * time.Millisecond)
	}
	if p50, p99 := l.Quantile(0.5), l.Quantile(0.99); p50 < 500*time.Millisecond || p50 > 570*time.Millisecond || p99 < 990*time.Millisecond || p99 > l.Max {
		t.Errorf("of 1 ms to 1 s the median is %v, the 99th percentile %v", p50, p99)
	}
	if l.Mean() != 500500*time.Microsecond {
		t.Errorf("mean %v", l.Mean())
	}
}

// A scrub asks every replica in sync under the lock, takes what most have, and
// ends when the others have it.
func TestScrub(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Scrub, Off: 32, Len: 32}
	b.o.Submit(b.now, op)
	for _, s := range b.take(replica.Read) {
		data := []byte("aaaaaaaabbbbbbbbccccccccdddddddd")
		if s.disk == 1 {
			copy(data[8:], "rotten blocks!!!")
		}
		b.answer(s, replica.Response{Status: replica.OK, Data: data, Vers: []replica.Version{{Epoch: 1, Seq: 1}}})
	}
	repair := b.take(replica.Read)
	if len(repair) != 1 || repair[0].disk == 1 || repair[0].q.Off != 40 || repair[0].q.Len != 16 || len(b.complete) != 0 {
		t.Fatalf("reads %+v to repair, want 16 bytes at 40 from a replica that is right", repair)
	}
	b.answer(repair[0], replica.Response{Status: replica.OK, Data: []byte("bbbbbbbbcccccccc")})
	writes := b.take(replica.Write)
	if len(writes) != 3 || string(writes[0].q.Data) != "bbbbbbbbcccccccc" {
		t.Fatalf("wrote %+v", writes)
	}
	for _, s := range writes {
		b.answer(s, replica.Response{Status: replica.OK})
	}
	b.only(op, nil)
	if op.Found != (Found{Differ: 16, Data: 96, Wrong: 0b10}) || b.o.Status().Repairs != 1 {
		t.Errorf("found %+v, %d repairs", op.Found, b.o.Status().Repairs)
	}
}

// What a scrub found right and can't be read again is repaired block by block.
func TestScrubRepairThatCantBeRead(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Scrub, Off: 32, Len: 32}
	b.o.Submit(b.now, op)
	for _, s := range b.take(replica.Read) {
		data := []byte("aaaaaaaabbbbbbbbccccccccdddddddd")
		if s.disk == 1 {
			copy(data[8:], "rotten blocks!!!")
		}
		b.answer(s, replica.Response{Status: replica.OK, Data: data})
	}
	for range 2 {
		for _, s := range b.take(replica.Read) {
			b.answer(s, replica.Response{Status: replica.Medium})
		}
	}
	repairs := b.take(replica.Read)
	if len(repairs) != 2 || repairs[0].q.Len != 8 || repairs[1].q.Len != 8 || len(b.complete) != 0 {
		t.Fatalf("reads %+v to repair, want two blocks", repairs)
	}
	for _, s := range repairs {
		if s.disk == 1 {
			t.Errorf("reads %+v, want that of a replica that is right", s)
		}
		data := map[int64]string{40: "bbbbbbbb", 48: "cccccccc"}[s.q.Off]
		b.answer(s, replica.Response{Status: replica.OK, Data: []byte(data)})
		writes := b.take(replica.Write)
		if len(writes) != 3 || writes[0].q.Off != s.q.Off || string(writes[0].q.Data) != data {
			t.Fatalf("wrote %+v", writes)
		}
		for _, w := range writes {
			b.answer(w, replica.Response{Status: replica.OK})
		}
	}
	b.only(op, nil)
}

// A scrub's repair whose only source is marked out takes what another one has: its lock
// is not held until the scrub gives up.
func TestScrubRepairWhoseSourceLeaves(t *testing.T) {
	b := serves(t)
	op := &Op{Kind: Scrub, Off: 32, Len: 8}
	b.o.Submit(b.now, op)
	for _, s := range b.take(replica.Read) {
		resp := replica.Response{Status: replica.OK, Data: []byte(fmt.Sprintf("content%d", s.disk)), Vers: []replica.Version{{Epoch: 1, Seq: 1}}}
		if s.disk == 2 {
			resp.Vers[0].Seq = 2
		}
		b.answer(s, resp)
	}
	repair := b.take(replica.Read)
	if len(repair) != 1 || repair[0].disk != 2 {
		t.Fatalf("reads %+v to repair, want the newest version, of replica 2", repair)
	}
	write := writeAt(32)
	b.o.Submit(b.now, write)
	b.o.Unreachable(b.now, 2)
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}, {Sync: Out, Gen: 2}}})
	repair = b.take(replica.Read)
	if len(repair) != 1 || repair[0].disk == 2 {
		t.Fatalf("reads %+v to repair, want one of the others", repair)
	}
	b.answer(repair[0], replica.Response{Status: replica.OK, Data: []byte("whatever")})
	for _, want := range []string{"whatever", "new data"} {
		writes := b.take(replica.Write)
		if len(writes) != 2 || string(writes[0].q.Data) != want || string(writes[1].q.Data) != want {
			t.Fatalf("wrote %+v, want %q to two", writes, want)
		}
		for _, s := range writes {
			b.answer(s, replica.Response{Status: replica.OK})
		}
	}
	if len(b.complete) != 2 || op.Err != nil || write.Err != nil {
		t.Errorf("completed %+v: the scrub with %v, the write with %v", b.complete, op.Err, write.Err)
	}
}

// Of two contents with as many replicas each, that of the newer version is taken.
func TestVote(t *testing.T) {
	one, two := replica.Version{Epoch: 1, Seq: 1}, replica.Version{Epoch: 1, Seq: 2}
	for name, c := range map[string]struct {
		copies []replicaCopy
		right  disks
		tied   bool
	}{
		"all the same":   {[]replicaCopy{{0, []byte("a"), one}, {1, []byte("a"), two}}, 0b11, false},
		"majority":       {[]replicaCopy{{0, []byte("b"), two}, {1, []byte("a"), one}, {4, []byte("a"), one}}, 0b10010, false},
		"newer":          {[]replicaCopy{{0, []byte("b"), one}, {1, []byte("a"), two}}, 0b10, true},
		"same version":   {[]replicaCopy{{0, []byte("b"), one}, {1, []byte("a"), one}}, 0b01, true},
		"all different":  {[]replicaCopy{{0, []byte("b"), one}, {1, []byte("a"), one}, {2, []byte("c"), two}}, 0b100, true},
		"tie, then more": {[]replicaCopy{{0, []byte("b"), two}, {1, []byte("a"), one}, {2, []byte("c"), one}, {3, []byte("c"), one}}, 0b1100, false},
	} {
		if right, tied := vote(c.copies, 0, 1); right != c.right || tied != c.tied {
			t.Errorf("%s: %b are right, tied %v, want %b and %v", name, right, tied, c.right, c.tied)
		}
	}
}
