package replica

import (
	"bytes"
	"math"
	"slices"

	"blockd.dev/replication/mutation"
)

// Config describes a replica.
type Config struct {
	// Boot differs for each start of the replica's process.
	Boot uint64
	// RegionBytes is what one version covers.
	RegionBytes int64
	// CopyMax is the most that a Copy may be about, in bytes; 0 is one region.
	CopyMax int64
	// Buffer returns n bytes to read into, which leave as the Data of an Op
	// and then of a Response, if they are not all zeroes. nil allocates.
	Buffer func(n int64) []byte
}

// Replica is one disk's part of a volume.
type Replica struct {
	cfg     Config
	env     Env
	state   State
	trimAt  int    // length of the tail at which to look for what the watermark has passed
	session uint64 // of epoch state.Fenced, in this boot; 0 is none
	open    bool   // the session's Fence was answered
	fence   Request
	fenceBy int
	seen    window
	waiting bool // fence waits until changes is 0
	steps   int  // of fence: that were begun
	durable uint64
	changes int // changing ops in the store
	failed  bool
	gen     uint64 // of the rebuild that goes on, or 0
	clean   regionSet
	free    []*Op
}

// New returns the replica that st was stored of.
func New(cfg Config, env Env, st State) *Replica {
	if mutation.On(mutation.ForgetTail) {
		st.Tail = nil
	}
	if cfg.Buffer == nil {
		cfg.Buffer = func(n int64) []byte { return make([]byte, n) }
	}
	st.Tail = slices.Clone(st.Tail)
	return &Replica{cfg: cfg, env: env, state: st, durable: st.Fenced}
}

// Handle takes a request of the owner at node from.
func (r *Replica) Handle(from int, q Request) {
	if status := r.refuses(q); status != OK {
		r.answer(from, q, Response{Status: status})
		return
	}
	if !r.valid(q) {
		r.answer(from, q, Response{Status: Failed})
		return
	}
	if q.Kind == Fence {
		r.startFence(from, q)
		return
	}
	if !r.first(q) {
		return
	}
	r.advance(q)
	if q.Kind == Copy {
		r.copy(from, q)
		return
	}
	op := r.newOp()
	op.Off, op.Len, op.Stable, op.req, op.from = q.Off, q.Len, r.state.Stable, q, from
	switch q.Kind {
	case Write:
		r.change(op, OpWrite)
	case Clear:
		r.change(op, OpClear)
	case Zero:
		r.change(op, OpZero)
	case Read:
		op.Kind, op.Data = OpRead, r.cfg.Buffer(q.Len)
	case Versions, Confirm:
		op.Kind = OpVersions
	case Begin:
		op.Kind = OpBegin
		r.begin(op)
	case Vouch:
		op.Kind = OpVouch
	case Stable:
		r.free = append(r.free, op)
		r.answer(from, q, Response{Status: OK})
		return
	case Fence, Copy:
	}
	r.submit(op)
}

// valid tells whether q is a request that an owner could send.
func (r *Replica) valid(q Request) bool {
	ranged := q.Off >= 0 && q.Len > 0 && q.Off+q.Len > q.Off
	whole := q.Off%r.cfg.RegionBytes == 0 && q.Len%r.cfg.RegionBytes == 0
	data := int64(len(q.Data))
	switch q.Kind {
	case Write:
		return ranged && data == q.Len
	case Read, Clear, Zero:
		return ranged && data == 0
	case Versions:
		return ranged && whole
	case Confirm:
		return ranged && whole && int64(len(q.Vers)) == q.Len/r.cfg.RegionBytes
	case Copy:
		n := q.Len / r.cfg.RegionBytes
		return ranged && whole && q.Len <= max(r.cfg.CopyMax, r.cfg.RegionBytes) && (data == 0 || data == q.Len) && (n == 1 || int64(len(q.Vers)) == n)
	case Stable, Begin, Vouch:
		return true
	case Fence:
		return !slices.ContainsFunc(q.Arriving, func(a Range) bool {
			return a.Off < 0 || a.Len <= 0 || a.Off+a.Len <= a.Off || a.Off%r.cfg.RegionBytes != 0 || a.Len%r.cfg.RegionBytes != 0
		})
	}
	return false
}

// change makes op one of the owner's writes. If it touches regions that are
// not clean these lose their version with it [I8].
func (r *Replica) change(op *Op, kind OpKind) {
	op.Kind, op.Data, op.Ver = kind, op.req.Data, op.req.Ver
	if op.req.Gen == 0 || mutation.On(mutation.BareKeepsVersion) || kind != OpWrite && mutation.On(mutation.ClearKeepsVersion) {
		return
	}
	for off := range r.regions(op.Off, op.Len) {
		if !r.clean.has(off / r.cfg.RegionBytes) {
			op.Void = append(op.Void, off)
		}
	}
}

// begin has op void what unstable writes touched: each says that others before
// it may be missing, so the versions of its regions prove nothing [I9].
func (r *Replica) begin(op *Op) {
	r.gen = 0
	if !mutation.On(mutation.KeepTailVersions) {
		r.voidTail(op, []Range{{0, math.MaxInt64}})
	}
}

