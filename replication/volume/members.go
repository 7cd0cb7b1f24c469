package volume

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
)

// adopt takes over a newer view. Within an epoch only its owner changes
// members, so a view differs from what the owner believes only by its own
// proposals, and by members that were added.
func (o *Owner) adopt(v View) {
	if v.Epoch > o.epoch {
		o.end()
		return
	}
	if v.Revision <= o.view.Revision {
		return
	}
	o.view = v
	o.addConns()
	o.pace.disturbed(&o.cfg, o.now)
	before := o.inSync
	for d, c := range o.conns {
		c.re.adopted(o, d, v.Members[d])
	}
	o.count()
	o.startOver(o.inSync ^ before) // a MarkOut came late, of a holder perhaps
}

// count works out who is required. One for whom MarkIn was proposed is,
// whether it was committed or not, until the view says that it is out [I11].
func (o *Owner) count() {
	o.required, o.inSync = 0, 0
	for d, c := range o.conns {
		if o.view.Members[d].Sync == InSync {
			o.inSync |= one(d)
			o.required |= one(d)
		}
		if c.re.phase == entering && !c.re.arrival && !mutation.On(mutation.MarkInLate) {
			o.required |= one(d)
		}
		c.unhindered(o, false)
		if o.required.has(d) {
			c.lag.tries = 0
		} else {
			c.proof.shut, c.proof.unable = 0, false
		}
	}
	o.need()
	o.retarget()
}

// need works out without whom nothing could be written to some extent: it has no more required replicas than MinInSync.
func (o *Owner) need() {
	o.needed = 0
	for _, g := range o.groups {
		if list := o.requiredOf(g); list.count() <= o.cfg.MinInSync {
			o.needed |= list
		}
	}
}

// needs tells whether the owner serves nobody better without replica d, slow as it may be. A takeover may be: it can go down to the last one.
func (o *Owner) needs(d int) bool { return o.needed.has(d) && o.conns[d].unserved == 0 }

// Patience is how long the owner waits at most for the answer to a request that it sends to replica d now.
func (o *Owner) Patience(d int) time.Duration {
	limit := requestLimit * o.cfg.RequestTimeout
	if o.needs(d) {
		return max(limit, o.cfg.OpTimeout/2) // what is sent again then has as long until hosts are told
	}
	return limit
}

// retarget works out to whom new writes go, and takes those who left off the
// writes in flight: when they come back it is by a rebuild, which waits for
// the locks of these writes.
func (o *Owner) retarget() {
	o.targets = o.required
	for d, c := range o.conns {
		if c.re.active() {
			o.targets |= one(d)
		}
	}
	for p := o.unstable.head; p != nil; p = p.after {
		p.targets &= o.targetsOf(p.group)
	}
	o.wakeAll()
}

// writable tells whether a write to g can be acknowledged as things are.
func (o *Owner) writable(g *group) bool { return o.enough(g) && o.requiredOf(g)&o.missed == 0 }

// enough tells whether a write to g has the copies that are needed [I3].
func (o *Owner) enough(g *group) bool {
	there := o.required
	if !mutation.On(mutation.MinOfVolume) {
		there &= g.disks // who arrives does not count, also when its move may be finished: then it stands for one who does
	}
	return there.count() >= o.cfg.MinInSync || mutation.On(mutation.AckBelowMin)
}

// propose asks Meta for what is due, and again until the view has it.
func (o *Owner) propose() {
	o.miss()
	for d, c := range o.conns {
		m := o.view.Members[d]
		p := Proposal{Disk: d, Epoch: o.epoch, Gen: m.Gen}
		switch {
		case o.away(d):
			p.Change = MarkOut
		case c.state == up && c.doubt == m.Gen+1 && m.Sync == InSync:
			p.Change = Keep // it is back, and the MarkOut may have happened or yet happen
		case c.re.phase == entering && c.re.arrival:
			p.Change, p.Proof = Finish, c.re.proof
		case c.re.phase == entering && m.Sync == Rebuilding:
			p.Change, p.Proof = MarkIn, c.re.proof
		case c.re.phase == marking:
			p.Change = MarkRebuilding
		default:
			continue
		}
		if o.now < c.re.proposed.Add(o.cfg.RetryAfter) && c.re.change == p.Change {
			continue
		}
		if p.Change == MarkOut {
			if o.missed.has(d) {
				continue // wait for it
			}
			c.doubt = m.Gen + 1
			if mutation.On(mutation.AckBeforeMarkOut) {
				o.required &^= one(d)
				o.retarget()
			}
		}
		c.re.proposed, c.re.change = o.now, p.Change
		o.env.Propose(p)
	}
}

// miss works out who is waited for. New writes to their extents are not begun.
func (o *Owner) miss() {
	o.missed = 0
	if o.required&^o.up|o.leaving == 0 {
		return
	}
	there := o.there()
	o.missed = o.required.those(func(d int) bool { return o.away(d) && !o.spares(d, there&^one(d)) })
}

// away tells whether replica d is to be done without, if that can be.
func (o *Owner) away(d int) bool {
	c := o.conns[d]
	return o.required.has(d) && (o.leaving.has(d) || c.state != up && (c.proof.shut != 0 || o.now >= c.outAt(o)))
}

// outAt is when the replica, if it is not up before, is marked out.
func (c *conn) outAt(o *Owner) clock.Mono {
	if c.gone {
		return c.since.Add(min(o.cfg.GoneAfter, o.cfg.OutAfter))
	}
	return c.since.Add(o.cfg.OutAfter)
}
