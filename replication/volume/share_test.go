package volume

import (
	"testing"
	"time"
)

// copyFor has two volumes without hosts copy for d, steps that take step each, and returns how many steps each did.
func copyFor(a, b *paced, d, step time.Duration) (na, nb int) {
	from := a.now
	nextA, nextB := from, from
	for now := from; now < from.Add(d); now = now.Add(100 * time.Microsecond) {
		a.now, b.now = now, now
		if now >= nextA {
			na++
			a.took(&a.cfg, step)
			nextA = now.Add(a.pause(&a.cfg, now))
		}
		if now >= nextB {
			nb++
			b.took(&b.cfg, step)
			nextB = now.Add(b.pause(&b.cfg, now))
		}
	}
	return na, nb
}

// TestShare: what is copied for volumes without hosts goes in turn, half of the time, while those of another volume are there.
func TestShare(t *testing.T) {
	share := &Share{}
	a, b, hosts := newPaced(), newPaced(), newPaced()
	for _, p := range []*paced{a, b, hosts} {
		p.cfg.Share = share
		p.cfg.PaceListen = 0
	}
	a.now = a.now.Add(time.Minute)
	if na, nb := copyFor(a, b, time.Second, time.Millisecond); a.jobs != 32 || b.jobs != 32 || na < 1000 || nb < 1000 {
		t.Errorf("nobody has hosts: %d and %d steps, %d and %d at a time, want all that go", na, nb, a.jobs, b.jobs)
	}
	hosts.saw(&hosts.cfg, a.now, time.Millisecond, false)
	na, nb := copyFor(a, b, 900*time.Millisecond, time.Millisecond)
	if total := na + nb; total < 400 || total > 480 || na < total/3 || nb < total/3 {
		t.Errorf("another volume has hosts: %d and %d steps of 1 ms in 900 ms, want about 225 each", na, nb)
	}
	if a.steps(&a.cfg) != 1 || b.steps(&b.cfg) != 1 {
		t.Errorf("another volume has hosts: %d and %d steps at a time, want one", a.steps(&a.cfg), b.steps(&b.cfg))
	}
	if copyFor(a, b, 2*time.Second, time.Millisecond); a.jobs != 32 || b.jobs != 32 {
		t.Errorf("the hosts are gone: %d and %d steps at a time, want all that go", a.jobs, b.jobs)
	}
}

// TestShareIsNotForVolumesWithHosts: these have a limit that they find by their own hosts.
func TestShareIsNotForVolumesWithHosts(t *testing.T) {
	p := newPaced()
	p.cfg.Share, p.cfg.PaceListen = &Share{}, 0
	p.cfg.Share.took(time.Second)
	p.cfg.Share.Saw(p.now)
	p.hosts(3000, 100*time.Microsecond, 0, 0, true)
	if p.jobs < 16 || p.gap != 0 {
		t.Errorf("%d steps at a time, a pause of %v: its hosts never waited", p.jobs, p.gap)
	}
}
