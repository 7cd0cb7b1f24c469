package volume

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
)

// paced is a pacer with a clock in the test's hands.
type paced struct {
	pacer
	cfg Config
	now clock.Mono
}

func newPaced() *paced {
	return &paced{now: 1, cfg: Config{
		RebuildJobs: 32, RequestTimeout: 500 * time.Millisecond, Pace: time.Millisecond, PaceFactor: DefaultPaceFactor, PaceListen: time.Second, PaceMax: 5 * time.Millisecond,
	}}
}

// hosts has ops end, one each millisecond, one of slow of them after rare and the others after d.
func (p *paced) hosts(n int, d time.Duration, slow int, rare time.Duration, resync bool) {
	for i := range n {
		p.now = p.now.Add(time.Millisecond)
		took := d
		if slow > 0 && i%slow == 0 {
			took = rare
		}
		p.saw(&p.cfg, p.now, took, resync)
		if resync {
			p.pause(&p.cfg, p.now)
		}
	}
}

// begin has the resync begin.
func (p *paced) begin() { p.pause(&p.cfg, p.now) }

// TestPaceIsTwiceTheCalm: what hosts may wait follows from what they waited.
func TestPaceIsTwiceTheCalm(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 3*time.Millisecond, 20, 8*time.Millisecond, false)
	p.cfg.PaceListen = time.Hour // no more
	p.begin()
	if p.bound < 14*time.Millisecond || p.bound > 16*time.Millisecond {
		t.Fatalf("the bound is %v of a 99th percentile of 8ms", p.bound)
	}
	if p.usual < 4*time.Millisecond || p.usual > 5*time.Millisecond {
		t.Fatalf("half of the ops may take %v, where they take 3ms", p.usual)
	}
	for _, c := range []struct {
		n     int
		d     time.Duration
		slow  int
		rare  time.Duration
		steps int
		gap   time.Duration
		about string
	}{
		{3000, 3 * time.Millisecond, 0, 0, 32, 0, "hosts within the bound"},
		{3000, 3 * time.Millisecond, 50, 18 * time.Millisecond, 1, p.cfg.PaceMax, "2 ops of 100 over the bound"},
		{6000, 3 * time.Millisecond, 200, 18 * time.Millisecond, 32, 0, "1 op of 200 over it"},
		{3000, 6 * time.Millisecond, 0, 0, 1, p.cfg.PaceMax, "all within it, and twice as long as usual"},
		{6000, 6 * time.Millisecond, 2, 3 * time.Millisecond, 32, 0, "half of them as long as usual"},
	} {
		if p.hosts(c.n, c.d, c.slow, c.rare, true); p.steps(&p.cfg) != c.steps || p.gap != c.gap {
			t.Errorf("%d steps, %v between them, with %s: want %d, %v", p.steps(&p.cfg), p.gap, c.about, c.steps, c.gap)
		}
	}
}

// TestPaceByAFactor: what hosts may wait is what the administrator says, times what they waited; the median grows by half as much.
func TestPaceByAFactor(t *testing.T) {
	for factor, want := range map[float64][2]time.Duration{
		1.2: {9600 * time.Microsecond, 3300 * time.Microsecond}, 4: {32 * time.Millisecond, 7500 * time.Microsecond}, 100: {800 * time.Millisecond, 151 * time.Millisecond},
	} {
		p := newPaced()
		p.cfg.PaceFactor, p.cfg.PaceListen = factor, time.Hour
		p.hosts(3000, 3*time.Millisecond, 20, 8*time.Millisecond, false)
		p.begin()
		if p.bound < want[0]*7/8 || p.bound > want[0]*9/8 || p.usual < want[1]*7/8 || p.usual > want[1]*9/8 {
			t.Errorf("with %g times: %v, and half of them %v, of 8ms and 3ms: want %v", factor, p.bound, p.usual, want)
		}
	}
}

// TestPaceListens: nothing is copied for a while where nothing is known of the hosts,
// and for a twentieth of the time later, while there are hosts.
func TestPaceListens(t *testing.T) {
	p := newPaced()
	if wait := p.pause(&p.cfg, p.now); wait != p.cfg.PaceListen {
		t.Errorf("a resync of which nothing is known begins after %v", wait)
	}
	p.hosts(1200, 5*time.Millisecond, 0, 0, true)
	if p.bound < 8*time.Millisecond || p.bound > 10*time.Millisecond {
		t.Errorf("the bound is %v of 5ms", p.bound)
	}
	if p.steps(&p.cfg) > 3 {
		t.Errorf("it begins with %d steps", p.steps(&p.cfg))
	}
	silent := 0
	for range 200_000 {
		p.hosts(1, 2*time.Millisecond, 0, 0, true)
		if p.now < p.silent {
			silent++
		}
	}
	if silent < 8000 || silent > 12000 {
		t.Errorf("of 200 s it listened %d ms", silent)
	}
	if p.bound > 4*time.Millisecond {
		t.Errorf("the bound is %v after 200 s in which hosts wait 2ms", p.bound)
	}
}

// TestPaceAfterAStandstill: what queued in the hosts meanwhile comes at once, and is not what they usually wait.
func TestPaceAfterAStandstill(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 2*time.Millisecond, 0, 0, false)
	p.hosts(1000, 9*time.Millisecond, 0, 0, false)
	p.begin()
	if p.usual < 2*time.Millisecond || p.usual > 4*time.Millisecond {
		t.Errorf("half of the ops may take %v, where they took 2ms until a moment ago", p.usual)
	}
}

