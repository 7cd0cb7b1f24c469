package volume

import (
	"slices"

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
	entering               // MarkIn was proposed, or Finish
)

// rebuild brings one replica back, in one session. When that ends, another
// rebuild with another generation begins, which costs a comparison.
type rebuild struct {
	phase    rebuildPhase
	arrival  bool       // of extents that are moved to it: it is comparing or entering
	since    clock.Mono // when it began
	base     uint64     // the generation must be above; of an arrival that is entering: must be this
	gen      uint64
	cursor   int64      // regions before it were compared or are being
	differ   []int64    // regions to copy
	refused  regions    // for which there was no space
	retry    clock.Mono // of these
	jobs     int        // comparisons, regions copied, and writes refused, that are under way
	left     int64      // regions not known to be clean
	next     clock.Mono // not before then, by the pace
	turn     clock.Mono // when its turn is among the node's volumes without hosts; 0: it has asked for none
	proposed clock.Mono // last proposal about this replica, whichever
	change   Change
	must     uint64 // none above it is copied and was not taken as a write
	proof    uint64 // by which it can be told that all is there; 0 while it isn't
	proven   bool   // the replica has that durably
}

// active tells whether the replica takes new writes for the rebuild.
func (r *rebuild) active() bool { return r.phase == comparing || r.phase == entering }

// arriving tells whether the replica takes new writes to extents that are moved to it.
func (r *rebuild) arriving() bool { return r.arrival && r.active() }

// finishing tells whether Finish was proposed: until a view tells that it came to nothing the
// replica may be one of the extents' sets [I11].
func (r *rebuild) finishing() bool {
	return r.arrival && r.phase == entering && !mutation.On(mutation.FinishLate)
}

// takes tells whether replica d may have regions that are not clean among what
// the extents of g have there.
func (r *rebuild) takes(g *group, d int) bool {
	return r.phase == comparing && (!r.arrival || g.to.has(d) && !mutation.On(mutation.BareArrival))
}

// stop ends the rebuild with its session. Once MarkIn or Finish was proposed only a
// view ends it: until then the replica may count [I11].
func (r *rebuild) stop(o *Owner, d int) {
	if r.phase == idle || r.phase == entering && !(r.arrival && mutation.On(mutation.FinishLate)) && !mutation.On(mutation.MarkInLate) {
		return
	}
	*r = rebuild{proposed: r.proposed, change: r.change}
	for _, p := range o.pieces.all {
		if p.isJob() && !p.takeover && p.to == d {
			o.drop(p) // its answers come to nothing
		}
	}
	o.retarget()
}

func (r *rebuild) adopted(o *Owner, d int, m Member) {
	c := o.conns[d]
	switch {
	case r.arrival && (m.Sync != InSync || r.phase == entering && m.Gen != r.base):
		// What it missed, if it is out, and a Finish that came to nothing.
		if r.stop(o, d); r.phase == entering {
			*r = rebuild{}
		}
		if c.state != down {
			c.lose(o)
		}
	case r.arrival:
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
		o.seq++ // more than the replica has been told
		r.phase, r.must = comparing, o.seq
		o.conns[d].gen = r.gen
		o.retarget()
	}
}

// rebuild starts what can be started: marks, comparisons, copies, and MarkIn or Finish
// when every region is clean.
func (o *Owner) rebuild() {
	if o.drain.on {
		return
	}
	for d, c := range o.conns {
		r, m := &c.re, o.view.Members[d]
		switch {
		case r.phase == idle && c.state == up && c.unserved == 0 && o.now >= c.patient && m.Sync != InSync:
			r.phase, r.base, r.since = marking, m.Gen, o.now
			r.left = o.regionsOf(d)
			o.propose()
		case r.phase == idle && c.state == up && o.now >= c.patient && m.Sync == InSync && c.gen != 0 && len(c.arriving) > 0:
			o.seq++
			*r = rebuild{phase: comparing, arrival: true, gen: c.gen, left: o.regionsTo(d), must: o.seq, proposed: r.proposed, change: r.change}
			o.retarget()
			r.startJobs(o, d)
		case r.phase == comparing:
			o.pace.off = o.dragged()
			r.startJobs(o, d)
			if !r.compared(o) {
				r.proof, r.proven = 0, false
				continue
			}
			c.obstacle.now = false
			if !r.arrival && r.prove(o, c) {
				r.phase = entering
				o.count()
				o.propose()
			}
		}
	}
	o.finishMoves()
}

// compared tells whether every region is clean.
func (r *rebuild) compared(o *Owner) bool {
	return r.jobs == 0 && len(r.differ) == 0 && len(r.refused.list) == 0 && r.cursor >= o.cfg.VolumeBytes
}

// clean tells whether the region at off of replica d was found or made equal.
func (r *rebuild) clean(o *Owner, d int, off int64) bool {
	return off < r.cursor && !slices.Contains(r.differ, off) && !r.refused.has(off) &&
		!slices.ContainsFunc(o.pieces.all, func(p *piece) bool {
			return p.isJob() && p.to == d && !p.dropped && p.off <= off && off < p.off+p.len
		})
}

