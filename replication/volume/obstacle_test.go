package volume

import (
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// A disk that has become slow is told to be the reason why its replica is out, with what writes took there and elsewhere, and
// until when it is not tried again; what fails like the first attempt is no other time. When all is there again nothing holds it up.
func TestSlowDiskIsToldOf(t *testing.T) {
	in := Member{Sync: InSync, Gen: 1}
	c := newSlow(t, slowConfig, 32, in, in, in)
	c.stores[0].io, c.stores[1].io, c.stores[2].io = 2*time.Millisecond, 80*time.Millisecond, 2*time.Millisecond // it answers in time, and late
	obstacle := func(d int) Obstacle { return c.o.Status().Members[d].Obstacle }
	c.run(time.Minute, func() bool { return c.members[1].Sync != InSync })
	h := obstacle(1)
	if h.What != Slow || !h.Now || h.Times != 1 || h.Took < slowConfig.RequestTimeout/lagPart || h.Others <= 0 || h.Others*lagFactor >= h.Took {
		t.Fatalf("when it is out: %+v; want slow, once, and much slower than others", h)
	}
	c.run(10*time.Second, func() bool { return obstacle(1).Wait > 3*time.Second })
	if again := obstacle(1); again.Wait <= 3*time.Second || again.Times != 1 || !again.Now || again.Ago <= h.Ago {
		t.Errorf("when attempts have failed: %+v; want it not to be tried for longer and longer", again)
	}
	c.stores[1].io = 2 * time.Millisecond
	c.run(20*time.Second, func() bool { return c.members[1].Sync == InSync })
	if back := obstacle(1); c.members[1].Sync != InSync || back.Now || back.Wait != 0 || back.Times != 1 {
		t.Errorf("%+v when it is %+v", back, c.members[1])
	}
	if obstacle(0) != (Obstacle{}) || obstacle(2) != (Obstacle{}) {
		t.Errorf("of the others: %+v, %+v", obstacle(0), obstacle(2))
	}
}

// Who keeps a write to itself is told to have done so, and for how long.
func TestHungWriteIsToldOf(t *testing.T) {
	b := serves(t)
	b.o.Submit(b.now, writeAt(0))
	limit := requestLimit * testConfig.RequestTimeout
	b.busy(limit+20*time.Millisecond, func(s sent) bool {
		return s.disk == 2 && (s.q.Kind == replica.Fence || s.q.Off == 0 && s.q.Kind == replica.Write)
	})
	in := Member{Sync: InSync, Gen: 1}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
	if h := b.o.Status().Members[2].Obstacle; h.What != Hung || !h.Now || h.Times != 1 || h.Took < limit {
		t.Errorf("%+v; want it to have kept a request for %v", h, limit)
	}
	b.busy(testConfig.RequestTimeout*2, func(s sent) bool { return s.disk == 2 }) // no session begins: that tells nothing new
	if h := b.o.Status().Members[2].Obstacle; h.What != Hung || h.Times != 1 {
		t.Errorf("%+v when it begins no session", h)
	}
}

// A replica that answers nothing for a moment was silent, and is not any more when it is back in time.
func TestSilenceIsToldOf(t *testing.T) {
	b := serves(t)
	silent := true
	hold := func(s sent) bool { return silent && s.disk == 2 }
	b.busy(testConfig.RequestTimeout+10*time.Millisecond, hold)
	if h := b.o.Status().Members[2].Obstacle; h.What != Silent || h.Times != 1 || h.Took < testConfig.RequestTimeout || h.Now {
		t.Errorf("%+v; want it to have been silent, and to count as yet", h)
	}
	silent = false
	b.take(replica.Fence)
	b.busy(testConfig.RequestTimeout*3/2, hold) // until a new session begins
	in := Member{Sync: InSync, Gen: 1}
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
	if h := b.o.Status().Members[2].Obstacle; h.Times != 1 || h.Now {
		t.Errorf("%+v of one that was back, and is out since for something else", h)
	}
}

// A replica is back when it was to be marked out, and is not: when it is out later that has another reason.
func TestObstacleOfWhoIsKept(t *testing.T) {
	b := serves(t)
	silent := true
	hold := func(s sent) bool { return silent && s.disk == 2 }
	for end := b.now.Add(time.Second); b.now < end && !b.outOf(2); {
		b.busy(5*time.Millisecond, hold)
	}
	silent = false
	for end := b.now.Add(time.Second); b.now < end && !b.o.Status().Members[2].Connected; {
		b.busy(5*time.Millisecond, hold)
	}
	in := Member{Sync: InSync, Gen: 1}
	for i, m := range []Member{{Sync: InSync, Gen: 2}, {Sync: Out, Gen: 3}} {
		b.o.Meta(b.now, View{Revision: uint64(2 + i), Epoch: 3, Members: []Member{in, in, m}})
		if x := b.o.Status().Members[2]; !b.outOf(2) || !x.Connected || x.Obstacle.Times != 1 || x.Obstacle.Now {
			t.Errorf("when it is %+v: connected %v, %+v", m, x.Connected, x.Obstacle)
		}
	}
}

// Who is silent and then marked out was so because of that, also when there is a session again; not if it was down.
func TestSilenceOfWhoWasDownIsOver(t *testing.T) {
	for boot, want := range map[uint64]bool{1: true, 2: false} {
		b := serves(t)
		b.busy(testConfig.RequestTimeout+testConfig.OutAfter+20*time.Millisecond, func(s sent) bool { return s.disk == 2 })
		in := Member{Sync: InSync, Gen: 1}
		b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Sync: Out, Gen: 2}}})
		connected := func() bool { return b.o.Status().Members[2].Connected }
		for end := b.now.Add(time.Second); b.now < end && !connected(); b.pass(5 * time.Millisecond) {
			for _, s := range b.take(replica.Fence) {
				b.o.Answer(b.now, 2, replica.Response{ID: s.q.ID, Epoch: s.q.Epoch, Boot: boot, Status: replica.OK, Last: 40, Stable: 40})
			}
		}
		if x := b.o.Status().Members[2].Obstacle; !connected() || x.What != Silent || x.Times != 1 || x.Now != want {
			t.Errorf("back with boot %d: %+v; want it to be in the way still: %v", boot, x, want)
		}
	}
}

