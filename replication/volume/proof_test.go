package volume

import (
	"slices"
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// fence answers the Fence of member d.
func (b *bench) fence(d int, resp replica.Response) {
	b.t.Helper()
	resp.Status, resp.Vouches = replica.OK, true
	for i, s := range b.sent {
		if s.q.Kind == replica.Fence && s.disk == d {
			b.sent = slices.Delete(b.sent, i, i+1)
			b.answer(s, resp)
			return
		}
	}
	b.t.Fatalf("no Fence for member %d", d)
}

// replies answers everything that was sent, but Fences: with OK, and how. It returns what that was.
func (b *bench) replies(how func(s sent, resp *replica.Response)) (did []sent) {
	for i := 0; i < len(b.sent); {
		s := b.sent[i]
		if s.q.Kind == replica.Fence {
			i++
			continue
		}
		b.sent = slices.Delete(b.sent, i, i+1)
		did = append(did, s)
		resp := replica.Response{Status: replica.OK}
		if s.q.Kind == replica.Versions || s.q.Kind == replica.Read {
			resp.Vers = make([]replica.Version, (s.q.Len+31)/32)
		}
		if how != nil {
			how(s, &resp)
		}
		b.answer(s, resp)
		i = 0
	}
	return did
}

func (b *bench) outs() (list []int) {
	for _, p := range b.proposed {
		if p.Change == MarkOut && !slices.Contains(list, p.Disk) {
			list = append(list, p.Disk)
		}
	}
	slices.Sort(list)
	return list
}

func count(did []sent, kind replica.Kind, disk int) (n int) {
	for _, s := range did {
		if s.q.Kind == kind && s.disk == disk {
			n++
		}
	}
	return n
}

// [I15]: an unproven replica that can't be done without is held against a proven one and gets what it lacks, before anything is
// served: regions whose version differs, and those in its tail. It hears of no watermark until then, and is vouched for after that.
func TestUnprovenIsCompared(t *testing.T) {
	b := begins(t, testConfig, Member{Sync: InSync, Gen: 1}, Member{Sync: InSync, Gen: 1}, Member{Sync: Out, Gen: 2})
	b.fence(0, replica.Response{Stable: 40, Last: 40})
	b.fence(1, replica.Response{Stable: 30, Last: 35, Unproven: true, Tail: []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 35}, Off: 8, Len: 8}}})
	b.fence(2, replica.Response{Stable: 30, Last: 35})
	var copied []int64
	did := b.replies(func(s sent, resp *replica.Response) {
		if b.o.Serving() && s.q.Kind != replica.Vouch {
			t.Errorf("%+v was sent when all was served", s.q)
		}
		switch s.q.Kind {
		case replica.Read:
			if s.disk == 0 && s.q.Off == 96 {
				resp.Vers[0], resp.Data = replica.Version{Epoch: 2, Seq: 37}, slices.Repeat([]byte{1}, 32)
			}
			if s.disk != 0 && s.q.Off != 96 {
				t.Errorf("member %d was asked for what is at %d", s.disk, s.q.Off)
			}
		case replica.Versions:
			if s.disk != 0 {
				t.Errorf("member %d was asked for what is right", s.disk)
			}
		case replica.Confirm:
			if s.disk != 1 || s.q.Gen != 0 || s.q.Stable != 0 {
				t.Errorf("member %d was sent %+v", s.disk, s.q)
			}
			if s.q.Off <= 96 && 96 < s.q.Off+s.q.Len {
				resp.Differ = []int64{96}
			}
		case replica.Copy:
			copied = append(copied, s.q.Off)
		default:
		}
	})
	slices.Sort(copied)
	if !slices.Equal(copied, []int64{0, 96}) || !b.o.Serving() || len(b.outs()) != 0 {
		t.Errorf("copied %v, serving %v, marked out %v; want the region of the tail and the one that differs, and to serve", copied, b.o.Serving(), b.outs())
	}
	if last := did[len(did)-1]; last.q.Kind != replica.Vouch || last.disk != 1 || last.q.Stable < 40 {
		t.Errorf("the last request was %+v, want Vouch with the watermark", last)
	}
	if m := b.o.Status().Members[1]; m.LostRegions != 1 || m.Unproven {
		t.Errorf("lost %d regions, unproven %v; want the one below its watermark, and to be vouched for", m.LostRegions, m.Unproven)
	}
}

