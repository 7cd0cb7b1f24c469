package volume

import (
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

type connState uint8

const (
	down    connState = iota
	fencing           // Fence is on its way
	up
)

// conn is what the owner has with one replica: one session after another.
type conn struct {
	disk    int
	state   connState
	since   clock.Mono // not up since then
	gone    bool       // and the transport says that it can't be reached
	retry   clock.Mono // next attempt
	session uint64
	boot    uint64
	calls   calls
	stable  uint64 // the replica was told this watermark
	lastUse clock.Mono

	unserved int  // groups of it that are being taken over
	tailed   seqs // writes sent that no watermark sent covers: about what the tail there is
	owes     bool // of the writes that this session began with it has answered none

	// The answer to the last Fence, or to Vouch; the tail, while groups of it are being taken over.
	known uint64
	last  uint64
	tail  []replica.Entry

	doubt uint64 // MarkOut was proposed for the generation before this one; 0: for none

	patient  clock.Mono // no rebuild before then: the disk was full, or slow
	refused  uint64     // answers that the disk was full
	lag      lag
	obstacle obstacle

	arriving []replica.Range // extents that are moved to it
	copyMax  int64           // the most that a copy may be about, in bytes; 0 is one region
	gen      uint64          // by which the replica takes what is rebuilt or arrives, in this session; 0: nothing

	re     rebuild
	proof  proof
	loss   loss
	source source
	reads  Latency
	write  Latency

	readsNode Latency // of reads, for how long the replica's node had them
}

// addConns connects to members that the view has and conns has not.
func (o *Owner) addConns() {
	for d := len(o.conns); d < len(o.view.Members); d++ {
		// Answers to an earlier owner on the same node match no ID of this one.
		o.conns = append(o.conns, &conn{disk: d, since: o.now, calls: calls{first: o.epoch << 40}})
	}
}

// request sends q within the session.
func (c *conn) request(o *Owner, p *piece, q replica.Request) {
	q.ID, q.Epoch, q.Session, q.Boot, q.Stable = c.calls.next(), o.epoch, c.session, c.boot, max(q.Stable, o.stable(c))
	c.calls.add(call{kind: q.Kind, piece: p, seq: q.Ver.Seq, sent: o.now})
	q.Oldest = c.calls.oldest()
	c.lastUse = o.now
	if q.Kind == replica.Read {
		c.source.asked(o.now)
	}
	if p != nil {
		p.calls++
	}
	if q.Kind != replica.Fence {
		c.stable = max(c.stable, q.Stable)
		c.tailed.trim(q.Stable)
	}
	if q.Kind.Changes() {
		c.tailed.list = append(c.tailed.list, q.Ver.Seq)
	}
	o.env.Send(c.disk, q)
}

// connect begins a new session.
func (c *conn) connect(o *Owner) {
	c.session++
	c.state = fencing
	c.retry = o.now.Add(o.cfg.RetryAfter)
	q := replica.Request{Kind: replica.Fence}
	if len(c.arriving) > 0 && !c.re.finishing() { // when it is, they may be its own already
		q.Gen, q.Arriving = o.cfg.ArrivingSince, c.arriving
	}
	c.gen = q.Gen
	c.request(o, nil, q)
}

// arrives adds an extent to those that are moved to c.
func (c *conn) arrives(r replica.Range) {
	if n := len(c.arriving); n > 0 && c.arriving[n-1].Off+c.arriving[n-1].Len == r.Off {
		c.arriving[n-1].Len += r.Len
		return
	}
	c.arriving = append(c.arriving, r)
}

// lose ends the session: nothing of it will be taken any more. Writes are
// sent again in the next one, reads go elsewhere.
func (c *conn) lose(o *Owner) {
	c.close(o, o.now.Add(o.cfg.RetryAfter))
	if o.inSync.has(c.disk) {
		o.startOver(one(c.disk))
	}
}

func (c *conn) close(o *Owner, retry clock.Mono) {
	if c.state == up && !c.owes { // else it was of no use
		c.since = o.now
	}
	c.state, c.retry = down, retry
	o.up &^= one(c.disk)
	c.stable, c.source.n, c.proof.asking = 0, 0, false
	c.calls.clear(func(k call) {
		if k.piece != nil {
			k.piece.calls--
			k.piece.lost(o, c.disk)
		}
	})
	c.re.stop(o, c.disk)
}

func (c *conn) tick(o *Owner) {
	overdue := func(after clock.Mono) bool { return o.now >= after }
	if c.calls.len() > 0 && overdue(o.awake.Add(o.cfg.RequestTimeout)) {
		c.judge(o)
	}
	c.watchLag(o)
	switch {
	case c.state == down && overdue(c.retry):
		c.connect(o)
	case c.state == up && c.calls.len() == 0 && c.stable < o.stable(c) && overdue(c.lastUse.Add(o.cfg.StableAfter)) && o.required.has(c.disk):
		c.request(o, nil, replica.Request{Kind: replica.Stable})
	}
	for i := c.calls.head; i < len(c.calls.list); i++ {
		k := &c.calls.list[i]
		if !overdue(k.sent.Add(o.cfg.HedgeAfter)) {
			break
		}
		if k.kind == replica.Read && k.piece != nil && !k.hedged {
			k.hedged = true
			k.piece.hedge(o)
		}
	}
}

// judge ends the session if the replica is silent, or keeps one request to itself for too long though it
// answers others: if that is a write a new session would only send it again, so it is done without
// the replica if that can be. If it can't, a new session would have the replica begin all anew that it is about to
// answer, again and again: so it has more time.
func (c *conn) judge(o *Owner) {
	oldest := c.calls.list[c.calls.head]
	late := func(since clock.Mono, after time.Duration) bool { return o.now >= since.Add(after) }
	if o.needs(c.disk) && !late(oldest.sent, o.Patience(c.disk)) {
		return
	}
	if late(oldest.sent, requestLimit*o.cfg.RequestTimeout) && !mutation.On(mutation.HangsForEver) {
		c.giveUp(o, Hung, o.now.Sub(oldest.sent))
		if oldest.kind.Changes() {
			c.since = oldest.sent
		}
		return
	}
	if c.calls.owed > 0 && late(c.calls.silent, o.cfg.RequestTimeout) {
		c.giveUp(o, Silent, o.now.Sub(c.calls.silent))
	}
}

func (c *conn) answer(o *Owner, resp replica.Response) {
	k, ok := c.calls.take(o.now, resp.ID)
	if !ok {
		return
	}
	p := k.piece
	if resp.Status == replica.OK && !o.complete(k, resp) {
		resp.Status = replica.Failed
	}
	if resp.Status == replica.OK || resp.Status == replica.Medium || resp.Status == replica.NoSpace {
		c.proof.heard = max(c.proof.heard, k.sent)
	}
	if k.kind.Changes() && resp.Status == replica.OK {
		c.loss.took = max(c.loss.took, k.seq)
	}
	if resp.Hosts {
		o.cfg.Share.heard(o.now)
	}
	switch {
	case k.kind != replica.Read:
	case resp.Status == replica.OK:
		c.source.answered(o.now, o.now.Sub(k.sent), p.len, o.cfg.RegionBytes)
	default:
		c.source.missed(o.now)
	}
	switch {
	case resp.Status == replica.Medium && p != nil:
		p.unreadable(o, c.disk)
	case resp.Status == replica.NoSpace:
		c.full(o, k)
	case resp.Status != replica.OK: // the replica restarted or its store failed: begin again
		if p != nil {
			p.lost(o, c.disk)
		}
		c.lose(o)
	case k.kind == replica.Fence:
		c.opened(o, resp)
	case k.kind == replica.Begin:
		c.re.begun(o, c.disk)
	case k.kind == replica.Vouch:
		c.vouched()
	case p != nil && k.kind.Changes() && k.seq != p.seq: // what it was before it was undone
	case p != nil:
		c.owes = c.owes && !k.kind.Changes()
		c.took(o, k, &resp)
		p.answer(o, c.disk, k.kind, resp)
	}
	if p != nil {
		p.calls--
		o.recycle(p)
	}
}

// complete tells whether resp has what k asked for.
func (o *Owner) complete(k call, resp replica.Response) bool {
	switch k.kind {
	case replica.Read:
		if k.piece.kind == copying && int64(len(resp.Vers)) != o.regionsIn(k.piece) {
			return false
		}
		return len(resp.Vers) > 0 && (len(resp.Data) == 0 || int64(len(resp.Data)) == k.piece.len)
	case replica.Versions:
		return len(resp.Vers) > 0
	default:
		return true
	}
}

// took counts how long an answer to a host's request took.
func (c *conn) took(o *Owner, k call, resp *replica.Response) {
	took := o.now.Sub(k.sent)
	switch {
	case !k.piece.ofHost() || k.kind == replica.Copy:
	case k.kind == replica.Read:
		c.reads.add(took)
		if at := atNode(resp, took); at != 0 {
			c.readsNode.add(at)
		}
	default:
		c.write.add(took)
		c.lag.add(o.now, took)
	}
}

// opened has the session: what the replica owes is sent again [I2].
func (c *conn) opened(o *Owner, resp replica.Response) {
	o.fenced |= one(c.disk)
	c.learn(o, resp)
	// Who was told a watermark may have gone out before others heard of it who had
	// no space for the writes below [I13]. It shall not cover any that are to come.
	// Nor shall what an owner before this one sent to where it arrives stay in the tail there. And what proves
	// that the replica has all that is copied to it is higher than what did before [I15].
	o.seq = max(o.seq, resp.Stable, o.view.Members[c.disk].Proof)
	if len(c.arriving) > 0 {
		o.seq = max(o.seq, resp.Last)
	}
	if o.distrusts(c) {
		c.turnAway(o)
		return
	}
	anew := resp.Boot != c.boot
	c.state, c.boot, c.gone = up, resp.Boot, false
	c.unhindered(o, anew)
	c.copyMax = 0
	if len(resp.Differ) > 0 {
		c.copyMax = resp.Differ[0]
	}
	o.up |= one(c.disk)
	c.tail = resp.Tail
	c.tailed = seqs{}
	for _, e := range resp.Tail {
		c.tailed.list = append(c.tailed.list, e.Ver.Seq)
	}
	slices.Sort(c.tailed.list)
	if c.unserved == 0 {
		c.tail = nil
	}
	c.owes = false
	for p := o.unstable.head; p != nil; p = p.after {
		if p.targets.has(c.disk) && !(p.acked | p.refused).has(c.disk) && o.requiredOf(p.group).has(c.disk) {
			p.send(o, c.disk)
			c.owes = true
		}
	}
	o.wakeReads()
	o.pace.disturbed(&o.cfg, o.now)
}

// stable is the watermark for c: every write up to it, to extents that c keeps,
// is on every replica of them that has a session and takes writes [I6]. While
// an extent of c is being taken over there is none to tell.
func (o *Owner) stable(c *conn) uint64 {
	if c.unserved > 0 && !(mutation.On(mutation.StableInTakeover) && len(o.unserved) < len(o.groups)) {
		return 0
	}
	s := o.seq
	if p := o.unstable.head; p != nil {
		s = p.place - 1
	}
	if c.re.phase == comparing && !o.drain.on && !mutation.On(mutation.ToldBefore) {
		return s - min(s, 1) // what it is told when all is there has to be more [I15]
	}
	return s
}
