package volume

import (
	"bytes"
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// A replica whose disk is full refuses a write and goes on. It can't be done
// without, since the others may be as full: so it is the write that has to go.
// The host is told, and while the lock is held, and the watermark stays below
// the write, those who have taken it get back what those have who have not [I13].

// full is what follows when the disk of c had no space for what k asked.
func (c *conn) full(o *Owner, k call) {
	p := k.piece
	c.refused++
	switch {
	case p == nil || k.kind == replica.Copy && !p.isJob(): // Fence, Begin, or the loss of a version
		c.patient = o.now.Add(o.cfg.FullAfter)
		c.obstacle.met(o.now, Full, 0, 0)
		c.lose(o)
	case k.kind == replica.Copy:
		if p.state != sending {
			return
		}
		if p.takeover {
			p.group.check.refused(o, p)
			return
		}
		for off := p.off; off < p.off+p.len; off += o.cfg.RegionBytes {
			c.re.refused.add(off)
		}
		c.re.retry = o.now.Add(o.cfg.FullAfter)
		c.obstacle.met(o.now, Full, 0, 0)
		c.re.jobs -= int(o.regionsIn(p))
		o.remove(p)
	case !k.kind.Changes() || p.state != writing || k.seq != p.seq:
		p.lost(o, c.disk)
		c.lose(o)
	case o.requiredOf(p.group).has(c.disk):
		p.refused |= one(c.disk)
		p.retry = o.now.Add(o.cfg.RetryAfter)
		o.wake(p)
	case mutation.On(mutation.RefusedInRebuild):
		p.acked |= one(c.disk)
		o.wake(p)
	case c.re.phase == comparing && p.targets.has(c.disk):
		c.miss(o, p)
	default:
		c.patient = o.now.Add(o.cfg.FullAfter)
		c.obstacle.met(o.now, Full, 0, 0)
		c.lose(o)
	}
}

// miss has the rebuild of c go on without p, for which there was no space: the regions are copied when there is. Those
// that are not clean there yet will be. The others first lose their version, and become holes: or a later write
// there would have them pass for equal, in another rebuild. p has its lock until that is durable [I8].
func (c *conn) miss(o *Owner, p *piece) {
	for off := range o.regionsAt(p) {
		if c.re.clean(o, c.disk, off) {
			c.request(o, p, replica.Request{Kind: replica.Copy, Off: off, Len: o.cfg.RegionBytes, Ver: replica.NoVersion, Gen: c.re.gen})
		}
	}
	c.re.jobs++
	c.missed(o, p)
}

// missed ends p for c when no region that it touches has a version there that means something.
func (c *conn) missed(o *Owner, p *piece) {
	if c.calls.has(p, replica.Copy) {
		return
	}
	for off := range o.regionsAt(p) {
		if c.re.clean(o, c.disk, off) {
			if len(c.re.refused.list) == 0 {
				c.re.retry = o.now.Add(o.cfg.FullAfter)
			}
			c.re.refused.add(off)
			c.re.left++
		}
	}
	c.obstacle.met(o.now, Full, 0, 0)
	c.re.jobs--
	c.re.must = max(c.re.must, p.seq)
	p.acked |= one(c.disk)
	o.wake(p)
}

// wrote goes on with p when every target has taken it, or refused it.
func (o *Owner) wrote(p *piece) {
	if p.targets&^(p.acked|p.refused) != 0 {
		return
	}
	refused := p.refused & p.targets
	switch {
	case refused == 0:
		o.stands(p)
	case mutation.On(mutation.RefusedStays):
		o.refuse(p)
		o.stands(p)
	case refused&^o.inSync != 0: // a view will say whether it counts [I11]
	case !p.undone && (p.kind != rewrite || p.takeover) && p.bad&refused == 0 && !o.mayLack(p, refused):
		o.refuse(p)
		p.state = undoing
		o.undo(p)
	case o.now >= p.retry: // there is space, or what took it for a moment is done
		p.refused, p.bad = 0, 0
		for s := refused; s != 0; s &= s - 1 {
			p.send(o, s.first())
		}
	}
}

// mayLack tells whether those who refused p, of a takeover, may lack something that was acknowledged: then what they
// have is not as good as p. If they are in doubt it is better done without them.
func (o *Owner) mayLack(p *piece, refused disks) bool {
	unsure := o.unsure(p.group) & refused
	if !p.takeover || unsure == 0 || mutation.On(mutation.UnsureSource) {
		return false
	}
	for s := unsure & p.group.doubt; s != 0; s &= s - 1 {
		o.conns[s.first()].proof.unable = true
	}
	return true
}

// stands ends p, which every target has.
func (o *Owner) stands(p *piece) {
	o.unstable.remove(p)
	p.state = short
	o.acknowledge(p)
}

// refuse tells the host of p that there is no space for it.
func (o *Owner) refuse(p *piece) {
	if op := p.op; op != nil {
		o.abandon(op)
		o.finish(op, ErrNoSpace)
	}
}

// undo reads what those have who refused p, when all of them are there. If none
// of them counts any more the write stands.
func (o *Owner) undo(p *piece) {
	refused := p.refused & p.targets
	switch {
	case p.asked != 0:
	case refused == 0:
		p.state = writing
		o.wrote(p)
	case refused&^o.up == 0:
		p.copies, p.asked = p.copies[:0], refused
		for s := refused; s != 0; s &= s - 1 {
			o.conns[s.first()].request(o, p, replica.Request{Kind: replica.Read, Off: p.off, Len: p.len})
		}
	}
}

// undone chooses what p becomes: what one has who refused it. Any replica in sync
// has all that was ever acknowledged, so this is right whatever the write was.
//
// It also has to end. What is refused reaches into regions that are holes there,
// but for moments. Zeroes become holes, which need no space. If nobody who refused
// has those, p is of several regions, so of a host, so all who lack it are equal,
// and all others, who are written to, have every region of it.
func (o *Owner) undone(p *piece) {
	refused := p.refused & p.targets
	p.copies = slices.DeleteFunc(p.copies, func(c replicaCopy) bool { return !refused.has(c.disk) })
	var have disks
	for _, c := range p.copies {
		have |= one(c.disk)
	}
	switch {
	case p.bad&refused != 0: // forwards then, when there is space
		p.state, p.retry = writing, o.now.Add(o.cfg.RetryAfter)
		return
	case refused&^have != 0 || refused == 0:
		o.wake(p)
		return
	}
	best, kept := p.copies[0].data, disks(0)
	for _, c := range p.copies {
		if replica.Zeroes(c.data) || !replica.Zeroes(best) && bytes.Equal(best, p.data) {
			best = c.data
		}
	}
	for _, c := range p.copies {
		if bytes.Equal(c.data, best) {
			kept |= one(c.disk)
		}
	}
	if p.data = best; replica.Zeroes(best) {
		p.data = nil
	}
	if mutation.On(mutation.UndoWithoutPlace) {
		o.unstable.remove(p)
	}
	p.kind, p.undone, p.copies, p.acked, p.refused = rewrite, true, nil, 0, 0
	o.seq++
	p.seq, p.state, p.targets = o.seq, writing, o.targetsOf(p.group)&^kept
	o.wake(p)
	for s := p.targets; s != 0; s &= s - 1 {
		p.send(o, s.first())
	}
}
