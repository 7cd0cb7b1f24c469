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
	left     int64      // regions not known to be clean
	next     clock.Mono // not before then, by the pace
	proposed clock.Mono // last proposal about this replica, whichever
	change   Change
}

// active tells whether the replica takes new writes for the rebuild.
func (r *rebuild) active() bool { return r.phase == comparing || r.phase == entering }

// stop ends the rebuild with its session. Once MarkIn was proposed only a
// view ends it: until then the replica may count [I11].
func (r *rebuild) stop(o *Owner, d int) {
	if r.phase == idle || r.phase == entering && !mutation.On(mutation.MarkInLate) {
		return
	}
	*r = rebuild{proposed: r.proposed, change: r.change}
	for _, p := range o.pieces.all {
		if p.isJob() && p.to == d {
			o.drop(p) // its answers come to nothing
		}
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

func (r *rebuild) begun(o *Owner) {
	if r.phase == beginning {
		r.phase = comparing
		o.retarget()
	}
}

// rebuild starts what can be started: marks, comparisons, copies, and MarkIn
// when every region is clean.
func (o *Owner) rebuild() {
	if o.drain.on {
		return
	}
	for d, c := range o.conns {
		r := &c.re
		switch {
		case r.phase == idle && c.state == up && c.unserved == 0 && o.now >= c.patient && o.view.Members[d].Sync != InSync:
			r.phase, r.base = marking, o.view.Members[d].Gen
			r.left = o.regionsOf(d)
			o.propose()
		case r.phase == comparing:
			r.startJobs(o, d)
			if r.jobs == 0 && len(r.differ) == 0 && r.cursor >= o.cfg.VolumeBytes {
				r.phase = entering
				o.count()
				o.propose()
			}
		}
	}
}

// regionsOf counts the regions that replica d keeps.
func (o *Owner) regionsOf(d int) int64 {
	n := int64(0)
	for _, g := range o.groups {
		if g.disks.has(d) {
			n += g.bytes
		}
	}
	return n / o.cfg.RegionBytes
}

func (r *rebuild) startJobs(o *Owner, d int) {
	for r.jobs < o.cfg.RebuildJobs && o.now >= r.next {
		var p *piece
		switch {
		case len(r.differ) > 0:
			p = o.blank(copying, r.differ[0], o.cfg.RegionBytes)
			r.differ = r.differ[1:]
		case r.seek(o, d):
			extentEnd := r.cursor - r.cursor%o.cfg.ExtentBytes + o.cfg.ExtentBytes
			p = o.blank(compare, r.cursor, min(o.cfg.CompareRegions*o.cfg.RegionBytes, extentEnd-r.cursor))
			r.cursor += p.len
		default:
			return
		}
		r.jobs++
		r.next = o.now.Add(o.pace.pause(&o.cfg, o.now))
		p.to, p.unlocked = d, mutation.On(mutation.NoWriteBarrier)
		o.add(p)
	}
}

// seek moves the cursor on to an extent that replica d keeps. It is false at
// the end, and where an extent is not served yet.
func (r *rebuild) seek(o *Owner, d int) bool {
	for ; r.cursor < o.cfg.VolumeBytes; r.cursor += o.cfg.ExtentBytes {
		if g := o.groupAt(r.cursor); g.disks.has(d) {
			return g.phase == serving
		}
	}
	return false
}