// finishMoves proposes to finish the moves once everything has arrived, everywhere:
// with the first Finish the sets change, and this owner's time is over. A replica that is out
// or full may come later.
func (o *Owner) finishMoves() {
	done := false
	for d, c := range o.conns {
		if len(c.arriving) == 0 || o.view.Members[d].Sync != InSync || c.isFull(o) {
			continue
		}
		early := mutation.On(mutation.FinishEarly) && c.re.arriving()
		if !early && !(c.re.arriving() && (c.re.phase == entering || c.re.compared(o) && c.re.prove(o, c))) || c.doubt == o.view.Members[d].Gen+1 {
			return
		}
		done = done || c.re.phase == comparing
	}
	if !done {
		return
	}
	for d, c := range o.conns {
		if c.re.arrival && c.re.phase == comparing && !c.isFull(o) {
			c.re.phase, c.re.base = entering, o.view.Members[d].Gen
		}
	}
	o.count()
	o.propose()
}

// regionsOf counts the regions that replica d keeps, regionsTo those that arrive there.
func (o *Owner) regionsOf(d int) int64 {
	return o.regions(func(g *group) bool { return g.disks.has(d) })
}

func (o *Owner) regionsTo(d int) int64 {
	return o.regions(func(g *group) bool { return g.to.has(d) })
}

func (o *Owner) regions(of func(*group) bool) int64 {
	n := int64(0)
	for _, g := range o.groups {
		if of(g) {
			n += g.bytes
		}
	}
	return n / o.cfg.RegionBytes
}

// isFull tells whether c has refused something of late, or has yet to be tried again.
func (c *conn) isFull(o *Owner) bool { return o.now < c.patient || len(c.re.refused.list) > 0 }

// regionsIn is how many regions a job is about.
func (o *Owner) regionsIn(p *piece) int64 { return p.len / o.cfg.RegionBytes }

// comparing counts the replicas that are being brought back.
func (o *Owner) comparing() (n int) {
	for _, c := range o.conns {
		if c.re.phase == comparing {
			n++
		}
	}
	return n
}

// steps is how many comparisons, and regions that are copied, may be under way for each replica. Those that are brought back at a time share
// what may be under way at most, as long as messages stay full: more of it only waits in the same disks and the same memory.
func (o *Owner) steps() int {
	return min(o.pace.steps(&o.cfg), max(paceJobs, o.cfg.RebuildJobs/max(1, o.comparing())))
}

func (r *rebuild) startJobs(o *Owner, d int) {
	for r.jobs < o.steps() && o.now >= r.next {
		if r.next = o.now.Add(o.pace.pause(&o.cfg, o.now)); o.now < o.pace.silent || !r.hasTurn(o) {
			return
		}
		var p *piece
		weight := 1
		switch {
		case len(r.differ) > 0:
			weight = r.run(o, d)
			p = o.blank(copying, r.differ[0], int64(weight)*o.cfg.RegionBytes)
			r.differ = r.differ[weight:]
		case r.seek(o, d):
			extentEnd := r.cursor - r.cursor%o.cfg.ExtentBytes + o.cfg.ExtentBytes
			p = o.blank(compare, r.cursor, min(o.cfg.CompareRegions*o.cfg.RegionBytes, extentEnd-r.cursor))
			r.cursor += p.len
		case len(r.refused.list) > 0 && o.now >= r.retry: // the last: what is freed meanwhile may make space
			p = o.blank(copying, r.refused.next(), o.cfg.RegionBytes)
		default:
			return
		}
		r.jobs += weight
		r.turn = 0
		p.to, p.unlocked = d, mutation.On(mutation.NoWriteBarrier)
		o.add(p)
	}
}

// hasTurn tells whether the next step may begin, as far as hosts of other volumes are concerned.
func (r *rebuild) hasTurn(o *Owner) bool {
	switch {
	case !o.pace.shares(&o.cfg, o.now):
		r.turn = 0
	case r.turn == 0:
		r.turn = o.cfg.Share.turn(o.now, o.cfg.PaceFactor)
	}
	return o.now >= r.turn
}

// run is how many of the next regions to copy go in one message: neighbours, of one
// place of that size, which a source can read and a store can write at once. A resync
// that gives way to hosts goes by smaller steps, since each holds up whatever comes after it.
func (r *rebuild) run(o *Owner, d int) int {
	most := min(o.cfg.CopyRegions, max(o.conns[d].copyMax/o.cfg.RegionBytes, 1), int64(o.pace.stepRegions(&o.cfg)))
	first, place := r.differ[0], o.cfg.CopyRegions*o.cfg.RegionBytes
	n := 1
	for ; int64(n) < most && n < len(r.differ); n++ {
		at := first + int64(n)*o.cfg.RegionBytes
		if r.differ[n] != at || at%place == 0 {
			break
		}
	}
	return n
}

// seek moves the cursor on to an extent that replica d keeps, or that arrives there. It
// is false at the end, and where an extent is not served yet.
func (r *rebuild) seek(o *Owner, d int) bool {
	for ; r.cursor < o.cfg.VolumeBytes; r.cursor += o.cfg.ExtentBytes {
		g := o.groupAt(r.cursor)
		if !r.arrival && g.disks.has(d) || r.arrival && g.to.has(d) {
			return g.phase == serving
		}
	}
	return false
}
