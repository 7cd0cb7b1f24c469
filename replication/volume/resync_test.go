package volume

import (
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// TestRebuildCounts: what was compared, and what was sent; a hole is no data.
func TestRebuildCounts(t *testing.T) {
	b := begins(t, testConfig, Member{Sync: InSync, Gen: 1}, Member{Sync: InSync, Gen: 1}, Member{Sync: Rebuilding, Gen: 2})
	b.fenced(ok, 0, 1, 2)
	b.o.Meta(b.now, View{Revision: 2, Epoch: b.o.epoch, Members: []Member{{Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}, {Sync: Rebuilding, Gen: 3}}})
	const hole, data = 0, 96
	for end := b.now.Add(time.Second); b.now < end && b.o.conns[2].re.phase != entering; b.pass(5 * time.Millisecond) {
		for len(b.sent) > 0 {
			s := b.sent[0]
			b.sent = b.sent[1:]
			resp := replica.Response{Status: replica.OK}
			switch s.q.Kind {
			case replica.Versions:
				resp.Vers = make([]replica.Version, (s.q.Len+31)/32)
			case replica.Confirm:
				for _, differs := range []int64{hole, data} {
					if s.q.Off <= differs && differs < s.q.Off+s.q.Len {
						resp.Differ = append(resp.Differ, differs)
					}
				}
			case replica.Read:
				if s.q.Off == data {
					resp.Data = make([]byte, s.q.Len)
				}
			default:
			}
			b.answer(s, resp)
		}
	}
	if s := b.o.Status(); b.o.conns[2].re.phase != entering || s.Compared != 128 || s.Copied != 32 {
		t.Errorf("phase %d: compared %d bytes, copied %d; want all 128, and the 32 that are no hole", b.o.conns[2].re.phase, s.Compared, s.Copied)
	}
}

// rebuilding is an owner that brings member 2 back, whose regions all differ.
type rebuilding struct {
	*bench
	copies []Range // in order
	answer func(s sent) replica.Response
}

// Range is of a Copy, in regions.
type Range struct{ first, n int64 }

func newRebuilding(t *testing.T, cfg Config, copyMax []int64) *rebuilding {
	b := begins(t, cfg, Member{Sync: InSync, Gen: 1}, Member{Sync: InSync, Gen: 1}, Member{Sync: Rebuilding, Gen: 2})
	b.fenced(replica.Response{Differ: copyMax}, 0, 1, 2)
	b.o.Meta(b.now, View{Revision: 2, Epoch: b.o.epoch, Members: []Member{{Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}, {Sync: Rebuilding, Gen: 3}}})
	return &rebuilding{bench: b, answer: func(sent) replica.Response { return ok }}
}

// run answers everything for that long, or until all regions are clean.
func (r *rebuilding) run(d time.Duration) (done bool) {
	for end := r.now.Add(d); r.now < end && r.o.conns[2].re.phase != entering; r.pass(time.Millisecond) {
		for len(r.sent) > 0 {
			s := r.sent[0]
			r.sent = r.sent[1:]
			if s.q.Kind == replica.Copy {
				r.copies = append(r.copies, Range{s.q.Off / 32, s.q.Len / 32})
			}
			resp := r.answer(s)
			if resp.Status == replica.OK {
				resp = whole(s, resp)
			}
			r.bench.answer(s, resp)
		}
	}
	return r.o.conns[2].re.phase == entering
}

// whole is resp with all that was asked for.
func whole(s sent, resp replica.Response) replica.Response {
	regions := (s.q.Len + 31) / 32
	switch s.q.Kind {
	case replica.Versions, replica.Read:
		for i := range regions {
			resp.Vers = append(resp.Vers, replica.Version{Epoch: 1, Seq: uint64(s.q.Off/32 + i)})
		}
		resp.Data = make([]byte, s.q.Len)
	case replica.Confirm:
		for i := range regions {
			resp.Differ = append(resp.Differ, s.q.Off+32*i)
		}
	default:
	}
	return resp
}

func broad() Config {
	cfg := testConfig
	cfg.ExtentBytes, cfg.VolumeBytes = 8*32, 16*32
	cfg.CompareRegions, cfg.CopyRegions, cfg.RebuildJobs = 8, 4, 16
	cfg.FullAfter = 50 * time.Millisecond
	return cfg
}

// TestNeighboursAreCopiedAtOnce, as many as the replica says that it takes, each with its
// own version.
func TestNeighboursAreCopiedAtOnce(t *testing.T) {
	for _, c := range []struct {
		copyMax []int64
		want    int64
	}{{[]int64{1024}, 4}, {[]int64{64}, 2}, {nil, 1}} {
		r := newRebuilding(t, broad(), c.copyMax)
		r.answer = func(s sent) replica.Response {
			if n := s.q.Len / 32; s.q.Kind == replica.Copy && n > 1 && (int64(len(s.q.Vers)) != n || s.q.Vers[n-1].Seq != uint64(s.q.Off/32+n-1)) {
				t.Errorf("a copy of %d regions at %d with the versions %v", n, s.q.Off, s.q.Vers)
			}
			return ok
		}
		if !r.run(time.Second) {
			t.Fatal("the rebuild does not end")
		}
		for i, at := range r.copies {
			if at.n != c.want || at.first != int64(i)*c.want {
				t.Errorf("a replica that takes %v: copies %v, want %d regions each", c.copyMax, r.copies, c.want)
				break
			}
		}
	}
}

// TestUnreadableNeighbours: a region that can't be read does not hold up those beside it.
func TestUnreadableNeighbours(t *testing.T) {
	r := newRebuilding(t, broad(), []int64{1024})
	bad := true
	r.answer = func(s sent) replica.Response {
		if s.q.Kind == replica.Read && s.q.Off <= 64 && 64 < s.q.Off+s.q.Len && bad {
			return replica.Response{Status: replica.Medium}
		}
		return ok
	}
	if r.run(200 * time.Millisecond) {
		t.Fatal("the rebuild ended without a region that nobody can read")
	}
	if left := r.o.Status().Members[2].Left; left != 1 {
		t.Errorf("%d regions are left, want only the unreadable one", left)
	}
	if bad = false; !r.run(200 * time.Millisecond) {
		t.Error("the rebuild does not end when the region can be read")
	}
}

// TestRefusedCopiesHoldUpNothing: a disk is full, and what others have cleared makes space only
// when the rebuild gets there, behind more refused regions than may be under way.
func TestRefusedCopiesHoldUpNothing(t *testing.T) {
	cfg := broad()
	cfg.RebuildJobs = 2
	r := newRebuilding(t, cfg, []int64{1024})
	space := false
	r.answer = func(s sent) replica.Response {
		switch {
		case s.q.Kind == replica.Copy && s.q.Off == 15*32:
			space = true
		case s.q.Kind == replica.Copy && !space:
			return replica.Response{Status: replica.NoSpace}
		}
		return ok
	}
	if !r.run(time.Second) {
		t.Fatalf("the rebuild does not end; copies of %v", r.copies)
	}
	if got := r.o.Status().Members[2].Refused; got != 15 {
		t.Errorf("%d copies were refused, want each of the first 15 regions once", got)
	}
}

// TestRefusedWritesEndNoRebuild: a host writes on, to a disk that is full and being rebuilt. The session lasts,
// nothing that was found equal is compared anew, and what the disk lacks is copied when there is space.
func TestRefusedWritesEndNoRebuild(t *testing.T) {
	r := newRebuilding(t, broad(), nil)
	space, filled, voids, compared := false, false, 0, 0
	r.answer = func(s sent) replica.Response {
		switch {
		case s.disk != 2:
		case s.q.Kind == replica.Confirm:
			compared++
		case s.q.Kind == replica.Copy && s.q.Ver == replica.NoVersion:
			voids++
		case s.q.Kind == replica.Copy && s.q.Off == 15*32 && !space, s.q.Off == 0 && filled && !space:
			return full
		}
		return ok
	}
	r.run(50 * time.Millisecond)
	before := compared
	filled, r.proposed = true, nil
	for range 100 {
		op := writeAt(0)
		r.o.Submit(r.now, op)
		if r.run(5 * time.Millisecond); op.Err != nil || len(r.complete) == 0 {
			t.Fatalf("a write that the others took ended with %v", op.Err)
		}
		if r.complete = nil; r.o.Status().Members[2].Left != 2 {
			t.Fatalf("%d regions are left, want the one that is written and the one that was not copied", r.o.Status().Members[2].Left)
		}
	}
	if session := r.o.conns[2].session; session != 1 || len(r.proposed) != 0 || compared != before || voids != 1 {
		t.Errorf("session %d, proposed %+v, %d regions compared anew, the written one lost its version %d times; want one session, and that once",
			session, r.proposed, compared-before, voids)
	}
	r.copies, space = nil, true
	if !r.run(time.Second) {
		t.Fatal("the rebuild does not end when there is space")
	}
	if len(r.copies) != 2 || r.copies[0].first+r.copies[1].first != 15 {
		t.Errorf("copied %v, want the regions 0 and 15", r.copies)
	}
}

// A replica that can't even forget the version of a region begins anew, when it has had time to make space.
func TestRefusedLossOfAVersionEndsTheRebuild(t *testing.T) {
	r := newRebuilding(t, broad(), nil)
	r.answer = func(s sent) replica.Response {
		if s.disk == 2 && (s.q.Kind == replica.Write || s.q.Kind == replica.Copy && (s.q.Ver == replica.NoVersion || s.q.Off == 15*32)) {
			return full
		}
		return ok
	}
	r.run(50 * time.Millisecond)
	r.proposed = nil
	op := writeAt(0)
	r.o.Submit(r.now, op)
	if r.run(broad().FullAfter / 2); op.Err != nil || len(r.complete) != 1 || r.o.conns[2].session != 2 || len(r.proposed) != 0 {
		t.Fatalf("the write ended with %v, session %d, proposed %+v; want no other rebuild yet", op.Err, r.o.conns[2].session, r.proposed)
	}
	if r.run(broad().FullAfter); len(r.proposed) == 0 || r.proposed[0].Change != MarkRebuilding {
		t.Errorf("proposed %+v, want another rebuild", r.proposed)
	}
}

// TestReplicasShareWhatIsUnderWay: of several that are brought back at a time each has its part of RebuildJobs, and at least two full messages.
func TestReplicasShareWhatIsUnderWay(t *testing.T) {
	for count, want := range map[int]int{1: 64, 2: 32, 3: 21, 4: 16, 9: 16} {
		o := &Owner{cfg: Config{RebuildJobs: 64}}
		for range count {
			o.conns = append(o.conns, &conn{re: rebuild{phase: comparing}})
		}
		o.conns = append(o.conns, &conn{})
		if n := o.steps(); n != want {
			t.Errorf("%d are brought back with %d regions each under way, want %d", count, n, want)
		}
	}
}
