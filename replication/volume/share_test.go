package volume

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// turns has two in turn for d, steps take step each, and returns how many each did.
func turns(s *Share, from clock.Mono, d, step time.Duration, factor float64) (n [2]int) {
	var at [2]clock.Mono
	for now := from; now < from.Add(d); now = now.Add(100 * time.Microsecond) {
		for i := range n {
			if at[i] == 0 {
				at[i] = s.turn(now, factor)
			}
			if now >= at[i] {
				s.took(step)
				n[i]++
				at[i] = 0
			}
		}
	}
	return n
}

// TestShareOfTheTime: steps have a share of the time, in turn; the longer they take, the fewer there are, and they never end.
func TestShareOfTheTime(t *testing.T) {
	for _, c := range []struct {
		step     time.Duration
		factor   float64
		from, to int // both, in 10 s
	}{
		{time.Millisecond, 2, 2350, 2600},
		{5 * time.Millisecond, 2, 480, 530},
		{5 * time.Millisecond, 1.2, 95, 125},
		{5 * time.Millisecond, 100, 1900, 2100},
		{10 * time.Microsecond, 2, 9500, 10001},
		{time.Minute, 2, 50, 60},
	} {
		s := &Share{}
		turns(s, 1, time.Minute, c.step, c.factor) // to know what they take
		n := turns(s, clock.Mono(time.Hour), 10*time.Second, c.step, c.factor)
		if all := n[0] + n[1]; all < c.from || all > c.to || n[0] < all/3 || n[1] < all/3 {
			t.Errorf("hosts may wait %v times as long, a step takes %v: %v in 10 s, want %d to %d in turn", c.factor, c.step, n, c.from, c.to)
		}
	}
}

// TestShareIsForOthersHosts: a volume without hosts takes turns while others have any, and one with hosts finds its limit by these.
func TestShareIsForOthersHosts(t *testing.T) {
	p := newPaced()
	p.cfg.Share, p.cfg.CopyRegions, p.cfg.PaceListen = &Share{}, 8, 0
	at := p.now.Add(time.Minute)
	if p.shares(&p.cfg, at) {
		t.Error("nobody has hosts, and it takes turns")
	}
	p.cfg.Share.Saw(at)
	if !p.shares(&p.cfg, at.Add(paceQuiet-shareNoticed)) || p.shares(&p.cfg, at.Add(paceQuiet)) {
		t.Error("it takes no turns while another volume has hosts, or when these are gone")
	}
	if p.jobs = 64; p.pause(&p.cfg, at) != 0 || p.stepRegions(&p.cfg) != 8 {
		t.Errorf("another volume has hosts: steps of %d regions, want 8", p.stepRegions(&p.cfg))
	}
	p.cfg.Share.heard(at.Add(time.Hour))
	if !p.shares(&p.cfg, at.Add(time.Hour)) || p.cfg.Share.Hosts(at.Add(time.Hour)) {
		t.Error("a node to which it copies has hosts, and it takes no turns, or tells others that this node has them")
	}
	p.saw(&p.cfg, at, time.Millisecond, true)
	if p.shares(&p.cfg, at) || !p.cfg.Share.Hosts(at) {
		t.Error("its own hosts are there, and it takes turns, or others don't hear of them")
	}
}

// TestTurnsOfAnOwner: what is copied for a volume without hosts waits for its turn, and goes on when it comes, no later, while
// its node has hosts, or one that it copies to says so.
func TestTurnsOfAnOwner(t *testing.T) {
	for _, here := range []bool{true, false} {
		cfg := broad()
		cfg.Pace, cfg.PaceFactor, cfg.Share = time.Millisecond, 2, &Share{step: 10 * time.Millisecond}
		r := newRebuilding(t, cfg, []int64{1024})
		var at []clock.Mono
		r.answer = func(s sent) replica.Response {
			if s.q.Kind == replica.Copy {
				at = append(at, r.now)
				cfg.Share.step = 10 * time.Millisecond // as if it took that
			}
			return replica.Response{Status: replica.OK, Hosts: !here && s.disk == 2}
		}
		for done := false; !done && r.now < clock.Mono(time.Second); {
			if here {
				cfg.Share.Saw(r.now)
			}
			done = r.run(time.Millisecond)
			if turn := r.o.conns[2].re.turn; r.now < turn && r.o.Deadline() > turn {
				t.Fatalf("the turn is at %v, and the owner asks to be called at %v", turn, r.o.Deadline())
			}
		}
		if len(at) != 4 || r.copies[0].n != 4 {
			t.Fatalf("hosts here: %v: copied %v, want four times four regions", here, r.copies)
		}
		for i := 1; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < 30*time.Millisecond {
				t.Errorf("hosts here: %v: %v between two steps that take 10ms and have a quarter of the time", here, gap)
			}
		}
	}
}