// voidTail has op take the versions from those of these regions that the tail is about.
func (r *Replica) voidTail(op *Op, of []Range) {
	r.trim()
	for _, e := range r.state.Tail {
		for off := range r.regions(e.Off, e.Len) {
			if slices.ContainsFunc(of, func(a Range) bool { return off >= a.Off && off-a.Off < a.Len }) {
				op.Void = append(op.Void, off)
			}
		}
	}
	slices.Sort(op.Void)
	op.Void = slices.Compact(op.Void)
}

// refuses decides by epoch, session, boot and generation, in this order.
func (r *Replica) refuses(q Request) Status {
	if q.Epoch < r.state.Fenced && !mutation.On(mutation.SkipFence) {
		return OldEpoch // [I1]
	}
	if q.Kind == Fence {
		if q.Epoch == r.state.Fenced && q.Session <= r.session {
			return OldSession
		}
		return OK
	}
	old := q.Epoch != r.state.Fenced || q.Session != r.session || q.Boot != r.cfg.Boot || !r.open
	if mutation.On(mutation.SkipFence) && q.Epoch < r.state.Fenced {
		old = false
	}
	if mutation.On(mutation.AcceptOldSession) && q.Epoch == r.state.Fenced && r.open {
		old = false
	}
	switch {
	case old:
		return OldSession // [I2]
	case r.failed && q.Kind != Read && q.Kind != Versions:
		return Failed
	case q.Gen != 0 && q.Kind != Begin && q.Gen != r.gen:
		return OldSession
	}
	return OK
}

// first tells whether q comes for the first time in its session. A copy that
// comes late could undo a write that came after the first [I2]. It needs no
// answer: the first had one, and if that was lost a new session follows.
func (r *Replica) first(q Request) bool {
	if mutation.On(mutation.TakeTwice) || mutation.On(mutation.SkipFence) || mutation.On(mutation.AcceptOldSession) {
		return true
	}
	return r.seen.first(q.ID, q.Oldest)
}

// startFence refuses older epochs and sessions from now on, and answers when
// nothing of them is left in the store and the epoch is durable [I1] [I2].
func (r *Replica) startFence(from int, q Request) {
	if r.waiting {
		r.answer(r.fenceBy, r.fence, Response{Status: OldSession})
	}
	r.state.Fenced = max(r.state.Fenced, q.Epoch)
	r.session, r.open, r.gen, r.clean = q.Session, false, 0, nil
	r.seen.reset(q.ID)
	r.fence, r.fenceBy, r.waiting, r.steps = q, from, true, 0
	r.proceedFence()
}

// proceedFence takes the next step of the fence that waits, when the one before
// has ended.
func (r *Replica) proceedFence() {
	for r.waiting && (r.changes == 0 || r.durable == r.state.Fenced && mutation.On(mutation.AcceptOldSession)) {
		if r.failed {
			r.waiting = false
			r.answer(r.fenceBy, r.fence, Response{Status: Failed})
			return
		}
		r.steps++
		switch r.steps {
		case 1:
			r.clearArriving()
		case 2:
			r.noteFence()
		default:
			r.opened()
		}
	}
}

// clearArriving clears the extents that are moved here, if this is the first Fence
// since the move began. What is there is of an older time: some writes may be
// missing, and versions tell nothing of that [I14].
func (r *Replica) clearArriving() {
	if !r.moveIsNew() || mutation.On(mutation.StaleArrival) {
		return
	}
	for _, a := range r.fence.Arriving {
		op := r.newOp()
		op.Kind, op.Copied, op.Off, op.Len, op.Stable, op.req = OpClear, true, a.Off, a.Len, r.state.Stable, r.fence
		r.submit(op)
	}
}

// moveIsNew tells whether no owner that knew of the move has opened a session here.
func (r *Replica) moveIsNew() bool { return r.fence.Gen > r.durable }

// noteFence makes the epoch durable, and takes the versions from arriving regions
// with unstable writes, for the reason for which begin does [I9].
func (r *Replica) noteFence() {
	op := r.newOp()
	op.Kind, op.Epoch, op.Stable, op.req = OpFence, r.state.Fenced, r.state.Stable, r.fence
	if (!r.moveIsNew() || mutation.On(mutation.StaleArrival)) && !mutation.On(mutation.TrustArrivedTail) {
		r.voidTail(op, r.fence.Arriving)
	}
	if r.durable < r.state.Fenced || len(op.Void) > 0 {
		r.submit(op)
	} else {
		r.free = append(r.free, op)
	}
}

// opened begins the session.
func (r *Replica) opened() {
	r.waiting, r.open = false, true
	if len(r.fence.Arriving) > 0 {
		r.gen, r.clean = r.fence.Gen, regionSet{}
	}
	r.trim()
	r.answer(r.fenceBy, r.fence, Response{
		Status: OK, Stable: r.state.Stable, Last: r.state.Last, Tail: slices.Clone(r.state.Tail), Differ: r.copyMax(),
		Unproven: r.state.Unproven, Vouches: true,
	})
}

