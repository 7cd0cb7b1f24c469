package replica

import (
	"slices"

	"blockd.dev/replication/mutation"
)

// Config describes a replica.
type Config struct {
	// Boot differs for each start of the replica's process.
	Boot uint64
	// RegionBytes is what one version covers.
	RegionBytes int64
}

// Replica is one disk's part of a volume.
type Replica struct {
	cfg     Config
	env     Env
	state   State
	session uint64 // of epoch state.Fenced, in this boot; 0 is none
	open    bool   // the session's Fence was answered
	fence   Request
	fenceBy int
	oldest  uint64          // requests with lower IDs were taken, or will never be
	seen    map[uint64]bool // IDs taken in this session, from oldest on
	waiting bool            // fence waits until changing is 0
	durable uint64
	changes int // changing ops in the store
	failed  bool
	gen     uint64 // of the rebuild that goes on, or 0
	clean   map[int64]bool
}

// New returns the replica that st was stored of.
func New(cfg Config, env Env, st State) *Replica {
	if mutation.On(mutation.ForgetTail) {
		st.Tail = nil
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
	if q.Kind == Fence {
		r.startFence(from, q)
		return
	}
	if !r.first(q) {
		return
	}
	r.advance(q)
	op := &Op{Off: q.Off, Len: q.Len, Stable: r.state.Stable, req: q, from: from}
	switch q.Kind {
	case Write:
		op.Kind, op.Data, op.Ver = OpWrite, q.Data, q.Ver
		if q.Gen != 0 && !mutation.On(mutation.BareKeepsVersion) {
			for off := range r.regions(q.Off, q.Len) {
				if !r.clean[off] {
					op.Void = append(op.Void, off) // [I8]
				}
			}
		}
	case Copy:
		op.Kind, op.Data, op.Ver, op.Copied = OpWrite, q.Data, q.Ver, true
	case Read:
		op.Kind, op.Data = OpRead, make([]byte, q.Len)
	case Versions, Confirm:
		op.Kind = OpVersions
	case Begin:
		op.Kind = OpBegin
		// An unstable write says that others before it may be missing, so
		// the versions of its regions prove nothing [I9].
		for _, e := range r.state.Tail {
			for off := range r.regions(e.Off, e.Len) {
				if !slices.Contains(op.Void, off) && !mutation.On(mutation.KeepTailVersions) {
					op.Void = append(op.Void, off)
				}
			}
		}
		r.gen = 0
	case Stable:
		r.answer(from, q, Response{Status: OK})
		return
	default:
		r.answer(from, q, Response{Status: Failed})
		return
	}
	r.submit(op)
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
	if q.ID < r.oldest || r.seen[q.ID] {
		return false
	}
	if q.Oldest > r.oldest {
		r.oldest = q.Oldest
		for id := range r.seen {
			if id < r.oldest {
				delete(r.seen, id)
			}
		}
	}
	r.seen[q.ID] = true
	return true
}

// startFence refuses older epochs and sessions from now on, and answers when
// nothing of them is left in the store and the epoch is durable [I1] [I2].
func (r *Replica) startFence(from int, q Request) {
	if r.waiting {
		r.answer(r.fenceBy, r.fence, Response{Status: OldSession})
	}
	r.state.Fenced = max(r.state.Fenced, q.Epoch)
	r.session, r.open, r.gen, r.clean = q.Session, false, 0, nil
	r.oldest, r.seen = q.ID, map[uint64]bool{}
	r.fence, r.fenceBy, r.waiting = q, from, true
	r.proceedFence()
}

func (r *Replica) proceedFence() {
	switch {
	case !r.waiting || r.changes > 0 && !mutation.On(mutation.AcceptOldSession):
	case r.failed:
		r.waiting = false
		r.answer(r.fenceBy, r.fence, Response{Status: Failed})
	case r.durable < r.state.Fenced:
		r.submit(&Op{Kind: OpFence, Epoch: r.state.Fenced, Stable: r.state.Stable})
	default:
		r.waiting, r.open = false, true
		r.answer(r.fenceBy, r.fence, Response{
			Status: OK, Stable: r.state.Stable, Last: r.state.Last, Tail: slices.Clone(r.state.Tail),
		})
	}
}

func (r *Replica) submit(op *Op) {
	if op.changes() {
		r.changes++
	}
	r.env.Submit(op)
}

// Done takes back an op that the store has ended.
func (r *Replica) Done(op *Op) {
	if op.changes() {
		r.changes--
		if op.Err != OK {
			r.failed = true // what is on the disk is not known any more
		}
	}
	switch {
	case op.Kind == OpFence:
		if op.Err == OK {
			r.durable = max(r.durable, op.Epoch)
		}
	case op.req.Epoch != r.state.Fenced && !mutation.On(mutation.SkipFence):
		r.remember(op)
		r.answer(op.from, op.req, Response{Status: OldEpoch})
	default:
		r.remember(op)
		r.answerOp(op)
	}
	r.proceedFence()
}

// remember keeps the tail: what is durable and above the watermark [I6].
func (r *Replica) remember(op *Op) {
	if op.Err != OK {
		return
	}
	switch op.Kind {
	case OpWrite:
		r.state.Last = max(r.state.Last, op.Ver.Seq)
		if !op.Copied && op.Ver.Seq > r.state.Stable {
			r.state.Tail = append(r.state.Tail, Entry{op.Ver, op.Off, op.Len})
		}
	case OpBegin:
		r.state.Tail = nil
	case OpRead, OpVersions, OpFence:
	}
}

func (r *Replica) answerOp(op *Op) {
	q, resp := op.req, Response{Status: op.Err, Vers: op.Vers}
	if op.Err != OK {
		r.answer(op.from, q, Response{Status: op.Err})
		return
	}
	current := q.Session == r.session
	switch {
	case q.Kind == Read:
		resp.Data = op.Data
	case q.Kind == Begin && current:
		r.gen, r.clean = q.Gen, map[int64]bool{}
	case q.Kind == Copy && current && q.Gen == r.gen:
		r.clean[q.Off] = true
	case q.Kind == Confirm && current && q.Gen == r.gen:
		for i, v := range op.Vers {
			off := q.Off + int64(i)*r.cfg.RegionBytes
			if v.Same(q.Vers[i]) {
				r.clean[off] = true
			} else {
				resp.Differ = append(resp.Differ, off)
			}
		}
	}
	r.answer(op.from, q, resp)
}

// advance takes over the watermark. A replica at which a rebuild is about to
// begin has missed writes that the watermark covers, so Begin has none.
func (r *Replica) advance(q Request) {
	if q.Kind == Begin && !mutation.On(mutation.BeginTakesStable) || q.Stable <= r.state.Stable {
		return
	}
	r.state.Stable = q.Stable
	r.state.Last = max(r.state.Last, q.Stable)
	r.state.Tail = slices.DeleteFunc(r.state.Tail, func(e Entry) bool { return e.Ver.Seq <= q.Stable })
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
