package volume

import (
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// A disk may say that a write is durable, and have lost it, and all that came after it, when
// its power is cut. What its replica says when it is back shows that [I15]: its
// watermark, and its tail. It is out then, and rebuilt.

// trust is what is known of what a replica has durably.
type trust struct {
	high   uint64     // it was known to have been told this watermark
	heard  uint64     // the same, or, of an older version, the one that it was told
	asked  uint64     // a request to store it, or a higher one, is on its way
	again  clock.Mono // no other one before then
	stored uint64     // it has this one durably
	kept   seqs       // writes that it has acknowledged; those up to stored may be left out
	gone   bool       // it has lost some, or it is to be expected: it is to be marked out
	lost   uint64     // how often it had lost some for sure
}

// opened begins a session; tail has the writes that the replica has above stable.
func (t *trust) opened(tail []uint64, stable uint64) {
	t.high = max(t.high, stable)
	t.kept = seqs{list: slices.Clone(tail)}
}

// answered notes what is durable with the answer to k.
func (t *trust) answered(k call, resp replica.Response) {
	switch {
	case k.kind == replica.Stable:
		t.asked = 0
		t.stored = max(t.stored, resp.Stable)
		if t.heard = max(t.heard, resp.Stable); resp.Stable == 0 {
			t.heard = max(t.heard, k.stable)
		}
	case k.kind.Changes():
		t.stored = max(t.stored, k.stable)
		t.heard = max(t.heard, k.stable)
		t.kept.list = append(t.kept.list, k.seq)
	default:
		return
	}
	t.high = max(t.high, k.stable)
	t.kept.trim(t.stored)
}

// forget is for a replica of which it does not count any more what it has had.
func (t *trust) forget() { *t = trust{lost: t.lost} }

// lacks tells whether resp, to a Fence, says less than was acknowledged.
func (t *trust) lacks(resp replica.Response) bool {
	if resp.Stable < t.stored {
		return true
	}
	has := make(map[uint64]bool, len(resp.Tail))
	for _, e := range resp.Tail {
		has[e.Ver.Seq] = true
	}
	return slices.ContainsFunc(t.kept.list[t.kept.head:], func(seq uint64) bool { return seq > resp.Stable && !has[seq] })
}

// mistrusts tells whether c, whose replica has restarted, is not let in before it is out. Where nobody else has
// what it keeps it is: what there is has to do.
func (o *Owner) mistrusts(c *conn, resp replica.Response) bool {
	if !o.required.has(c.disk) || c.boot == 0 || c.boot == resp.Boot || mutation.On(mutation.TrustLiars) {
		return false
	}
	t := &c.trust
	lost := t.lacks(resp)
	if lost && !t.gone {
		t.lost++
	}
	if t.gone = (lost || c.unserved == 0 && resp.Stable+o.cfg.Lag < t.high) && !o.only(c.disk); !t.gone && lost {
		t.forget()
	}
	return t.gone
}

// doubts tells whether the takeover of g, which has come to its end but for that, has to wait until a replica is
// out: one that has not stored a watermark which others could not have without it. What its tail has was
// looked at: others may lack it. Who is farthest behind goes first, since that may leave others as the only ones.
func (o *Owner) doubts(g *group) bool {
	if mutation.On(mutation.TrustLiars) {
		return false
	}
	var worst *conn
	found := false
	for _, g1 := range o.unserved {
		if g1.phase != equalizing || g1.repairs > 0 || g1.grown {
			continue
		}
		for s := g1.disks & o.inSync; s != 0; s &= s - 1 {
			c := o.conns[s.first()]
			if c.known+o.cfg.Lag < o.top(g1) && !o.only(c.disk) {
				found = found || g == g1
				if worst == nil || c.trust.gone || !worst.trust.gone && c.known < worst.known {
					worst = c
				}
			}
		}
	}
	if worst != nil && !worst.trust.gone {
		worst.trust.gone = true
		o.propose()
	}
	return found
}

// top is the highest watermark that a replica of g in sync was told.
func (o *Owner) top(g *group) uint64 {
	n := uint64(0)
	for s := g.disks & o.inSync; s != 0; s &= s - 1 {
		n = max(n, o.conns[s.first()].known)
	}
	return n
}

// findSlowest finds the lowest watermark that one of those has stored who are required and there.
func (o *Owner) findSlowest() {
	o.slowest = ^uint64(0) >> 1
	for s := o.required & o.up; s != 0; s &= s - 1 {
		o.slowest = min(o.slowest, o.conns[s.first()].trust.heard)
	}
}

// less is n - m, or 0.
func less(n, m uint64) uint64 { return n - min(n, m) }

// only tells whether nobody else is in sync of some extent of replica d.
func (o *Owner) only(d int) bool {
	return slices.ContainsFunc(o.groups, func(g *group) bool {
		return g.disks.has(d) && g.disks&o.inSync&^one(d) == 0
	})
}

// store has c store the watermark.
func (c *conn) store(o *Owner) {
	if s := o.stable(c); c.state == up && c.trust.asked == 0 && s > 0 && o.now >= c.trust.again {
		c.trust.asked, c.trust.again = s, o.now.Add(o.cfg.RetryAfter)
		c.request(o, nil, replica.Request{Kind: replica.Stable})
	}
}

// raise has the numbers of writes go on above n, which is a watermark perhaps.
func (o *Owner) raise(n uint64) {
	o.seq = max(o.seq, n)
	o.told(n)
}

// told says that a replica may store this watermark.
func (o *Owner) told(stable uint64) {
	if !mutation.On(mutation.NoLag) {
		o.floor = max(o.floor, stable+o.cfg.Lag)
	}
}

// proven tells whether replica d, to which everything was copied, and those that have the same extents have stored a
// watermark which it can't have without the copies. Until then nobody could tell that it has lost some.
func (o *Owner) proven(d int) bool {
	r := &o.conns[d].re
	if mutation.On(mutation.MarkInUnproven) {
		return true
	}
	if r.mark == 0 {
		o.seq = max(o.seq, o.floor) // now no watermark that anybody was told is less than Lag below
		r.mark = o.seq + 1
		o.seq += 2 * o.cfg.Lag
	}
	who := one(d)
	for _, g := range o.groups {
		if g.disks.has(d) || g.to.has(d) {
			who |= g.disks & o.inSync
		}
	}
	all := true
	for s := who & o.up; s != 0; s &= s - 1 {
		c := o.conns[s.first()]
		if c.unserved > 0 || c.trust.heard >= r.mark {
			continue
		}
		all = false
		if o.stable(c) >= c.trust.heard+o.cfg.Lag/2 { // less is not stored
			c.store(o)
		}
	}
	return all
}
