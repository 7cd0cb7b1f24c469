package volume

import (
	"slices"

	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// phase is how far the takeover of a group is.
type phase uint8

const (
	collecting phase = iota // fencing its replicas in sync, and collecting tails
	equalizing              // writing again what not all of them have, copying what some have lost
	serving
)

// takeover moves on.
func (o *Owner) takeover() {
	if o.leaving = 0; len(o.unserved) == 0 {
		return
	}
	fresh := false
	for _, g := range o.unserved {
		if g.phase == collecting {
			g.doubt = 0
			g.fresh = o.collected(g) && o.judge(g)
		}
	}
	o.leave()
	for _, g := range o.unserved {
		if g.fresh = g.fresh && g.doubt&o.leaving == 0; g.fresh {
			g.phase, fresh = equalizing, true
		}
	}
	if fresh {
		o.equalize()
	}
	o.unserved = slices.DeleteFunc(o.unserved, func(g *group) bool {
		g.fresh = false
		if g.phase != equalizing || !g.check.goOn(o, g) || g.repairs > 0 {
			return false
		}
		o.serve(g)
		return true
	})
}

// serve ends the takeover of g.
func (o *Owner) serve(g *group) {
	g.phase, g.doubt, g.check = serving, 0, check{}
	o.pace.disturbed(&o.cfg, o.now)
	for d, c := range o.conns {
		if g.disks.has(d) {
			if c.unserved--; c.unserved == 0 {
				c.tail, c.proof.must = nil, o.seq
			}
		}
	}
}

// collected tells whether every replica of g in sync is fenced or marked out,
// and nobody can read by an older lease [I5]. That asks all members, not those
// in sync: who is out may have been marked out by a takeover that ended before
// it had waited, and the owner before that one would not know.
func (o *Owner) collected(g *group) bool {
	return g.disks&o.inSync&^o.up == 0 &&
		(g.disks&^o.fenced == 0 || o.now >= o.waits || mutation.On(mutation.SkipOldLeaseWait))
}

// startOver drops what the takeover has done where members have left or come:
// the tails that it was built on may have changed. New sessions with all of
// these groups' replicas see to it that nothing of it arrives later; so what
// others of their groups have done is dropped too.
func (o *Owner) startOver(changed disks) {
	var again disks
	for more := changed != 0; more; {
		more = false
		for _, g := range o.unserved {
			if g.phase == equalizing && g.disks&(changed|again) != 0 {
				g.phase, g.doubt, g.check, more = collecting, 0, check{}, true
				again |= g.disks & o.inSync
			}
		}
	}
	if again == 0 {
		return
	}
	for _, p := range slices.Clone(o.pieces.all) {
		if p.takeover && p.group.phase == collecting {
			o.remove(p)
		}
	}
	for s := again & o.up; s != 0; s &= s - 1 {
		o.conns[s.first()].close(o, o.now)
	}
}

// equalize queues a write for each run of blocks of fresh groups that the
// newest unstable write to it did not reach on every replica: what a holder
// has there is written to all, forwards unless there is no space [I7]. A piece is
// within a region, so that it is there or not as a whole; see undone.
func (o *Owner) equalize() {
	type tailWrite struct {
		replica.Entry
		holders disks
	}
	stable := map[*group]uint64{}
	for _, g := range o.unserved {
		if in := g.disks & o.inSync; g.fresh {
			stable[g] = o.top(in.those(o.sound))
			for s := in; s != 0; s &= s - 1 {
				o.seq = max(o.seq, o.conns[s.first()].known, o.conns[s.first()].last)
			}
		}
	}
	var tail []*tailWrite
	byWrite := map[replica.Entry]*tailWrite{}
	for d, c := range o.conns {
		if !o.inSync.has(d) {
			continue
		}
		for _, e := range c.tail {
			g := o.groupAt(e.Off)
			if g == nil || !g.fresh || !g.disks.has(d) && !mutation.On(mutation.ArrivalHolds) {
				continue
			}
			if g.doubt.has(d) {
				g.check.touch(o, e)
			}
			if e.Ver.Seq <= stable[g] || !o.sound(d) {
				continue
			}
			w := byWrite[e]
			if w == nil {
				w = &tailWrite{Entry: e}
				byWrite[e] = w
				tail = append(tail, w)
				if g.doubt != 0 {
					g.check.touch(o, e)
				}
			}
			w.holders |= one(d)
		}
	}
	slices.SortFunc(tail, func(a, b *tailWrite) int { return b.Ver.Compare(a.Ver) })
	newest := map[int64]*tailWrite{} // by block
	var blocks []int64
	for _, w := range tail {
		for off := w.Off; off < w.Off+w.Len; off += o.cfg.BlockBytes {
			if newest[off] == nil {
				newest[off] = w
				blocks = append(blocks, off)
			}
		}
	}
	slices.Sort(blocks)
	for i := 0; i < len(blocks); {
		off, from := blocks[i], newest[blocks[i]].holders
		end := off
		for ; i < len(blocks) && blocks[i] == end && newest[end].holders == from && (end == off || end%o.cfg.MaxData != 0 && end%o.cfg.RegionBytes != 0); i++ {
			end += o.cfg.BlockBytes
		}
		if from != o.groupAt(off).disks&o.inSync {
			o.stats.equalized++
			o.rewrite(off, end-off, from, true)
		}
	}
	for _, g := range o.unserved {
		if g.fresh {
			o.beginCheck(g)
		}
	}
}
