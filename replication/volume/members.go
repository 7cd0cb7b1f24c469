package volume

import "blockd.dev/replication/mutation"

// adopt takes over a newer view. Within an epoch only its owner changes
// members, so a view differs from what the owner believes only by its own
// proposals.
func (o *Owner) adopt(v View) {
	if v.Epoch > o.epoch {
		o.end()
		return
	}
	if v.Revision <= o.view.Revision {
		return
	}
	o.view = v
	before := o.inSync
	for d, c := range o.conns {
		c.re.adopted(o, d, v.Members[d])
	}
	o.count()
	if o.phase == equalizing && o.inSync != before {
		o.startOver() // a MarkOut came late, of a holder perhaps
	}
}

// count works out who is required. One for whom MarkIn was proposed is,
// whether it was committed or not, until the view says that it is out [I11].
func (o *Owner) count() {
	o.required, o.inSync = 0, 0
	for d, m := range o.view.Members {
		if m.Sync == InSync {
			o.inSync |= one(d)
			o.required |= one(d)
		}
		if o.conns[d].re.phase == entering && !mutation.On(mutation.MarkInLate) {
			o.required |= one(d)
		}
	}
	o.retarget()
}

// retarget takes those who left off the writes in flight: when they come back
// it is by a rebuild, which waits for the locks of these writes.
func (o *Owner) retarget() {
	t := o.targets()
	for _, p := range o.queue {
		p.targets &= t
	}
}

// targets are the replicas that a new write is sent to.
func (o *Owner) targets() disks {
	t := o.required
	for d, c := range o.conns {
		if c.re.active() {
			t |= one(d)
		}
	}
	return t
}

// propose asks Meta for what is due, and again until the view has it.
func (o *Owner) propose() {
	for d, c := range o.conns {
		m := o.view.Members[d]
		p := Proposal{Disk: d, Epoch: o.epoch, Gen: m.Gen}
		switch {
		case o.required.has(d) && c.state != up && o.now >= c.since.Add(o.cfg.OutAfter):
			if o.required&^one(d) == 0 {
				continue // the last one: wait for it
			}
			p.Change = MarkOut
		case c.state == up && c.doubt == m.Gen && m.Sync == InSync:
			p.Change = Keep // it is back, and the MarkOut may have happened or yet happen
		case c.re.phase == entering && m.Sync == Rebuilding:
			p.Change = MarkIn
		case c.re.phase == marking:
			p.Change = MarkRebuilding
		default:
			continue
		}
		if o.now < c.re.proposed.Add(o.cfg.RetryAfter) && c.re.change == p.Change {
			continue
		}
		c.re.proposed, c.re.change = o.now, p.Change
		if p.Change == MarkOut {
			c.doubt = m.Gen
			if mutation.On(mutation.AckBeforeMarkOut) {
				o.required &^= one(d)
			}
		}
		o.env.Propose(p)
	}
}
