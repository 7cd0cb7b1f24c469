package volume

import (
	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

type rebuildPhase uint8

const (
	idle      rebuildPhase = iota
	marking                // MarkRebuilding was proposed
	beginning              // Begin is on its way
	comparing              // takes all new writes; regions are compared and copied
	entering               // MarkIn was proposed
)

// rebuild brings one replica back, in one session. When that ends, another
// rebuild with another generation begins, which costs a comparison.
type rebuild struct {
	phase    rebuildPhase
	base     uint64 // the generation must be above
	gen      uint64
	cursor   int64   // regions before it were compared or are being
	differ   []int64 // regions to copy
	jobs     int
	proposed clock.Mono // last proposal about this replica, whichever
	change   Change
}

// active tells whether the replica takes new writes for the rebuild.
func (r *rebuild) active() bool { return r.phase == comparing || r.phase == entering }

// stop ends the rebuild with its session. Once MarkIn was proposed only a
// view ends it: until then the replica may count [I11].
func (r *rebuild) stop(o *Owner, d int) {
	if r.phase == entering && !mutation.On(mutation.MarkInLate) {
		return
	}
	*r = rebuild{proposed: r.proposed, change: r.change}
	queue := o.queue
	o.queue = nil
	for _, p := range queue {
		if p.isJob() && p.to == d {
			p.state = done // its answers come to nothing
			continue
		}
		o.queue = append(o.queue, p)
	}
	o.retarget()
}

func (r *rebuild) adopted(o *Owner, d int, m Member) {
	c := o.conns[d]
	switch {
	case r.phase == marking && m.Sync == Rebuilding && m.Gen > r.base:
		r.phase, r.gen = beginning, m.Gen
		c.request(o, nil, replica.Request{Kind: replica.Begin, Gen: m.Gen})
	case r.phase == entering && (m.Sync == InSync || m.Gen != r.gen):
		*r = rebuild{}
		if m.Sync != InSync && c.state == up {
			c.lose(o)
		}
	case r.phase != idle && r.phase != marking && m.Gen != r.gen:
		r.stop(o, d)
		c.lose(o)
	}
}

func (r *rebuild) begun(o *Owner, d int) {
	if r.phase == beginning {
		r.phase = comparing
	}
}

// rebuild starts what can be started: marks, comparisons, copies, and MarkIn
// when every region is clean.
func (o *Owner) rebuild() {
	for d, c := range o.conns {
		r := &c.re
		switch {
		case r.phase == idle && c.state == up && o.view.Members[d].Sync != InSync:
			r.phase, r.base = marking, o.view.Members[d].Gen
			o.propose()
		case r.phase == comparing:
			r.startJobs(o, d)
			if r.jobs == 0 && r.cursor >= o.cfg.VolumeBytes && len(r.differ) == 0 {
				r.phase = entering
				o.count()
				o.propose()
			}
		}
	}
}

func (r *rebuild) startJobs(o *Owner, d int) {
	for r.jobs < o.cfg.RebuildJobs {
		p := &piece{to: d}
		switch {
		case len(r.differ) > 0:
			p.kind, p.off, p.len = copying, r.differ[0], o.cfg.RegionBytes
			r.differ = r.differ[1:]
		case r.cursor < o.cfg.VolumeBytes:
			p.kind, p.off = compare, r.cursor
			p.len = min(o.cfg.CompareRegions*o.cfg.RegionBytes, o.cfg.VolumeBytes-r.cursor)
			r.cursor += p.len
		default:
			return
		}
		r.jobs++
		if mutation.On(mutation.NoWriteBarrier) {
			p.unlocked = true
		}
		o.queue = append(o.queue, p)
	}
}