// TestPaceBeginsSlowly: what the last resync was allowed says nothing of the next one.
func TestPaceBeginsSlowly(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 2*time.Millisecond, 0, 0, false)
	for range 2 {
		if p.begin(); p.steps(&p.cfg) != 1 {
			t.Fatalf("a resync begins with %d steps, with hosts", p.steps(&p.cfg))
		}
		if p.hosts(5000, 2*time.Millisecond, 0, 0, true); p.steps(&p.cfg) != 32 {
			t.Fatalf("%d steps after 5 s with hosts as fast as without", p.steps(&p.cfg))
		}
		p.hosts(3000, 2*time.Millisecond, 0, 0, false)
	}
}

// TestPaceWithoutHosts: where nobody waits there is no pause.
func TestPaceWithoutHosts(t *testing.T) {
	p := newPaced()
	paused := 0
	for range 10_000 {
		p.now = p.now.Add(time.Millisecond)
		if p.pause(&p.cfg, p.now) > 0 {
			paused++
		}
	}
	if want := int(p.cfg.PaceListen / time.Millisecond); paused > want {
		t.Errorf("in %d ms of 10 s nothing was copied: want %d, before it begins", paused, want)
	}
	if p.steps(&p.cfg) != 32 {
		t.Errorf("%d steps", p.steps(&p.cfg))
	}
}

// TestPaceOnceHostsAreGone: a resync takes what is there as soon as nobody is left to wait for it, also
// where hosts were, and gives it back when they come.
func TestPaceOnceHostsAreGone(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 2*time.Millisecond, 0, 0, false)
	p.now = p.now.Add(paceQuiet)
	if p.begin(); p.steps(&p.cfg) != paceJobs {
		t.Errorf("a resync begins with %d steps, a second after the last op of a host: want %d", p.steps(&p.cfg), paceJobs)
	}
	p.now = p.now.Add(paceWindow)
	if p.begin(); p.steps(&p.cfg) != 32 {
		t.Errorf("%d steps after a window without hosts: want twice as many as before", p.steps(&p.cfg))
	}
	p.hosts(1000, 20*time.Millisecond, 0, 0, true)
	if p.steps(&p.cfg) != 1 {
		t.Errorf("%d steps, with hosts that wait ten times as long as without a resync", p.steps(&p.cfg))
	}
}

// TestPaceOfASlowHour: what is copied is not held up by what hosts wait for other reasons, once that is heard.
func TestPaceOfASlowHour(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 2*time.Millisecond, 0, 0, false)
	p.begin()
	p.hosts(2000, 6*time.Millisecond, 0, 0, true)
	if p.steps(&p.cfg) != 1 {
		t.Errorf("%d steps while hosts wait three times as long", p.steps(&p.cfg))
	}
	for range 120_000 { // with and without copies
		p.hosts(1, 6*time.Millisecond, 0, 0, true)
	}
	if p.steps(&p.cfg) != 32 {
		t.Errorf("%d steps, %v between them, after two minutes in which hosts wait as long in the pauses: the bounds are %v and %v",
			p.steps(&p.cfg), p.gap, p.bound, p.usual)
	}
}

// TestPaceOfASlowDisk: copies that take long are enough of a reason, without hosts.
func TestPaceOfASlowDisk(t *testing.T) {
	p := newPaced()
	for range 100 {
		p.now = p.now.Add(50 * time.Millisecond)
		p.took(&p.cfg, 10*time.Millisecond)
		p.pause(&p.cfg, p.now)
	}
	if p.steps(&p.cfg) != 32 {
		t.Errorf("%d steps with a fast disk and no hosts", p.steps(&p.cfg))
	}
	for range 100 {
		p.now = p.now.Add(50 * time.Millisecond)
		p.took(&p.cfg, 130*time.Millisecond)
		p.pause(&p.cfg, p.now)
	}
	if p.steps(&p.cfg) != 1 {
		t.Errorf("%d steps while each copy takes more than a quarter of what makes the owner give up", p.steps(&p.cfg))
	}
}

// TestPaceOnTheWhole: the limit is found by going beyond it, and still no more than about one op of
// 100 is late, of all of a long resync.
func TestPaceOnTheWhole(t *testing.T) {
	p := newPaced()
	p.hosts(3000, 3*time.Millisecond, 0, 0, false)
	p.begin()
	late, regions := 0, 0
	const ops = 30_000
	for i := range ops {
		// With more than 8 regions under way each fifth op is late.
		slow := 3 * time.Millisecond
		if p.steps(&p.cfg) > 8 && p.now >= p.silent && i%5 == 0 {
			late++
			slow = 20 * time.Millisecond
		}
		regions += p.steps(&p.cfg)
		p.hosts(1, slow, 0, 0, true)
	}
	if late > ops*12/1000 {
		t.Errorf("%d of %d ops were late: want about one of 100", late, ops)
	}
	if regions/ops < 4 {
		t.Errorf("%d regions under way on average, where 8 hurt nobody", regions/ops)
	}
}

// TestPaceAfterATakeover: what hosts have waited for a takeover is not what they wait without resync.
func TestPaceAfterATakeover(t *testing.T) {
	p := newPaced()
	p.disturbed(&p.cfg, p.now.Add(300*time.Millisecond))
	p.hosts(300, 300*time.Millisecond, 0, 0, true)
	p.hosts(1500, 2*time.Millisecond, 0, 0, true)
	if p.bound == 0 || p.bound > 4*time.Millisecond {
		t.Errorf("the bound is %v of hosts that wait 2ms, once the takeover is over", p.bound)
	}
}
