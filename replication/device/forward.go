package device

import (
	"errors"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
)

// forwarder is the way to the volume's owner on another node. Requests go
// there within a session, which the owner knows as long as it is the same owner
// in the same lease. When one comes back without an answer, the next ones wait
// for a new session, and that is begun by the owner only when nothing of the
// older ones is under way there and nothing of them will be taken any more. So
// a request that is sent again can't be followed by its first copy.
type forwarder struct {
	v    *Volume
	node string
	took timing // from a request's arrival on this node until the owner's answer

	// Under Volume.mu.
	state   sessionState
	session uint64
}

type sessionState uint8

const (
	sessionNone sessionState = iota
	sessionOpening
	sessionPause // an attempt has failed; another follows
	sessionOpen
	sessionOver // requests go elsewhere now
)

// sessionRetry is the pause between attempts to begin a session.
const sessionRetry = 20 * time.Millisecond

// take sends q to the owner, or has it wait for a session.
func (f *forwarder) take(q *request) {
	v := f.v
	v.mu.Lock()
	if v.route.Load() != q.route {
		v.mu.Unlock()
		v.dispatch(q)
		return
	}
	if f.state == sessionOpen {
		session := f.session
		v.mu.Unlock()
		q.send(session)
		return
	}
	v.parkLocked(q)
	begin := f.state == sessionNone
	if begin {
		f.state = sessionOpening
	}
	v.mu.Unlock()
	if begin {
		f.begin()
	}
}

// begin asks the owner for a session. The state is opening.
func (f *forwarder) begin() {
	v := f.v
	p := newPiece()
	p.session = f
	p.forward.Node = f.node
	p.forward.Request = message.Host{Volume: v.cfg.ID, Session: v.sessions.Add(1)}
	v.cfg.Transport.Forward(&p.forward)
}

// began takes the answer.
func (f *forwarder) began(p *piece) {
	v := f.v
	ok := !p.forward.Lost && p.forward.Answer.Status == message.Done
	session := p.forward.Request.Session
	p.free()
	v.mu.Lock()
	if f.state != sessionOpening {
		v.mu.Unlock()
		return // it is over
	}
	if !ok {
		f.state = sessionPause
		v.mu.Unlock()
		time.AfterFunc(sessionRetry, f.retry)
		return
	}
	f.state, f.session = sessionOpen, session
	parked := v.mu.parked
	v.mu.parked = nil
	v.mu.Unlock()
	v.resume(parked)
}

// retry begins a session if requests wait for one.
func (f *forwarder) retry() {
	v := f.v
	v.mu.Lock()
	if f.state != sessionPause {
		v.mu.Unlock()
		return
	}
	f.state = sessionNone
	begin := len(v.mu.parked) > 0
	if begin {
		f.state = sessionOpening
	}
	v.mu.Unlock()
	if begin {
		f.begin()
	}
}

// lost ends a session of which a request had no answer, or a refusal.
func (f *forwarder) lost(session uint64, pause bool) {
	v := f.v
	v.mu.Lock()
	hit := f.state == sessionOpen && f.session == session
	if hit {
		f.state = sessionNone
		if pause {
			f.state = sessionPause
		}
	}
	v.mu.Unlock()
	if hit && pause {
		time.AfterFunc(sessionRetry, f.retry)
	}
}

// send begins q with the owner elsewhere: in pieces that fit into messages.
// Compare-and-write goes as one, and so does what has no data.
func (q *request) send(session uint64) {
	q.step, q.held, q.again, q.inDoubt, q.err = stepSend, false, false, false, nil
	q.session = session
	q.mu.Lock()
	q.at, q.pending, q.begun = q.r.Offset, 1, 0
	q.mu.Unlock()
	q.sendMore(1)
}