// An unproven replica that has the highest watermark lacks nothing.
func TestHighestWatermarkIsEnough(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, in, in, in)
	for d := range 3 {
		b.fence(d, replica.Response{Stable: 40, Last: 40, Unproven: true})
	}
	did := b.replies(nil)
	if !b.o.Serving() || count(did, replica.Versions, 0)+count(did, replica.Confirm, 0) != 0 || count(did, replica.Vouch, 0) != 1 || count(did, replica.Vouch, 2) != 1 {
		t.Errorf("serving %v, sent %+v, want nothing but Vouch to all", b.o.Serving(), did)
	}
}

// Hosts don't wait for a comparison where enough others are proven.
func TestUnprovenLeaves(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, in, in, in)
	b.fence(2, replica.Response{Stable: 30, Last: 30, Unproven: true})
	b.fence(0, replica.Response{Stable: 40, Last: 40})
	b.fence(1, replica.Response{Stable: 40, Last: 40})
	if b.o.Serving() || !slices.Equal(b.outs(), []int{2}) {
		t.Fatalf("serving %v, marked out %v, want to do without member 2 first", b.o.Serving(), b.outs())
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
	if !b.o.Serving() || count(b.sent, replica.Versions, 0)+count(b.sent, replica.Versions, 1) != 0 {
		t.Errorf("serving %v, sent %+v, want to serve at once", b.o.Serving(), b.sent)
	}
}

// One that is alone and unproven decides nothing while others may know better, unless an operator says so.
func TestLoneUnprovenWaits(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, in, in, in)
	b.fence(2, replica.Response{Stable: 30, Last: 30, Unproven: true})
	for range 200 {
		b.pass(testConfig.RetryAfter)
		b.there()
	}
	st := b.o.Status()
	if len(b.outs()) != 0 || st.Unsure != 128 || !st.Members[0].Awaited || !st.Members[1].Awaited || st.Members[2].Awaited || !st.Members[2].Unproven {
		t.Errorf("marked out %v, %+v; want all to wait for members 0 and 1", b.outs(), st)
	}
	b.o.Trust(b.now)
	b.pass(testConfig.RetryAfter)
	if !slices.Equal(b.outs(), []int{0, 1}) {
		t.Fatalf("marked out %v, want to go on without members 0 and 1", b.outs())
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: Out, Gen: 2}, {Sync: Out, Gen: 2}, in}})
	if !b.o.Serving() {
		t.Error("does not serve what an operator has said is right")
	}
}

// Two that are unproven can be held against each other.
func TestTwoUnprovenDecide(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, in, in, in)
	b.fence(1, replica.Response{Stable: 40, Last: 40, Unproven: true})
	b.fence(2, replica.Response{Stable: 30, Last: 30, Unproven: true})
	for range 100 {
		b.pass(testConfig.RetryAfter)
		b.there()
	}
	if !slices.Equal(b.outs(), []int{0}) || b.o.Status().Unsure != 0 {
		t.Fatalf("marked out %v, want to do without member 0", b.outs())
	}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: Out, Gen: 2}, in, in}})
	if did := b.replies(nil); !b.o.Serving() || count(did, replica.Confirm, 2) == 0 || count(did, replica.Confirm, 1) != 0 {
		t.Errorf("serving %v, sent %+v, want member 2 to be held against member 1", b.o.Serving(), did)
	}
}

// A replica with a lower watermark than it proved that it had has lost copies. What its tail has does not count.
func TestLostCopiesDontCount(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, Member{Sync: InSync, Gen: 3, Proof: 50}, in, Member{Sync: Out, Gen: 2})
	b.fence(0, replica.Response{Stable: 45, Last: 48, Unproven: true, Tail: []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 48}, Off: 64, Len: 8}}})
	b.fence(1, replica.Response{Stable: 40, Last: 47, Unproven: true})
	did := b.replies(nil)
	if n := count(did, replica.Write, 1); n != 0 || count(did, replica.Confirm, 0) == 0 || count(did, replica.Confirm, 1) != 0 || !b.o.Serving() {
		t.Errorf("%d writes to member 1, serving %v, sent %+v; want member 0 to be held against it", n, b.o.Serving(), did)
	}
}