// newOp returns a blank op.
func (r *Replica) newOp() *Op {
	if len(r.free) == 0 {
		return &Op{}
	}
	op := r.free[len(r.free)-1]
	r.free = r.free[:len(r.free)-1]
	*op = Op{Void: op.Void[:0]}
	return op
}

func (r *Replica) submit(op *Op) {
	if op.Changes() {
		r.changes++
	}
	r.env.Submit(op)
}

// Done takes back an op that the store has ended.
func (r *Replica) Done(op *Op) {
	if op.Changes() {
		r.changes--
		if op.Err != OK && op.Err != NoSpace {
			r.failed = true // what is on the disk is not known any more
		}
	}
	switch {
	case op.req.Kind == Fence:
		switch {
		case op.Err == OK && op.Kind == OpFence:
			r.durable = max(r.durable, op.Epoch)
		case op.Err == NoSpace && r.waiting: // the owner will try again
			r.waiting = false
			r.answer(r.fenceBy, r.fence, Response{Status: NoSpace})
		}
	case op.all != nil && !op.all.last(op):
		r.remember(op)
	case op.req.Epoch != r.state.Fenced && !mutation.On(mutation.SkipFence):
		r.remember(op)
		r.answer(op.from, op.req, Response{Status: OldEpoch})
	default:
		r.remember(op)
		r.answerOp(op)
	}
	r.free = append(r.free, op)
	r.proceedFence()
}

// remember keeps the tail: what is durable and above the watermark [I6].
func (r *Replica) remember(op *Op) {
	switch {
	case op.Err != OK:
	case op.Writes():
		if op.Ver != NoVersion {
			r.state.Last = max(r.state.Last, op.Ver.Seq)
		}
		if !op.Copied && op.Ver.Seq > r.state.Stable {
			r.state.Tail = append(r.state.Tail, Entry{op.Ver, op.Off, op.Len})
			if len(r.state.Tail) > r.trimAt {
				r.trim()
			}
		}
	case op.Kind == OpBegin:
		r.state.Tail = nil
	case op.Kind == OpVouch:
		r.state.Unproven = false
	}
}

// trim takes off the tail what the watermark has passed. That is done now and
// then: what is left grows to at most double before it happens again.
func (r *Replica) trim() {
	r.state.Tail = slices.DeleteFunc(r.state.Tail, func(e Entry) bool { return e.Ver.Seq <= r.state.Stable })
	r.trimAt = 2*len(r.state.Tail) + 8
}

func (r *Replica) answerOp(op *Op) {
	q, resp := op.req, Response{Status: op.Err}
	if op.all != nil {
		resp.Status = op.all.status
	}
	if resp.Status == Medium && q.Kind == Confirm { // it can't be made the same, and no other source would help
		resp.Status = Failed
	}
	if resp.Status != OK {
		r.answer(op.from, q, resp)
		return
	}
	current := q.Session == r.session
	switch {
	case q.Kind == Read:
		resp.Vers = op.Vers
		if !Zeroes(op.Data) {
			resp.Data = op.Data
		}
	case q.Kind == Versions:
		resp.Vers = op.Vers
	case q.Kind == Begin && current:
		r.gen, r.clean = q.Gen, regionSet{}
	case q.Kind == Copy && current && q.Gen != 0 && q.Gen == r.gen:
		for off := range r.regions(q.Off, q.Len) {
			r.clean.add(off / r.cfg.RegionBytes)
		}
	case q.Kind == Confirm && current && (q.Gen == 0 || q.Gen == r.gen):
		for i, v := range op.Vers {
			off := q.Off + int64(i)*r.cfg.RegionBytes
			switch {
			case !v.Same(q.Vers[i]):
				resp.Differ = append(resp.Differ, off)
			case q.Gen != 0:
				r.clean.add(off / r.cfg.RegionBytes)
			}
		}
	}
	r.answer(op.from, q, resp)
}

// Zeroes tells whether b holds nothing else.
func Zeroes(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}

// advance takes over the watermark. A replica at which a rebuild is about to
// begin has missed writes that the watermark covers, so Begin has none.
func (r *Replica) advance(q Request) {
	if q.Kind == Begin && !mutation.On(mutation.BeginTakesStable) || q.Stable <= r.state.Stable {
		return
	}
	r.state.Stable = q.Stable
	r.state.Last = max(r.state.Last, q.Stable)
}

func (r *Replica) answer(to int, q Request, resp Response) {
	resp.ID, resp.Boot, resp.Epoch = q.ID, r.cfg.Boot, r.state.Fenced
	r.env.Answer(to, resp)
}

// regions yields the offsets of the regions that [off, off+n) touches.
func (r *Replica) regions(off, n int64) func(func(int64) bool) {
	return func(yield func(int64) bool) {
		for at := off - off%r.cfg.RegionBytes; at < off+n; at += r.cfg.RegionBytes {
			if !yield(at) {
				return
			}
		}
	}
}
