package device

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/internal/turn"
	"blockd.dev/replication/message"
	"blockd.dev/replication/message/inbox"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
)

// run is one lease's owner, with what moves it. Everything goes through its
// inbox; what the owner wants done is collected, and done when a batch of
// events has been taken, by the same goroutine and with no lock held.
type run struct {
	v     *Volume
	route *route // to it
	epoch uint64
	began []uint16 // disks of its members at its beginning
	local int      // the member on a disk of this node, or -1
	inbox inbox.Inbox[event]

	// Of whoever works at the inbox.
	owner    *volume.Owner
	disks    []uint16 // per member
	lease    Lease
	until    clock.Mono // the lease's end as the owner knows it
	sets     func(int64) []int
	revision uint64 // of sets
	bytes    int64  // that the extents of the volume cover; see known
	timer    *time.Timer
	armed    clock.Mono                // when the timer fires
	bufs     map[*byte]*message.Buffer // of ops in the owner, by their first byte
	todo     struct {                  // collected from the owner
		sends     []*send
		complete  []*volume.Op
		proposals []volume.Proposal
	}
	sending turn.Turn // under way while a batch goes to the disk of this node
	soon    turn.Soon // sending's
	drained []func()  // called when the owner is over
	asked   bool      // to end, or GiveUp was called
	ended   bool      // what disks had lost is noted

	queued timing // from a request's arrival on this node until the owner looks at it

	active atomic.Int64 // requests that use this run, plus one until it drains
	idle   func()       // called when active is 0; set before

	foreign struct {
		sync.Mutex
		sources map[string]*source
	}
}

type eventKind uint8

const (
	evSubmit eventKind = iota + 1
	evScrub
	evAnswer
	evView
	evTick
	evStop
	evDrain
	evGrow
	evStatus
	evUnreachable
	evTrust
)

// event is what the inbox takes: of the fields, those of its kind.
type event struct {
	kind    eventKind
	piece   *piece
	scrub   *scrub
	send    *send
	members *Members
	done    func()
	status  chan<- standing
	disks   []uint16
	bytes   int64
}

// send is a request to a replica on its way.
type send struct {
	message.Sent
	run    *run
	member int
	buf    *message.Buffer // what Request.Data is part of
}

var sends = sync.Pool{New: func() any {
	s := &send{}
	s.Tag, s.Done = s, func(m *message.Sent) {
		s := m.Tag.(*send)
		s.run.inbox.PostSoon(event{kind: evAnswer, send: s}, s.run.v.cfg.Soon)
	}
	return s
}}

func newRun(v *Volume, l Lease, waits clock.Mono, m Members, local int) *run {
	r := &run{v: v, epoch: m.View.Epoch, began: m.Disks, local: local, disks: m.Disks, lease: l, sets: m.Sets, armed: clock.Never, bufs: map[*byte]*message.Buffer{}}
	r.route, r.soon = &route{run: r}, r.sending.Leave
	r.foreign.sources = map[string]*source{}
	r.active.Store(1)
	r.inbox.Run = r.take
	r.timer = time.AfterFunc(time.Hour, func() { r.inbox.Post(event{kind: evTick}) })
	r.timer.Stop()
	cfg := v.cfg.owner()
	r.bytes = (*v.layout.Load()).SizeBytes()
	cfg.VolumeBytes = r.known()
	if m.Sets != nil {
		cfg.Sets = func(extent int64) []int { return r.sets(extent) }
	}
	cfg.Arriving, cfg.ArrivingSince = m.Arriving, m.ArrivingSince
	r.until = l.Deadline()
	r.owner = volume.New(cfg, r, volume.Grant{View: m.View, Until: r.until, Waits: waits, Local: local}, v.now())
	return r
}

// take is the work of one batch. The clock is read after its events have
// arrived, so what it says about the lease holds for all of them [I5].
func (r *run) take(batch []event) {
	now := r.v.now()
	r.renew(now)
	for i := range batch {
		r.one(now, &batch[i])
	}
	r.act()
	if r.owner.Over() {
		r.end()
		return
	}
	if at := r.owner.Deadline(); at < r.armed {
		r.armed = at
		r.timer.Reset(max(at.Sub(now), 0))
	}
}

// renew tells the owner when the end of the lease has moved.
func (r *run) renew(now clock.Mono) {
	switch until := r.lease.Deadline(); {
	case until > r.until:
		r.until = until
		r.owner.Renew(now, until)
	case until == 0 && r.until != 0:
		r.owner.Stop(now)
	}
}