// An owner that serves does not let an unproven replica in before it is out.
func TestUnprovenIsTurnedAway(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	b.replies(nil)
	b.only(op, nil)
	b.o.Unreachable(b.now, 2)
	b.pass(testConfig.RetryAfter)
	b.fence(2, replica.Response{Stable: 40, Last: 40, Unproven: true})
	if m := b.o.Status().Members[2]; !slices.Equal(b.outs(), []int{2}) || m.Connected || !m.Shut || m.LostWrites != 1 {
		t.Fatalf("marked out %v, %+v; want member 2 to be out before it is let in, and to have lost a write", b.outs(), m)
	}
	in := Member{Sync: InSync, Gen: 1}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
	b.pass(testConfig.RetryAfter)
	b.fence(2, replica.Response{Stable: 40, Last: 40, Unproven: true})
	if m := b.o.Status().Members[2]; !m.Connected || m.Shut {
		t.Errorf("%+v, want it to be let in to be brought back", m)
	}
}

// If it can't be out the owner ends, for a takeover can hold it against others.
func TestOwnerEndsForUnproven(t *testing.T) {
	b := serves(t)
	b.o.Unreachable(b.now, 0)
	b.o.Unreachable(b.now, 2)
	for end := b.now.Add(2 * testConfig.OutAfter); b.now < end; {
		b.pass(testConfig.RetryAfter)
		b.there()
		if b.o.Over() {
			break
		}
		for _, s := range b.take(replica.Fence) {
			if s.disk == 2 {
				b.answer(s, replica.Response{Status: replica.OK, Stable: 40, Last: 40, Unproven: true, Vouches: true})
			}
		}
	}
	if len(b.outs()) != 0 || !b.o.Over() {
		t.Errorf("marked out %v, over %v; want the owner to end", b.outs(), b.o.Over())
	}
}

// A machine that went down and is back unnoticed is no reason to do without another: who was not heard of lately is asked first.
func TestUnheardDontCount(t *testing.T) {
	b := serves(t)
	b.o.cfg.GoneAfter = 30 * time.Millisecond
	b.pass(time.Second)
	b.o.Unreachable(b.now, 0)
	for range 8 {
		b.pass(testConfig.RetryAfter)
	}
	asked := b.take(replica.Stable)
	if len(b.outs()) != 0 || len(asked) < 2 {
		t.Fatalf("marked out %v, asked %+v; want the others to be asked first", b.outs(), asked)
	}
	for _, s := range asked {
		b.answer(s, ok)
	}
	for range 30 {
		b.pass(testConfig.RetryAfter)
		b.there()
	}
	if !slices.Equal(b.outs(), []int{0}) {
		t.Errorf("marked out %v, want member 0 when the others have answered", b.outs())
	}
}

// What a rebuild has copied is proven before the replica counts, also while a write hangs elsewhere.
func TestRebuildIsProven(t *testing.T) {
	r := newRebuilding(t, broad(), nil)
	r.o.conns[2].proof.vouches = true
	write, told := writeAt(0), uint64(0)
	var hangs []sent
	r.answer = func(s sent) replica.Response {
		if s.q.Kind == replica.Copy && write.began == 0 {
			r.o.Submit(r.now, write)
		}
		if s.q.Kind != replica.Vouch && s.disk == 2 {
			told = max(told, s.q.Stable)
		}
		return ok
	}
	for end := r.now.Add(60 * time.Millisecond); r.now < end && r.o.conns[2].re.phase != entering; r.pass(time.Millisecond) {
		for len(r.sent) > 0 {
			s := r.sent[0]
			r.sent = r.sent[1:]
			resp := r.answer(s)
			if s.q.Kind.Changes() && s.disk == 1 {
				hangs = append(hangs, s)
				continue
			}
			if s.q.Kind == replica.Vouch && (s.q.Stable <= told || s.disk != 2 || r.o.conns[2].re.phase == entering) {
				t.Errorf("%+v to member %d, which was told %d before", s.q, s.disk, told)
			}
			r.bench.answer(s, whole(s, resp))
		}
	}
	i := slices.IndexFunc(r.proposed, func(p Proposal) bool { return p.Change == MarkIn })
	if len(hangs) == 0 || i < 0 || r.proposed[i].Proof <= told {
		t.Errorf("%d writes hang, proposed %+v, told %d; want MarkIn with a proof that is more than it was told before", len(hangs), r.proposed, told)
	}
	in := Member{Sync: InSync, Gen: 1}
	r.o.Meta(r.now, View{Revision: 3, Epoch: 3, Members: []Member{in, in, {Sync: InSync, Gen: 3, Proof: r.o.conns[2].proof.told}}})
	if !r.o.proven(2) {
		t.Error("it is in sync, and not proven")
	}
}

