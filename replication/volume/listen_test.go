package volume

import (
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// together has the hosts of a wait d for n ops, one each millisecond, while b copies.
func together(a, b *paced, n int, d time.Duration) {
	for range n {
		a.now = a.now.Add(time.Millisecond)
		b.now = a.now
		a.ear.saw(a.now, d, false)
		b.pause(&b.cfg, b.now)
	}
}

// TestPaceOfAllVolumes: what an idle volume copies gives way to the hosts of another one on the node, by
// what these wait without it.
func TestPaceOfAllVolumes(t *testing.T) {
	l := NewListener(Bound{})
	a, b := newPacedWith(l), newPacedWith(l)
	a.hosts(3000, 2*time.Millisecond, 0, 0, false)
	b.now = a.now
	if b.begin(); b.now < b.silent || b.steps(&b.cfg) != 1 {
		t.Fatalf("with hosts that are known it begins with %d steps, in %v", b.steps(&b.cfg), b.silent.Sub(b.now))
	}
	if together(a, b, 6000, 2*time.Millisecond); b.steps(&b.cfg) != 32 {
		t.Fatalf("%d steps where nobody is held up", b.steps(&b.cfg))
	}
	if together(a, b, 300, 20*time.Millisecond); b.steps(&b.cfg) > 8 {
		t.Errorf("%d steps while the hosts of the other volume wait ten times as long", b.steps(&b.cfg))
	}
	if together(a, b, 3000, 20*time.Millisecond); b.steps(&b.cfg) != 1 || b.gap != b.cfg.PaceMax {
		t.Errorf("%d steps, %v between them, while that goes on: want one, %v", b.steps(&b.cfg), b.gap, b.cfg.PaceMax)
	}
}

// TestPaceWhenHostsOfOthersCome: a resync that went as fast as the disks let it, for want of hosts, has those that come
// to another volume heard first, and then gives way to them.
func TestPaceWhenHostsOfOthersCome(t *testing.T) {
	l := NewListener(Bound{})
	a, b := newPacedWith(l), newPacedWith(l)
	for range 6000 {
		b.now = b.now.Add(time.Millisecond)
		b.begin()
	}
	if b.steps(&b.cfg) != 32 {
		t.Fatalf("%d steps without hosts", b.steps(&b.cfg))
	}
	a.now = b.now
	together(a, b, 1, 20*time.Millisecond)
	if b.now >= b.silent {
		t.Errorf("nothing is known of the hosts that have come, and it goes on")
	}
	together(a, b, 250, 2*time.Millisecond)
	if together(a, b, 1000, 2*time.Millisecond); b.steps(&b.cfg) != 32 {
		t.Errorf("%d steps, with hosts that wait as long as without it", b.steps(&b.cfg))
	}
	if together(a, b, 1000, 20*time.Millisecond); b.steps(&b.cfg) > 4 {
		t.Errorf("%d steps, with hosts that wait ten times as long as without it", b.steps(&b.cfg))
	}
}

// TestPaceListensTogether: one pause is that of all volumes of the node, or what others copy would be heard in it.
func TestPaceListensTogether(t *testing.T) {
	l := NewListener(Bound{})
	a, b := newPacedWith(l), newPacedWith(l)
	a.hosts(3000, 2*time.Millisecond, 0, 0, false)
	alone, both := 0, 0
	for range 60_000 {
		a.now = a.now.Add(time.Millisecond)
		b.now = a.now
		a.ear.saw(a.now, 2*time.Millisecond, true)
		a.pause(&a.cfg, a.now)
		b.pause(&b.cfg, b.now)
		switch first, second := a.now < a.silent, b.now < b.silent; {
		case first && second:
			both++
		case first || second:
			alone++
		}
	}
	if alone > 20 || both < 2500 || both > 3500 {
		t.Errorf("of 60 s both were silent for %d ms, and one of them for %d: want 3000, 0", both, alone)
	}
}

// TestPaceHearsCalmOnly: what hosts wait while any volume of the node is copied is not what they wait without.
func TestPaceHearsCalmOnly(t *testing.T) {
	l := NewListener(Bound{})
	a, b := newPacedWith(l), newPacedWith(l)
	a.hosts(3000, 2*time.Millisecond, 0, 0, false)
	b.now = a.now
	b.listened = true
	together(a, b, 900, 50*time.Millisecond)
	a.begin()
	if a.ear.counts(a.now); a.ear.bound > 4*time.Millisecond {
		t.Errorf("the bound is %v of hosts that wait 2ms unless something is copied", a.ear.bound)
	}
}

// TestPaceOfUnknownHosts: an op now and then, of hosts of which nothing is known, slows nobody.
func TestPaceOfUnknownHosts(t *testing.T) {
	l := NewListener(Bound{})
	a, b := newPacedWith(l), newPacedWith(l)
	for i := range 10_000 {
		b.now = b.now.Add(time.Millisecond)
		if i > 2000 && i%50 == 0 {
			a.ear.saw(b.now, 30*time.Millisecond, false)
		}
		b.begin()
	}
	if b.steps(&b.cfg) != 32 || b.gap != 0 {
		t.Errorf("%d steps, %v between them", b.steps(&b.cfg), b.gap)
	}
}

// TestPaceOfOtherNodes: the disk that is copied to tells how the hosts fare that it serves, whoever owns their volumes.
func TestPaceOfOtherNodes(t *testing.T) {
	b, disk := newPaced(), NewListener(Bound{}).Ear()
	run := func(n int, d time.Duration, old bool) {
		for range n {
			b.now = b.now.Add(time.Millisecond)
			disk.saw(b.now, d, true)
			told := disk.Told(b.now)
			if old {
				told = nil
			}
			b.tells(b.now, 2, told)
			b.begin()
		}
	}
	for range 1000 {
		disk.saw(b.now.Add(time.Second), 2*time.Millisecond, false)
	}
	if run(3000, 20*time.Millisecond, true); b.steps(&b.cfg) != 32 {
		t.Errorf("%d steps, to a disk that tells nothing", b.steps(&b.cfg))
	}
	if run(3000, 2*time.Millisecond, false); b.steps(&b.cfg) != 32 {
		t.Errorf("%d steps, to a disk whose hosts wait as long as else", b.steps(&b.cfg))
	}
	if run(3000, 20*time.Millisecond, false); b.steps(&b.cfg) != 1 {
		t.Errorf("%d steps, to a disk whose hosts wait ten times as long", b.steps(&b.cfg))
	}
	disk = NewListener(Bound{}).Ear() // its node has started anew, and its counts are lower
	for range 1000 {
		disk.saw(b.now.Add(time.Second), 2*time.Millisecond, false)
	}
	if run(9000, 2*time.Millisecond, false); b.steps(&b.cfg) != 32 {
		t.Errorf("%d steps, to a disk whose hosts wait as long as else, after a restart of its node", b.steps(&b.cfg))
	}
}

// TestPaceByTheSet: the bound is what it was set to.
func TestPaceByTheSet(t *testing.T) {
	for factor, want := range map[float64][2]time.Duration{0: {18, 13}, 4: {36, 22}} {
		e := NewListener(Bound{Factor: factor}).Ear()
		for i := range clock.Mono(1000) {
			e.saw(1e9+i, 10*time.Millisecond, false)
		}
		e.counts(3e9)
		if got := [2]time.Duration{e.bound / time.Millisecond, e.usual / time.Millisecond}; got[0] > want[0] || got[0] < want[0]-2 || got[1] > want[1] || got[1] < want[1]-2 {
			t.Errorf("with a factor of %v hosts that wait 10ms may wait %v and %v, want %v ms", factor, e.bound, e.usual, want)
		}
	}
}

// TestCopiesAreOfNoHost: replicas can tell a read that a host waits for from one of what is to be copied or scrubbed.
func TestCopiesAreOfNoHost(t *testing.T) {
	r := newRebuilding(t, broad(), []int64{1024})
	reads := map[replica.Version]int{}
	r.answer = func(s sent) replica.Response {
		if s.q.Kind == replica.Read {
			reads[s.q.Ver]++
		}
		return ok
	}
	if !r.run(time.Second) || reads[replica.NoVersion] == 0 || len(reads) != 1 {
		t.Errorf("reads of what is copied, by version: %v", reads)
	}
	r.sent = nil
	r.o.Submit(r.now, &Op{Kind: Read, Data: make([]byte, 8)})
	r.o.Submit(r.now, &Op{Kind: Scrub, Off: 32, Len: 32})
	for _, s := range r.take(replica.Read) {
		if scrub := s.q.Off == 32; scrub != (s.q.Ver == replica.NoVersion) {
			t.Errorf("a read of version %v, for a scrub: %v", s.q.Ver, scrub)
		}
	}
}

// TestPauseIsTold: the nodes of replicas pause as well; one that has yet to Begin hears of no watermark [I6].
func TestPauseIsTold(t *testing.T) {
	cfg := testConfig
	cfg.Pace, cfg.PaceListen, cfg.PaceMax = time.Millisecond, time.Second, time.Millisecond
	b := begins(t, cfg, Member{InSync, 1}, Member{InSync, 1}, Member{Rebuilding, 2}, Member{Out, 2})
	b.fenced(replica.Response{}, 0, 1, 2, 3)
	b.o.local = 0
	b.o.pace.ear.saw(b.now, time.Millisecond, false)
	b.sent = nil
	b.o.Meta(b.now, View{Revision: 2, Epoch: b.o.epoch, Members: []Member{{InSync, 1}, {InSync, 1}, {Rebuilding, 3}, {Out, 2}}})
	for _, s := range b.take(replica.Begin) {
		b.answer(s, ok)
	}
	told := map[int]int64{}
	for _, s := range b.take(replica.Stable) {
		told[s.disk] = s.q.Len
	}
	if want := int64(cfg.PaceListen); len(told) != 2 || told[1] != want || told[2] != want {
		t.Errorf("told of a pause, by member: %v; want 1 and 2, of %v", told, cfg.PaceListen)
	}
}
