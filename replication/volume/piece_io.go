package volume

import (
	"bytes"
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// ask sends the read of p to a source.
func (o *Owner) ask(p *piece) {
	if p.kind == scrub {
		o.askAll(p)
		return
	}
	from := o.inSync & p.group.disks
	if p.kind == rewrite && !p.takeover && p.sources&from == 0 {
		p.sources = 0 // whom a scrub took to be right have left: what is left is made the same, and no host waits for those
	}
	switch {
	case p.sources != 0:
		from &= p.sources
	case p.takeover && p.isJob():
		from &^= p.group.doubt
	case p.takeover && !mutation.On(mutation.UnsureSource):
		from &^= o.unsure(p.group)
	}
	if from&^p.bad == 0 && from != 0 {
		o.unreadable(p)
		return
	}
	if o.now < p.retry {
		return
	}
	from &= o.up &^ (p.bad | p.asked)
	if from == 0 {
		return // a session or a view will come
	}
	d := o.source(from, p.kind == read && p.asked|p.bad == 0)
	p.asked |= one(d)
	q := replica.Request{Kind: replica.Read, Off: p.off, Len: p.len}
	if p.kind == compare {
		q.Kind = replica.Versions
	}
	o.conns[d].request(o, p, q)
}

// unreadable decides what becomes of p when no source can read its range.
func (o *Owner) unreadable(p *piece) {
	switch {
	case p.kind == copying && p.len > o.cfg.RegionBytes:
		o.split(p, o.cfg.RegionBytes)
	case p.isJob(): // until the data is written again, or the disk thinks better of it
		o.conns[p.to].proof.unable = p.takeover
		p.bad, p.retry = 0, o.now.Add(o.cfg.RetryAfter)
	case (p.kind == rewrite || p.kind == read) && p.len > o.cfg.BlockBytes:
		o.split(p, o.cfg.BlockBytes) // perhaps one block is to blame, or one here and another there
	case p.takeover && o.stuck(p): // the others may have lost it
		p.bad, p.retry = 0, o.now.Add(o.cfg.RetryAfter)
	case p.kind == rewrite && p.sources != 0:
		// Nobody was told of a write that only these had, so what the others
		// have will do [I7].
		p.sources = 0
		o.wake(p)
	default:
		o.end1(p, ErrMedium)
	}
}

// stuck tells whether p, of a takeover, which none of its sources can read, has nobody else who surely has
// what counts. Those in doubt are better out then.
func (o *Owner) stuck(p *piece) bool {
	unsure := o.unsure(p.group)
	if unsure == 0 || p.sources != 0 && p.group.disks&o.inSync&^(unsure|p.bad) != 0 || mutation.On(mutation.UnsureSource) {
		return false
	}
	for s := p.group.doubt; s != 0; s &= s - 1 {
		o.conns[s.first()].proof.unable = true
	}
	return true
}

// split does in parts, of unit bytes, what p would do.
func (o *Owner) split(p *piece, unit int64) {
	for at := int64(0); at < p.len; at += unit {
		b := o.blank(p.kind, p.off+at, unit)
		b.sources, b.takeover, b.to, b.unlocked = p.sources, p.takeover, p.to, p.unlocked
		if b.op = p.op; b.op != nil {
			b.op.pieces++
			if len(p.data) > 0 { // what a scrub repairs is not read yet
				b.data = p.data[at : at+b.len]
			}
		}
		o.add(b)
	}
	if p.op != nil {
		p.op.pieces--
		p.op = nil
	}
	o.remove(p)
}

// rewrite queues what writes to all replicas what sources have.
func (o *Owner) rewrite(off, n int64, sources disks, takeover bool) *piece {
	p := o.blank(rewrite, off, n)
	p.sources, p.takeover = sources, takeover
	o.add(p)
	return p
}

// hedge asks a second source.
func (p *piece) hedge(o *Owner) {
	if p.state == reading && !p.dropped && p.kind != scrub {
		p.hedged = true
		o.ask(p)
	}
}

// write gives p its place in the order of writes and sends it.
func (o *Owner) write(p *piece) {
	o.seq++
	p.seq, p.state, p.targets = o.seq, writing, o.targetsOf(p.group)
	p.bad = 0
	o.unstable.add(p)
	o.sent(p)
	if p.op != nil {
		p.op.Sent = true
	}
	for s := p.targets; s != 0; s &= s - 1 {
		p.send(o, s.first())
	}
}

// send sends p to replica d unless there is no session: then the next one does.
func (p *piece) send(o *Owner, d int) {
	c := o.conns[d]
	if c.state != up {
		return
	}
	q := replica.Request{Kind: replica.Write, Off: p.off, Len: p.len, Ver: replica.Version{Epoch: o.epoch, Seq: p.seq}}
	switch p.kind {
	case unmap:
		q.Kind = replica.Clear
	case zero:
		q.Kind = replica.Zero
	case rewrite:
		if q.Data = p.data; len(p.data) == 0 {
			q.Kind = replica.Clear
		}
	case write, compareWrite:
		q.Data = p.data
	case read, compare, copying, scrub:
	}
	if c.re.takes(p.group, d) {
		q.Gen = c.re.gen
	}
	c.request(o, p, q)
}

// lost says that an answer of replica d will not come.
func (p *piece) lost(o *Owner, d int) {
	if p.kind == scrub && p.state == reading {
		o.end1(p, ErrTimeout)
		return
	}
	p.asked &^= one(d)
	if (p.state == reading || p.state == undoing) && p.asked == 0 {
		o.wake(p)
	}
}

// unreadable says that replica d can't read the data.
func (p *piece) unreadable(o *Owner, d int) {
	if p.state == sending && d == p.to {
		o.had(p, nil, false)
		return
	}
	p.bad |= one(d)
	if p.kind == scrub && p.state == reading || p.state == undoing {
		p.heard(o, d)
		return
	}
	p.lost(o, d)
}

func (p *piece) answer(o *Owner, d int, kind replica.Kind, resp replica.Response) {
	switch {
	case p.state == writing && kind.Changes():
		p.tookBy(o, d, &resp)
		if p.acked |= one(d); p.targets&^(p.acked|p.refused) == 0 {
			o.wake(p)
		}
	case p.state == writing && kind == replica.Copy:
		if c := o.conns[d]; c.re.phase == comparing && p.targets.has(d) {
			c.missed(o, p)
		}
	case p.state == reading && p.kind == scrub, p.state == undoing && kind == replica.Read:
		p.collect(o, d, resp)
	case p.state == reading && (kind == replica.Read || kind == replica.Versions):
		p.asked = 0
		p.arrived(o, resp)
	case p.state == sending && p.takeover && kind == replica.Confirm:
		p.group.check.compared(o, p, resp.Differ)
	case p.state == sending && kind == replica.Read && d == p.to: // the others are late
		o.had(p, resp.Data, true)
	case p.state == sending && p.takeover && kind == replica.Copy:
		o.conns[d].loss.copied(p)
		p.group.check.ended(o, p)
	case p.state == sending && kind == replica.Confirm:
		o.stats.compared += uint64(p.len)
		r := &o.conns[d].re
		r.differ = append(r.differ, resp.Differ...)
		r.left -= p.len/o.cfg.RegionBytes - int64(len(resp.Differ))
		r.jobs--
		o.remove(p)
	case p.state == sending && kind == replica.Copy:
		o.pace.took(&o.cfg, o.now.Sub(p.started))
		o.conns[d].loss.copied(p)
		r, n := &o.conns[d].re, o.regionsIn(p)
		r.left -= n
		r.jobs -= int(n)
		o.remove(p)
	}
}

// arrived goes on with what a source has sent.
func (p *piece) arrived(o *Owner, resp replica.Response) {
	switch p.kind {
	case read:
		if len(resp.Data) == 0 {
			clear(p.data)
		} else {
			copy(p.data, resp.Data)
		}
		if p.bad != 0 {
			o.rewrite(p.off, p.len, 0, false).bad = p.bad
		}
		o.end1(p, nil)
	case compareWrite:
		if len(resp.Data) == 0 && !replica.Zeroes(p.old) || len(resp.Data) != 0 && !bytes.Equal(resp.Data, p.old) {
			o.end1(p, ErrMismatch)
			return
		}
		o.write(p)
	case rewrite:
		p.data = slices.Clone(resp.Data)
		o.write(p)
	case compare:
		p.state = sending
		c := o.conns[p.to]
		c.request(o, p, replica.Request{Kind: replica.Confirm, Off: p.off, Len: p.len, Vers: resp.Vers, Gen: p.gen(o)})
	case copying:
		o.found(p, &resp)
	case write, unmap, zero, scrub:
	}
}
