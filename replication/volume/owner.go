package volume

import (
	"slices"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// Owner serves one volume under one lease.
type Owner struct {
	cfg   Config
	env   Env
	now   clock.Mono
	epoch uint64
	until clock.Mono
	waits clock.Mono
	local int
	over  bool
	drain drain
	stats stats
	pace  pacer
	awake clock.Mono // the owner stood still before then, or had nothing to do

	view     View
	conns    []*conn
	up       disks // have a session
	fenced   disks // have answered a Fence of this epoch
	required disks // must have a write before it is acknowledged [I3] [I11]
	inSync   disks // by the view: may be read from
	targets  disks // are sent new writes
	missed   disks // required, away for too long, and can't be done without
	needed   disks // required, and too few would be left of some extent without them
	leaving  disks // there, and marked out rather than compared in a takeover
	trusted  disks // taken at their word, as an operator says

	groups   []*group
	groupOf  []int32 // index in groups, by extent
	byPlace  map[place]int32
	unserved []*group // those whose takeover is not done

	waiting  []*Op // not cut yet, for want of replicas
	pieces   pieces
	locks    locks
	unsent   int     // pieces of hosts' changes that have no sequence number yet
	unstable seqList // pieces that not all their targets have
	seq      uint64
	shift    int // spreads reads among equals
}

// New returns the owner that g makes. It connects to the replicas at once.
func New(cfg Config, env Env, g Grant, now clock.Mono) *Owner {
	o := &Owner{cfg: cfg.withDefaults(), env: env, now: now, epoch: g.View.Epoch, until: g.Until, waits: g.Waits, local: g.Local,
		view: g.View, byPlace: map[place]int32{}}
	o.locks.grain = cfg.RegionBytes
	o.addConns()
	for d, c := range o.conns {
		c.loss.counted = o.view.Members[d].Sync == InSync
	}
	o.addExtents()
	o.count()
	o.settle()
	return o
}

// Renew moves the end of the lease.
func (o *Owner) Renew(now, until clock.Mono) {
	o.until = max(o.until, until) // first: now may be past what was known before
	o.enter(now)
}

// Grow makes the volume larger; a smaller size changes nothing. Meta must have
// been called with a View that has all members of the new extents. They were in
// sync when the extents were allocated, and nothing was ever written there.
func (o *Owner) Grow(bytes int64) {
	if o.over || bytes <= o.cfg.VolumeBytes {
		return
	}
	o.cfg.VolumeBytes = bytes
	o.addExtents()
	o.need()
	o.settle()
}

// Stop ends everything at once, as the end of the lease does.
func (o *Owner) Stop(now clock.Mono) {
	o.now = now
	o.end()
}

// Over tells whether the owner has ended. It completes nothing any more.
func (o *Owner) Over() bool { return o.over }

// Serving tells whether the takeover is done, of every extent.
func (o *Owner) Serving() bool { return !o.over && len(o.unserved) == 0 }

// enter begins every event. It is false when the owner is over; the clock
// says so before anything else can be decided [I5].
func (o *Owner) enter(now clock.Mono) bool {
	if now.Sub(o.now) > o.cfg.RequestTimeout/2 {
		o.awakes(now)
	}
	o.now = now
	if !o.over && now >= o.until && !mutation.On(mutation.ServeAfterLease) {
		o.end()
	}
	return !o.over
}

// awakes says that the owner stood still since the last event, or had nothing to do. What
// replicas have sent meanwhile it may yet have to hear of.
func (o *Owner) awakes(now clock.Mono) {
	o.awake = now
	for _, c := range o.conns {
		if c.state != up && o.now < c.outAt(o) {
			c.since = now
		}
	}
}

// end fails what is going on. Locks need not outlive the owner: the next one
// makes the replicas equal before it serves.
func (o *Owner) end() {
	if o.over {
		return
	}
	o.over = true
	for _, p := range o.pieces.all {
		o.finish(p.op, ErrNotOwner)
	}
	for _, op := range o.waiting {
		o.finish(op, ErrNotOwner)
	}
	o.pieces, o.waiting = pieces{}, nil
}

// Submit takes a host's op. Before takeover is done, and beyond the end of the
// volume, it waits.
func (o *Owner) Submit(now clock.Mono, op *Op) {
	op.done, op.Err, op.Sent, op.Found, op.pieces = false, nil, false, Found{}, 0
	op.began, op.deadline = now, now.Add(o.cfg.OpTimeout)
	if !o.enter(now) || o.drain.on {
		o.finish(op, ErrNotOwner)
		return
	}
	o.waiting = append(o.waiting, op)
	o.settle()
}

// finish completes op, once; nil is no op.
func (o *Owner) finish(op *Op, err error) {
	if op == nil || op.done {
		return
	}
	op.done, op.Err = true, err
	o.stats.finished(o, op)
	o.env.Complete(op)
}

// Answer takes the response of replica disk. Its Data is the Owner's until
// Answer returns, its other slices for good.
func (o *Owner) Answer(now clock.Mono, disk int, resp replica.Response) {
	if !o.enter(now) {
		return
	}
	if resp.Status == replica.OldEpoch && resp.Epoch > o.epoch {
		o.end()
		return
	}
	o.conns[disk].answer(o, resp)
	o.settle()
}

// Unreachable says that the transport can't reach replica disk now. It is a
// hint: the session is ended rather than waited for, and the replica is marked
// out after GoneAfter. It is safe at any time, and over when the replica answers.
func (o *Owner) Unreachable(now clock.Mono, disk int) {
	if !o.enter(now) {
		return
	}
	c := o.conns[disk]
	c.gone = true
	if c.state != down {
		c.lose(o)
	}
	o.settle()
}

// Meta takes a View that Meta sent.
func (o *Owner) Meta(now clock.Mono, v View) {
	if o.enter(now) {
		o.adopt(v)
	}
	o.settle()
}

// Tick does what is due.
func (o *Owner) Tick(now clock.Mono) {
	if !o.enter(now) {
		return
	}
	for _, c := range o.conns {
		c.tick(o)
	}
	o.expire()
	o.wakeReads()
	o.settle()
}

// Deadline is when Tick has to be called next, at the latest. Every call of
// the Owner may change it.
func (o *Owner) Deadline() clock.Mono {
	if o.over {
		return clock.Never
	}
	soon := o.now.Add(min(o.cfg.RetryAfter, o.cfg.HedgeAfter))
	due := min(o.until, o.nextTurn())
	if len(o.waiting) > 0 || len(o.pieces.all) > 0 || len(o.unserved) > 0 || o.drain.on {
		return min(due, soon)
	}
	for d, c := range o.conns {
		switch {
		case c.state != up || c.calls.len() > 0 || c.re.phase != idle || len(c.arriving) > 0 || o.view.Members[d].Sync != InSync || c.doubt == o.view.Members[d].Gen+1:
			due = min(due, soon)
		case c.stable < o.stable(c):
			due = min(due, max(soon, c.lastUse.Add(o.cfg.StableAfter)))
		}
	}
	return due
}

// nextTurn is when a resync may go on that waits for its turn (Share). One that gives way to the volume's own hosts is
// called often enough by what these do.
func (o *Owner) nextTurn() clock.Mono {
	next := clock.Never
	for _, c := range o.conns {
		if c.re.phase == comparing && o.now < c.re.turn {
			next = min(next, c.re.turn)
		}
	}
	return next
}

// expire tells hosts of ops that took too long. What was started goes on: its
// range stays locked until every required replica has it [I4].
func (o *Owner) expire() {
	o.waiting = slices.DeleteFunc(o.waiting, func(op *Op) bool {
		if o.now < op.deadline {
			return false
		}
		o.finish(op, ErrTimeout)
		return true
	})
	for i := 0; i < len(o.pieces.all); i++ {
		if p := o.pieces.all[i]; p.op != nil && o.now >= p.op.deadline {
			op := p.op
			o.abandon(op)
			o.finish(op, ErrTimeout)
		}
	}
}

// settle brings everything as far as it goes without a new event.
func (o *Owner) settle() {
	for !o.over {
		o.propose()
		o.takeover()
		o.rebuild()
		o.vouch()
		o.admit()
		if !o.run() {
			o.drained()
			return
		}
	}
}
