package volume

import "slices"

// admit cuts ops into pieces. Those that can't go on wait here, without a lock,
// so that they are in no one's way [I3].
func (o *Owner) admit() {
	if len(o.waiting) == 0 {
		return
	}
	o.waiting = slices.DeleteFunc(o.waiting, func(op *Op) bool {
		if op.Gone != nil && op.Gone.Load() && op.changes() {
			o.finish(op, ErrTimeout)
			return true
		}
		if !o.admits(op) {
			return false
		}
		o.cut(op)
		return true
	})
}

// admits tells whether every extent that op touches is served and, if op
// changes it, has enough replicas, none of which has too long a tail.
func (o *Owner) admits(op *Op) bool {
	end := op.Off + op.bytes()
	for off := op.Off; off < end; off += o.cfg.ExtentBytes - off%o.cfg.ExtentBytes {
		g := o.groupAt(off)
		if g == nil || g.phase != serving || op.changes() && (!o.writable(g) || o.tailIsFull(g)) {
			return false
		}
	}
	return true
}

// tailIsFull tells whether a replica of g has as many unstable writes as it may,
// with those that were admitted and not sent.
func (o *Owner) tailIsFull(g *group) bool {
	for s := o.targetsOf(g); s != 0; s &= s - 1 {
		if o.conns[s.first()].tailed.len()+o.unsent >= o.cfg.TailMax {
			return true
		}
	}
	return false
}

// cut queues the pieces of op, each in one extent.
func (o *Owner) cut(op *Op) {
	end := op.Off + op.bytes()
	kind := write
	switch op.Kind {
	case Read:
		kind = read
	case CompareWrite:
		kind = compareWrite
	case Unmap:
		kind = unmap
	case WriteZeroes:
		kind = zero
	case Scrub:
		kind = scrub
	case Write:
	}
	for off := op.Off; off < end; {
		n := min(end-off, o.cfg.ExtentBytes-off%o.cfg.ExtentBytes)
		p := o.blank(kind, off, n)
		p.op = op
		if at := off - op.Off; len(op.Data) > 0 {
			p.data = op.Data[at : at+n]
			if kind == compareWrite {
				p.old = op.Compare[at : at+n]
			}
		}
		op.pieces++
		if p.unsent = op.changes(); p.unsent {
			o.unsent++
		}
		o.add(p)
		off += n
	}
}

// move brings p as far as it goes.
func (o *Owner) move(p *piece) {
	switch p.state {
	case queued:
		if p.waits > 0 {
			return
		}
		if p.dropped {
			o.remove(p)
			return
		}
		p.started = o.now
		if p.ofHost() {
			o.stats.locked(o, p)
		}
		switch p.kind {
		case write, unmap, zero:
			o.write(p)
		case read, compareWrite, rewrite, compare, copying, scrub:
			p.state = reading
			o.ask(p)
		}
	case reading:
		if p.dropped {
			o.remove(p)
		} else if p.asked == 0 {
			o.ask(p)
		}
	case writing:
		o.wrote(p)
	case undoing:
		o.undo(p)
	case short:
		o.acknowledge(p)
	case sending:
		if p.dropped {
			o.remove(p)
		}
	case done:
	}
}

// acknowledge ends p, which is on every required replica, if these are enough.
// If not it stays, but lets reads pass; the host has to wait or to give up.
func (o *Owner) acknowledge(p *piece) {
	switch {
	case o.enough(p.group):
		o.end1(p, nil)
	case p.op == nil:
		o.remove(p)
	default:
		o.release(p, func(w *piece) bool { return !w.changes() })
	}
}

// end1 is the end of one piece; the op ends with its last one.
func (o *Owner) end1(p *piece, err error) {
	op := p.op
	if err == nil {
		o.stats.ended(o, p)
	}
	p.op = nil
	o.remove(p)
	if op == nil {
		return
	}
	if op.pieces--; err != nil && op.pieces > 0 {
		o.abandon(op)
	}
	if err != nil || op.pieces == 0 {
		o.finish(op, err)
	}
}
