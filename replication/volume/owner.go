package volume

import (
	"errors"
	"math/bits"
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
	"blockd.dev/replication/replica"
)

// How an Op can fail. Whether a failed write happened is not known, except
// with ErrMismatch: then it did not.
var (
	ErrMismatch = errors.New("the data to compare with differs")
	ErrTimeout  = errors.New("too few replicas answered in time")
	ErrMedium   = errors.New("no replica in sync can read the data")
	ErrNotOwner = errors.New("another node owns the volume, or may own it")
)

// Config is the same for all owners of a volume. All fields are required.
type Config struct {
	BlockBytes  int64
	RegionBytes int64 // multiple of BlockBytes
	ExtentBytes int64 // multiple of RegionBytes
	VolumeBytes int64 // multiple of ExtentBytes
	MinInSync   int   // copies needed to acknowledge a write

	OpTimeout      time.Duration // from Submit until a host is told that it failed
	RequestTimeout time.Duration // a replica that owes an answer for longer gets a new session
	HedgeAfter     time.Duration // a read that takes longer is asked of a second replica too
	RetryAfter     time.Duration // between attempts to connect, and between proposals
	OutAfter       time.Duration // a required replica without a session for longer is marked out
	StableAfter    time.Duration // an idle owner sends the watermark
	CompareRegions int64         // regions compared at a time
	RebuildJobs    int           // comparisons and copies at a time, per replica
}

// OpKind says what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	Read OpKind = iota + 1
	Write
	CompareWrite // within one extent
)

// Op is what a host asks for. The Owner has it, and its buffers, from Submit
// until Env.Complete.
type Op struct {
	Kind    OpKind
	Off     int64  // bytes, multiple of BlockBytes
	Data    []byte // read into, or written; whole blocks, at least one
	Compare []byte // CompareWrite: as long as Data
	Tag     any
	Err     error

	pieces   int
	deadline clock.Mono
	done     bool
}

// Env is what an Owner acts on. Its methods do not call the Owner back.
type Env interface {
	// Send passes q to replica disk; it may be lost, delayed or doubled. It
	// has copied q.Data, or is done with it, when it returns.
	Send(disk int, q replica.Request)
	// Propose passes p to Meta; it may be lost, delayed or doubled.
	Propose(p Proposal)
	// Complete gives op back, with Err set.
	Complete(op *Op)
}

// disks is a set of replicas, a bit each.
type disks uint64

func (s disks) has(d int) bool { return s&(1<<d) != 0 }
func (s disks) count() int     { return bits.OnesCount64(uint64(s)) }
func one(d int) disks          { return 1 << d }

// Owner serves one replica set under one lease.
type Owner struct {
	cfg   Config
	env   Env
	now   clock.Mono
	epoch uint64
	until clock.Mono
	waits clock.Mono
	local int
	over  bool

	view     View
	conns    []*conn
	required disks // must have a write before it is acknowledged [I3] [I11]
	inSync   disks // by the view: may be read from

	phase   phase
	queue   []*piece
	waiting []*Op // writes that wait for MinInSync replicas
	seq     uint64
	nextID  uint64
	shift   int // spreads reads
}

// New returns the owner that g makes. It connects to the replicas at once.
func New(cfg Config, env Env, g Grant, now clock.Mono) *Owner {
	o := &Owner{cfg: cfg, env: env, now: now, epoch: g.View.Epoch, until: g.Until, waits: g.Waits, local: g.Local, view: g.View,
		nextID: g.View.Epoch << 32} // answers to an earlier owner on the same node match nothing
	for d := range g.View.Members {
		o.conns = append(o.conns, &conn{disk: d, since: now})
	}
	o.count()
	o.settle()
	return o
}

// Renew moves the end of the lease.
func (o *Owner) Renew(now, until clock.Mono) {
	if o.enter(now) {
		o.until = max(o.until, until)
	}
}

// Stop ends everything at once, as the end of the lease does.
func (o *Owner) Stop(now clock.Mono) {
	o.now = now
	o.end()
}

// Over tells whether the owner has ended. It completes nothing any more.
func (o *Owner) Over() bool { return o.over }

// Serving tells whether takeover is done.
func (o *Owner) Serving() bool { return !o.over && o.phase == serving }

// enter begins every event. It is false when the owner is over; the clock
// says so before anything else can be decided [I5].
func (o *Owner) enter(now clock.Mono) bool {
	o.now = now
	if !o.over && now >= o.until && !mutation.On(mutation.ServeAfterLease) {
		o.end()
	}
	return !o.over
}

// end fails what is going on. Locks need not outlive the owner: the next one
// makes the replicas equal before it serves.
func (o *Owner) end() {
	if o.over {
		return
	}
	o.over = true
	for _, p := range o.queue {
		o.finish(p.op, ErrNotOwner)
	}
	for _, op := range o.waiting {
		o.finish(op, ErrNotOwner)
	}
	o.queue, o.waiting = nil, nil
}

// Submit takes a host's op. Before takeover is done it waits.
func (o *Owner) Submit(now clock.Mono, op *Op) {
	op.done, op.Err, op.deadline = false, nil, now.Add(o.cfg.OpTimeout)
	if !o.enter(now) {
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
	o.env.Complete(op)
}

// Answer takes the response of replica disk.
func (o *Owner) Answer(now clock.Mono, disk int, resp replica.Response) {
	if !o.enter(now) {
		return
	}
	if resp.Status == replica.OldEpoch && resp.Epoch > o.epoch {
		o.end()
		return
	}
	o.conns[disk].answer(o, resp)
	if !o.over {
		o.settle()
	}
}

// Meta takes a View that Meta sent.
func (o *Owner) Meta(now clock.Mono, v View) {
	if o.enter(now) {
		o.adopt(v)
	}
	if !o.over {
		o.settle()
	}
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
	o.settle()
}

// Deadline is when Tick has to be called next, at the latest.
func (o *Owner) Deadline() clock.Mono {
	if o.over {
		return clock.Never
	}
	return min(o.until, o.now.Add(min(o.cfg.RetryAfter, o.cfg.HedgeAfter)))
}

// expire tells hosts of ops that took too long. What was started goes on: its
// range stays locked until every required replica has it [I4].
func (o *Owner) expire() {
	waiting := o.waiting[:0]
	for _, op := range o.waiting {
		if o.now < op.deadline {
			waiting = append(waiting, op)
		} else {
			o.finish(op, ErrTimeout)
		}
	}
	o.waiting = waiting
	for _, p := range o.queue {
		if p.op != nil && !p.op.done && o.now >= p.op.deadline {
			for _, q := range o.queue {
				if q.op == p.op && q.changes() {
					q.data = slices.Clone(q.data) // the host's buffer goes back
				}
			}
			o.finish(p.op, ErrTimeout)
		}
	}
}

// settle brings everything as far as it goes without a new event.
func (o *Owner) settle() {
	o.propose()
	o.takeover()
	if o.phase == serving {
		o.rebuild()
		o.admit()
	}
	o.run()
}