// A full disk holds up the replica that is brought back until there is space for all of it.
func TestFullDiskIsToldOf(t *testing.T) {
	r := newRebuilding(t, broad(), nil)
	space := false
	r.answer = func(s sent) replica.Response {
		if s.q.Kind == replica.Copy && !space {
			return full
		}
		return ok
	}
	obstacle := func() Obstacle { return r.o.Status().Members[2].Obstacle }
	if r.run(20*time.Millisecond) || obstacle().What != Full || !obstacle().Now || obstacle().Wait <= 0 {
		t.Fatalf("%+v; want it to be full, and to wait", obstacle())
	}
	if r.run(10 * broad().FullAfter); obstacle().Times != 1 || !obstacle().Now {
		t.Errorf("%+v after more attempts", obstacle())
	}
	space = true
	if !r.run(time.Minute) || obstacle().Now || obstacle().Wait != 0 || obstacle().Times != 1 {
		t.Errorf("%+v when there is space", obstacle())
	}
}

// A disk that is full has another reason than one that is slow: what is to be done differs. Ways of being slow do not.
func TestFullDiskAfterASlowOneIsAnotherTime(t *testing.T) {
	var h obstacle
	for i, what := range []Hinders{Slow, Hung, Slow, Full, Full, Silent} {
		h.met(1, what, 0, 0)
		if want := []uint64{1, 1, 1, 2, 2, 3}[i]; h.times != want || h.what != what {
			t.Errorf("step %d: %+v, want %d times", i, h, want)
		}
	}
}