func (r *run) one(now clock.Mono, e *event) {
	o := r.owner
	switch e.kind {
	case evSubmit:
		p := e.piece
		if p.buf != nil && p.op.Kind != volume.Read {
			r.bufs[&p.op.Data[0]] = p.buf
		}
		if q := p.q; !q.seen {
			q.seen = true
			r.queued.of(q.r.Op).Add(now.Sub(q.born))
		}
		o.Submit(now, &p.op)
	case evScrub:
		o.Submit(now, &e.scrub.op)
	case evAnswer:
		s := e.send
		if s.Lost { // nothing of the session can be relied on any more
			s.Response = replica.Response{ID: s.Request.ID, Status: replica.OldSession}
		}
		o.Answer(now, s.member, s.Response)
		if s.Lost && s.NotSent {
			o.Unreachable(now, s.member)
		}
		s.end()
	case evView:
		if e.members.View.Revision >= r.revision {
			r.revision, r.disks, r.sets = e.members.View.Revision, e.members.Disks, e.members.Sets
		}
		o.Meta(now, e.members.View)
		o.Grow(r.known())
	case evTick:
		r.armed = clock.Never
		o.Tick(now)
	case evStop:
		r.asked = true
		o.Stop(now)
	case evDrain:
		r.asked = true
		r.drained = append(r.drained, e.done)
		o.Drain(now)
	case evGrow:
		r.bytes = max(r.bytes, e.bytes)
		o.Grow(r.known())
	case evStatus:
		e.status <- standing{o.Status(), r.disks}
	case evTrust:
		o.Trust(now)
	case evUnreachable:
		for d, disk := range r.disks {
			if slices.Contains(e.disks, disk) {
				o.Unreachable(now, d)
			}
		}
	}
}

// known is how much of the volume has members that a view has told of. Who has the volume grow may be ahead of who tells that,
// and to the owner an extent of which it knows no members when it hears of it would be one that nobody keeps, for its whole time.
func (r *run) known() int64 {
	bytes := r.bytes
	for r.sets != nil && bytes > 0 && len(r.sets(bytes/extentBytes-1)) == 0 {
		bytes -= extentBytes
	}
	return bytes
}

// end is what follows the end of the owner. It may be called again. An owner
// that ended by itself has missed a renewal, or has met a newer one: the epoch is
// never served again, also if the lease should turn out to go on.
func (r *run) end() {
	r.timer.Stop()
	if !r.ended {
		r.ended = true
		r.v.lost.add(standing{r.owner.Status(), r.disks})
	}
	if !r.asked {
		r.asked = true
		r.v.cfg.GiveUp(r.epoch)
	}
	for _, done := range r.drained {
		done()
	}
	r.drained = nil
}

// act does what the owner wants done. Sends come first: they take longest, and
// those to other nodes longer than the one that is done here.
func (r *run) act() {
	others := false
	for _, s := range r.todo.sends {
		if s.member != r.local {
			s.Last, others = false, true
			s.Patience = r.owner.Patience(s.member)
			r.v.cfg.Transport.Send(&s.Sent)
		}
	}
	r.sending.Begin()
	for i, s := range r.todo.sends {
		r.todo.sends[i] = nil
		if s.member == r.local {
			s.Last, s.Soon = others, r.soon
			r.v.cfg.Transport.Send(&s.Sent)
		}
	}
	r.sending.End()
	r.todo.sends = r.todo.sends[:0]
	for i, op := range r.todo.complete {
		r.todo.complete[i] = nil
		if s, ok := op.Tag.(*scrub); ok {
			s.completed()
		} else {
			op.Tag.(*piece).completed()
		}
	}
	r.todo.complete = r.todo.complete[:0]
	for _, p := range r.todo.proposals {
		r.v.cfg.Meta.Propose(r.v.cfg.ID, p)
	}
	r.todo.proposals = r.todo.proposals[:0]
}

// Send is volume.Env. Data of an op is in a buffer that is held until the
// replica has answered or never will, whatever becomes of the op; all other data
// is copied to one.
func (r *run) Send(member int, q replica.Request) {
	s := sends.Get().(*send)
	s.run, s.member = r, member
	s.Target = message.Target{Volume: r.v.cfg.ID, Disk: r.disks[member]}
	s.Request, s.Lost = q, false
	if len(q.Data) > 0 {
		if s.buf = r.bufs[&q.Data[0]]; s.buf != nil {
			s.buf.Hold()
		} else {
			s.buf = message.GetBuffer(len(q.Data))
			copy(s.buf.Bytes(), q.Data)
			s.Request.Data = s.buf.Bytes()
		}
	}
	r.todo.sends = append(r.todo.sends, s)
}

func (s *send) end() {
	s.Release()
	if s.buf != nil {
		s.buf.Release()
	}
	s.run, s.buf = nil, nil
	sends.Put(s)
}

// Propose is volume.Env.
func (r *run) Propose(p volume.Proposal) { r.todo.proposals = append(r.todo.proposals, p) }

// Complete is volume.Env.
func (r *run) Complete(op *volume.Op) {
	if len(op.Data) > 0 && op.Kind != volume.Read {
		delete(r.bufs, &op.Data[0])
	}
	r.todo.complete = append(r.todo.complete, op)
}

// enter counts a request in; false once the last one has left for a drain.
func (r *run) enter() bool {
	for {
		n := r.active.Load()
		if n == 0 {
			return false
		}
		if r.active.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (r *run) leave() {
	if r.active.Add(-1) == 0 {
		r.idle()
	}
}

// drainWhenIdle drains the owner once no request uses it any more; so a request
// of several steps isn't cut in the middle. It is called once, when no new
// requests come.
func (r *run) drainWhenIdle(done func()) {
	r.idle = func() { r.inbox.Post(event{kind: evDrain, done: done}) }
	r.leave()
}