// sendMore is as feed is for the owner here.
func (q *request) sendMore(done int) {
	end := q.r.Offset + q.r.Length
	for {
		q.mu.Lock()
		if q.pending-done >= piecesMax || !q.moreLocked(end) {
			q.pending -= done
			over := q.pending == 0
			q.mu.Unlock()
			if over {
				q.sent()
			}
			return
		}
		q.pending++
		at, n := q.at, end-q.at
		if q.r.Op == blockdev.OpRead || q.r.Op == blockdev.OpWrite {
			n = min(n, pieceMax-at%pieceMax)
		}
		q.at = at + n
		q.mu.Unlock()
		q.sendPiece(at, n)
	}
}

func (q *request) sendPiece(at, n int64) {
	v, r := q.v, q.r
	p := newPiece()
	p.q, p.off, p.len = q, at, n
	f := &p.forward
	f.Node, f.Stale = q.route.forward.node, staleForward
	f.Request = message.Host{
		Volume: v.cfg.ID, Session: q.session, Guard: q.guard, Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap, Off: at, Len: n,
	}
	if r.Op == blockdev.OpWrite || r.Op == blockdev.OpCompareAndWrite {
		if r.Op == blockdev.OpCompareAndWrite {
			n *= 2
		}
		// The host's own memory will do: it waits until the message has ended.
		if f.Request.Data = contiguous(r.Data, at-r.Offset, n); f.Request.Data == nil {
			p.buf = message.GetBuffer(int(n))
			f.Request.Data = p.buf.Bytes()
			copyOut(f.Request.Data, r.Data, at-r.Offset)
		}
	}
	v.cfg.Transport.Forward(f)
}

// staleForward tells whether a piece that was to wait for others is not to be sent any more. A request of which a piece was sent has begun:
// the rest follows as long as the host is there.
func staleForward(m *message.Forwarded) bool {
	p := m.Tag.(*piece)
	q := p.q
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.begun { // and there was no room for it
		p.begun = false
		q.begun--
	}
	switch {
	case q.gone():
		p.stale = errGone
	case q.begun == 0:
		p.stale = q.stale(q.v.now())
	}
	if p.begun = p.stale == nil; p.begun {
		q.begun++
	}
	return !p.begun
}

// forwarded is Done of a piece that was sent, or of an attempt to begin a
// session.
func forwarded(m *message.Forwarded) {
	p := m.Tag.(*piece)
	if f := p.session; f != nil {
		f.began(p)
		return
	}
	q, a := p.q, &m.Answer
	f := q.route.forward
	changes := q.r.Op != blockdev.OpRead
	var err error
	again, inDoubt := false, false
	switch {
	case p.stale != nil:
		err = blockdev.NewError(blockdev.ErrBusy, q.r, -1, p.stale)
	case m.Lost:
		again, inDoubt = true, changes && !m.NotSent
		f.lost(q.session, m.NotSent)
	case a.Status == message.Done && q.r.Op == blockdev.OpRead && int64(len(a.Data)) == p.len:
		copyIn(q.r.Data, p.off-q.r.Offset, a.Data)
	case a.Status == message.Done && changes:
	case a.Status == message.Failed:
		var cause error
		if a.Cause != "" {
			cause = errors.New(a.Cause)
		}
		err = blockdev.NewError(a.Kind, q.r, a.Off, cause)
	case a.Status == message.Behind:
		err = blockdev.NewError(blockdev.ErrBusy, q.r, -1, errBehind)
	case a.Status == message.NotOwner, a.Status == message.NoSession:
		again = true
		f.lost(q.session, a.Status == message.NotOwner)
	default:
		again, inDoubt = true, changes
		f.lost(q.session, true)
	}
	p.free()
	q.note(err, again, inDoubt)
	q.sendMore(1)
}

// sent is the end of an attempt with the owner elsewhere.
func (q *request) sent() {
	switch {
	case q.again && q.inDoubt && q.r.Op == blockdev.OpCompareAndWrite:
		q.finish(blockdev.NewError(blockdev.ErrIO, q.r, -1, errUnresolved))
	case q.again:
		q.v.dispatch(q)
	default:
		if q.err == nil {
			q.route.forward.took.of(q.r.Op).Add(q.v.now().Sub(q.born))
		}
		q.finish(q.err)
	}
}