// Only one that is unproven has a write that was acknowledged perhaps, and can't read it: what another unproven one has is not taken for it.
func TestUnprovenIsNoSource(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	b := begins(t, testConfig, in, in, Member{Sync: Out, Gen: 2})
	b.fence(0, replica.Response{Stable: 40, Last: 40, Unproven: true})
	b.fence(1, replica.Response{Stable: 40, Last: 45, Unproven: true, Tail: []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 45}, Len: 8}}})
	b.fence(2, replica.Response{})
	spoiled := true
	for n := range 20 {
		spoiled = n < 10
		for _, s := range b.replies(func(s sent, resp *replica.Response) {
			if s.q.Kind == replica.Read && spoiled {
				resp.Status = replica.Medium
			}
		}) {
			if s.q.Kind == replica.Read && s.disk != 1 || s.q.Kind == replica.Write && spoiled {
				t.Errorf("%+v was sent to member %d", s.q, s.disk)
			}
		}
		if b.o.Serving() == spoiled {
			t.Fatalf("serving %v while the only one with the write can't read it: %v", b.o.Serving(), spoiled)
		}
		b.pass(testConfig.RetryAfter)
	}
}

// A replica that comes back when the owner serves without it is told to have lost what it had acknowledged, and does not have: regions whose last write
// is not above the watermark that others had stored, and neither below its own nor in its tail. Region 3 it had no space for, so its
// content is the same; what it has of region 1 it can't read.
func TestResyncTellsOfLoss(t *testing.T) {
	last := []uint64{38, 38, 20, 38, 38, 38, 41, 0, 0, 0, 0, 0, 0, 0, 0, 0} // write to each region
	tail := []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 35}, Off: 4*32 + 8, Len: 8}}
	in := Member{Sync: InSync, Gen: 1, Proof: 10}
	for name, c := range map[string]struct {
		was  Sync
		back replica.Response
		want int64
	}{
		"it has lost writes":         {InSync, replica.Response{Stable: 30, Last: 35, Unproven: true, Tail: tail}, 2},
		"it has lost copies":         {InSync, replica.Response{Stable: 5, Last: 5, Unproven: true}, 4},
		"its machine stayed up":      {InSync, replica.Response{Stable: 30, Last: 35, Tail: tail}, 0},
		"it has the whole watermark": {InSync, replica.Response{Stable: 40, Last: 40, Unproven: true}, 0},
		"it was out before":          {Out, replica.Response{Stable: 30, Last: 35, Unproven: true, Tail: tail}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := begins(t, broad(), in, in, Member{Sync: c.was, Gen: 1, Proof: 10})
			b.fence(0, replica.Response{Stable: 40, Last: 40, Differ: []int64{1024}})
			b.fence(1, replica.Response{Stable: 40, Last: 40, Differ: []int64{1024}})
			b.pass(2 * testConfig.OutAfter)
			b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2, Proof: 10}}})
			c.back.Differ = []int64{1024}
			b.fence(2, c.back)
			b.pass(testConfig.RetryAfter)
			b.o.Meta(b.now, View{Revision: 3, Epoch: 3, Members: []Member{in, in, {Sync: Rebuilding, Gen: 3, Proof: 10}}})
			copied := map[int64]bool{}
			for end := b.now.Add(time.Second); b.now < end && b.o.conns[2].re.phase != entering; b.pass(time.Millisecond) {
				b.replies(func(s sent, resp *replica.Response) {
					first, n := s.q.Off/32, s.q.Len/32
					for r := first; r < first+n; r++ {
						switch s.q.Kind {
						case replica.Versions:
							resp.Vers[r-first] = replica.Version{Epoch: 2, Seq: last[r]}
						case replica.Read:
							resp.Vers[r-first] = replica.Version{Epoch: 2, Seq: last[r]}
							resp.Data = append(resp.Data, slices.Repeat([]byte{1}, 32)...)
							if s.disk == 2 && r != 3 {
								resp.Data[0] = 2
							}
							if s.disk == 2 && r == 1 {
								*resp = replica.Response{Status: replica.Medium}
							}
						case replica.Confirm:
							resp.Differ = append(resp.Differ, r*32)
						case replica.Copy:
							copied[r] = true
						default:
						}
					}
				})
			}
			if got := b.o.Status().Members[2].LostRegions; got != c.want || len(copied) != len(last) {
				t.Errorf("told to have lost %d regions, %d were copied; want %d, and all", got, len(copied), c.want)
			}
		})
	}
}
