package volume

import (
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// A disk may say that something is durable, and have lost the last of that when its machine goes down. Its replica
// is unproven then, until it is vouched for [I15]. It counts as in sync, so a takeover either marks it out, or holds it
// against those that are right, and copies what differs, before its extents are served. An owner that serves does
// not let it in.

// proof is what is known of what a replica may have lost.
type proof struct {
	vouches  bool // it knows Vouch
	unproven bool
	must     uint64     // it may be vouched for once it is told this watermark
	asking   bool       // Vouch is on its way,
	told     uint64     // with this watermark
	unable   bool       // what it lacks can't be copied to it now: it is marked out rather than waited for
	shut     clock.Mono // it is not let in before it is out, since then; 0: it is

	heard  clock.Mono // when the last request was sent that it has answered
	pinged clock.Mono // when it was asked for the sake of that
}

// learn notes what a replica says of itself when a session begins.
func (c *conn) learn(o *Owner, resp replica.Response) {
	p := &c.proof
	p.vouches, p.unproven, p.asking = resp.Vouches, resp.Unproven, false
	c.known, c.last = resp.Stable, resp.Last
	c.loss.learn(&resp, o.sound(c.disk))
	if c.unserved == 0 {
		p.must = o.seq
	}
	if resp.Boot != c.boot {
		o.trusted &^= one(c.disk)
	}
}

// sound tells whether replica d, which is there, has all that was ever copied to it.
func (o *Owner) sound(d int) bool {
	c := o.conns[d]
	return !c.proof.vouches || c.known >= o.view.Members[d].Proof || o.trusted.has(d) || mutation.On(mutation.ProofNotAsked)
}

// proven tells whether replica d, which is there, has every acknowledged write for sure.
func (o *Owner) proven(d int) bool {
	return o.sound(d) && (!o.conns[d].proof.unproven || o.trusted.has(d) || mutation.On(mutation.UnprovenCounts))
}

// lacksNothing tells whether replica d, which is there, has all of every extent that it keeps, if what it has lost was found
// in a takeover. If those were copies it has to be vouched for: the next owner could not tell.
func (o *Owner) lacksNothing(d int) bool {
	return o.proven(d) || o.conns[d].unserved == 0 && o.sound(d)
}

// those are the ones among s of whom is says so.
func (s disks) those(is func(d int) bool) (list disks) {
	for ; s != 0; s &= s - 1 {
		if is(s.first()) {
			list |= one(s.first())
		}
	}
	return list
}

// judge works out who of g's replicas, which are all there, may lack acknowledged writes. Every watermark that one of
// them has stored says that it has all writes up to it, unless it has lost copies. So whoever has stored the highest one
// lacks nothing up to there, and what is above is in the tail of all who have lost nothing. judge is false
// while nobody can tell.
func (o *Owner) judge(g *group) bool {
	in := g.disks & o.inSync
	sound := in.those(o.sound)
	if sound == 0 && in != 0 {
		return false
	}
	g.top = o.top(sound)
	g.doubt = in.those(func(d int) bool {
		c := o.conns[d]
		return !sound.has(d) || c.proof.unproven && c.known < g.top && !mutation.On(mutation.UnprovenCounts)
	})
	return true
}

// top is the highest watermark that one of s has.
func (o *Owner) top(s disks) (n uint64) {
	for ; s != 0; s &= s - 1 {
		n = max(n, o.conns[s.first()].known)
	}
	return n
}

// leave has those in doubt marked out whom a takeover can do without.
func (o *Owner) leave() {
	o.leaving = 0
	var doubt disks
	for _, g := range o.unserved {
		doubt |= g.doubt
	}
	if doubt == 0 {
		return
	}
	there := o.there()
	o.leaving = doubt.those(func(d int) bool { return o.spares(d, there&^one(d)) })
	if o.leaving != 0 {
		o.propose()
	}
}

// suffice tells whether a takeover may do without replica d where the others that are there are rest. If d is not
// there either somebody has to be proven, or two have to be held against each other. If d is there, and may lack something,
// it is held against others, unless enough for writes need not be.
func (o *Owner) suffice(d int, rest disks) bool {
	proven := rest.those(o.proven)
	if c := o.conns[d]; c.state == up && !c.proof.unable {
		return proven.count() >= max(1, o.cfg.MinInSync)
	}
	return proven != 0 || rest.count() > 1 && rest.those(o.sound) != 0 || rest != 0 && mutation.On(mutation.LoneDecides)
}

// there are the replicas in sync that are there for sure: no MarkOut of theirs is on its way, and their machines
// have not gone down and come back unnoticed, which takes longer than those times. Who was not heard of lately is asked.
func (o *Owner) there() disks {
	lately := o.cfg.RequestTimeout + o.cfg.OutAfter
	return (o.inSync & o.up).those(func(d int) bool {
		c := o.conns[d]
		if o.now >= c.proof.heard.Add(lately/2) && o.now >= c.proof.pinged.Add(o.cfg.RetryAfter) {
			c.proof.pinged = o.now
			c.request(o, nil, replica.Request{Kind: replica.Stable})
		}
		return c.doubt != o.view.Members[d].Gen+1 && (o.now <= c.proof.heard.Add(lately) || mutation.On(mutation.UnheardCounts))
	})
}

// check is how those in doubt are held against the others of a group, in its takeover: by versions, as in a resync, but for
// regions with writes in a tail. Their versions prove nothing, or will not any more once they are repaired [I7] [I9]: so they are copied after that.
type check struct {
	touched []int64 // these regions, sorted
	lacks   []lack
	cursor  int64
	jobs    int
	retry   clock.Mono // nothing before then: a disk was full
}

// lack is a region that is copied to a replica.
type lack struct {
	off int64
	to  int
}

// touch notes that a tail has a write.
func (k *check) touch(o *Owner, e replica.Entry) {
	for off := e.Off - e.Off%o.cfg.RegionBytes; off < e.Off+e.Len; off += o.cfg.RegionBytes {
		k.touched = append(k.touched, off)
	}
}

// beginCheck has all touched regions copied.
func (o *Owner) beginCheck(g *group) {
	k := &g.check
	slices.Sort(k.touched)
	k.touched = slices.Compact(k.touched)
	if mutation.On(mutation.ComparedLate) {
		k.touched = nil
	}
	for _, off := range k.touched {
		for s := g.doubt; s != 0; s &= s - 1 {
			k.lacks = append(k.lacks, lack{off, s.first()})
		}
	}
}

// goOn compares and copies, and tells whether all is done.
func (k *check) goOn(o *Owner, g *group) bool {
	if g.doubt == 0 {
		return true
	}
	for k.jobs < o.cfg.RebuildJobs && o.now >= k.retry {
		switch {
		case len(k.lacks) > 0:
			k.start(o, copying, k.lacks[0].off, o.cfg.RegionBytes, k.lacks[0].to)
			k.lacks = k.lacks[1:]
		case k.seek(o, g):
			n := min(o.cfg.CompareRegions*o.cfg.RegionBytes, o.cfg.ExtentBytes-k.cursor%o.cfg.ExtentBytes)
			for s := g.doubt; s != 0; s &= s - 1 {
				k.start(o, compare, k.cursor, n, s.first())
			}
			k.cursor += n
		default:
			return k.jobs == 0
		}
	}
	return false
}

func (k *check) start(o *Owner, kind pieceKind, off, n int64, to int) {
	p := o.blank(kind, off, n)
	p.to, p.takeover = to, true
	k.jobs++
	o.add(p)
}

// seek moves the cursor on to an extent of g.
func (k *check) seek(o *Owner, g *group) bool {
	for ; k.cursor < o.cfg.VolumeBytes; k.cursor += o.cfg.ExtentBytes {
		if o.groupAt(k.cursor) == g {
			return true
		}
	}
	return false
}

// compared takes what differs in the range of p.
func (k *check) compared(o *Owner, p *piece, differ []int64) {
	for _, off := range differ {
		if _, touched := slices.BinarySearch(k.touched, off); !touched {
			k.lacks = append(k.lacks, lack{off, p.to})
		}
	}
	k.ended(o, p)
}

// refused has p, for which the disk had no space, copied later, if it can't be done without the replica.
func (k *check) refused(o *Owner, p *piece) {
	o.conns[p.to].proof.unable = true
	k.retry = o.now.Add(o.cfg.FullAfter)
	k.lacks = append(k.lacks, lack{p.off, p.to})
	k.ended(o, p)
}

func (k *check) ended(o *Owner, p *piece) {
	k.jobs--
	o.remove(p)
}

// unsure are those of g who may lack something, as far as is known without comparing.
func (o *Owner) unsure(g *group) disks {
	return (g.disks & o.inSync).those(func(d int) bool { return !o.proven(d) })
}

// distrusts tells whether the replica of c is not let in before it is out: what the owner serves may be more than it has.
func (o *Owner) distrusts(c *conn) bool {
	return o.required.has(c.disk) && !o.proven(c.disk) && !mutation.On(mutation.UnprovenLetIn) &&
		slices.ContainsFunc(o.groups, func(g *group) bool { return g.phase == serving && o.requiredOf(g).has(c.disk) })
}

// turnAway ends the session that has just begun. If the replica can't be marked out for long the owner
// ends: a takeover can hold it against the others.
func (c *conn) turnAway(o *Owner) {
	if c.proof.shut == 0 {
		c.proof.shut = o.now
	}
	c.close(o, o.now.Add(o.cfg.RetryAfter))
	if o.missed.has(c.disk) && o.now >= c.proof.shut.Add(o.cfg.OutAfter) {
		o.end()
	}
}

// vouch has replicas know that they are proven, once all of their extents are served: they have then
// what the others have. The watermark that goes with it covers all that was copied to them, since what is
// above it is looked for in their tails.
func (o *Owner) vouch() {
	for d, c := range o.conns {
		if c.proof.unproven && c.state == up && !c.proof.asking && (c.unserved == 0 || mutation.On(mutation.VouchedEarly)) && o.view.Members[d].Sync == InSync {
			if s := o.stableOf(c); s >= c.proof.must {
				c.vouch(o, s)
			}
		}
	}
}

func (c *conn) vouch(o *Owner, stable uint64) {
	c.proof.asking, c.proof.told = true, stable
	c.request(o, nil, replica.Request{Kind: replica.Vouch, Stable: stable})
}

// vouched takes the answer.
func (c *conn) vouched() {
	c.proof.asking, c.proof.unproven = false, false
	c.known = max(c.known, c.proof.told)
	c.re.proven = c.re.proof != 0
}

// stableOf is the watermark for c, by writes to its extents only.
func (o *Owner) stableOf(c *conn) uint64 {
	for p := o.unstable.head; p != nil; p = p.after {
		if p.group.disks.has(c.disk) || p.group.to.has(c.disk) {
			return p.place - 1
		}
	}
	return o.seq
}

// prove sees to it that a loss of what was copied to c could be told later: a watermark that is higher than any
// it was told before, and covers what was not sent to it as a write, is durable there before it is proposed that it counts. It is
// true when that is so.
func (r *rebuild) prove(o *Owner, c *conn) bool {
	if !c.proof.vouches || r.proven {
		return true
	}
	if c.proof.asking || c.unserved > 0 {
		return false
	}
	s, before := o.stableOf(c), c.stable
	switch {
	case mutation.On(mutation.ToldBefore):
		before = 0
	case s == o.seq: // nothing is on its way
		o.seq++
		s++
	}
	if s > before && s >= r.must {
		r.proof = s
		c.vouch(o, s)
	}
	return false
}

// Trust has the replicas in sync that are there now taken at their word, by this owner: it is for an operator who
// knows that others, for which extents wait (Status.Unsure), won't come back, or that nothing was lost. What these
// have acknowledged and the others lack is lost then. It does nothing where nothing waits.
func (o *Owner) Trust(now clock.Mono) {
	if !o.enter(now) {
		return
	}
	for _, g := range o.groups {
		if o.waitsForSure(g) {
			o.trusted |= g.disks & o.inSync & o.up
		}
	}
	o.settle()
}

// waitsForSure tells whether g is not served since nobody who is there can tell what is right.
func (o *Owner) waitsForSure(g *group) bool {
	in := g.disks & o.inSync
	there := in & o.up
	return g.phase == collecting && there != 0 &&
		(there.those(o.sound) == 0 || there != in && there.those(o.proven) == 0 && there.count() == 1)
}
