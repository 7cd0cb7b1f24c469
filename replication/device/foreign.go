package device

import (
	"errors"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/replication/message"
)

// source is another node that sends its hosts' requests to the owner here, and
// the session that it does so in; see forwarder. It lives as long as the run.
type source struct {
	run *run

	// Under run.foreign.
	session uint64
	open    bool
	active  int               // requests of any session that have not ended
	opening *message.Incoming // begins the session when active is 0
}

// Serve does a request of another node's host, or refuses it: when this node
// does not own the volume, when the request's session is not the newest of that
// node or is of another lease, and when its guard is lower than Config.Guard
// says here. It is never sent on to a third node. in.Done is called once.
func (v *Volume) Serve(in *message.Incoming) {
	r := v.route.Load().run
	switch {
	case r == nil:
		refuse(in, message.NotOwner)
	case in.Request.Op == 0:
		r.beginSession(in)
	case in.Request.Guard < v.cfg.Guard():
		refuse(in, message.Behind)
	default:
		r.serve(in)
	}
}

func refuse(in *message.Incoming, status message.HostStatus) {
	in.Answer = message.HostAnswer{Status: status}
	in.Done(in)
}

// beginSession ends the older sessions of a node. It is answered when nothing
// of them is under way.
func (r *run) beginSession(in *message.Incoming) {
	r.foreign.Lock()
	s := r.foreign.sources[in.From]
	if s == nil {
		s = &source{run: r}
		r.foreign.sources[in.From] = s
	}
	if in.Request.Session <= s.session {
		r.foreign.Unlock()
		refuse(in, message.NoSession)
		return
	}
	before := s.opening
	s.session, s.open, s.opening = in.Request.Session, false, in
	ready := s.ready()
	r.foreign.Unlock()
	if before != nil {
		refuse(before, message.NoSession)
	}
	if ready != nil {
		refuse(ready, message.Done)
	}
}

// ready takes the attempt to begin a session that can be answered now. The
// caller has the lock.
func (s *source) ready() *message.Incoming {
	if s.active > 0 || s.opening == nil {
		return nil
	}
	in := s.opening
	s.opening, s.open = nil, true
	return in
}

// leave counts a request off.
func (s *source) leave() {
	s.run.foreign.Lock()
	s.active--
	ready := s.ready()
	s.run.foreign.Unlock()
	if ready != nil {
		refuse(ready, message.Done)
	}
}

// foreign is a request of another node's host being done.
type foreign struct {
	blockdev.Request
	in   *message.Incoming
	buf  *message.Buffer
	segs [1][]byte
}

var foreigns sync.Pool

func newForeign(in *message.Incoming) *foreign {
	f, _ := foreigns.Get().(*foreign)
	if f == nil {
		f = &foreign{}
		f.Tag, f.Done = f, answerForeign
	}
	f.in, f.Data = in, nil
	return f
}

// serve does a request of the current session.
func (r *run) serve(in *message.Incoming) {
	r.foreign.Lock()
	s := r.foreign.sources[in.From]
	if s == nil || !s.open || s.session != in.Request.Session {
		r.foreign.Unlock()
		refuse(in, message.NoSession)
		return
	}
	s.active++
	r.foreign.Unlock()

	h := &in.Request
	f := newForeign(in)
	f.Op, f.FUA, f.NoUnmap, f.Offset, f.Length = h.Op, h.FUA, h.NoUnmap, h.Off, h.Len
	switch h.Op {
	case blockdev.OpRead:
		f.buf = message.GetBuffer(int(h.Len))
		f.segs[0], f.Data = f.buf.Bytes(), f.segs[:]
	case blockdev.OpWrite, blockdev.OpCompareAndWrite:
		f.segs[0], f.Data = h.Data, f.segs[:]
	default:
	}
	r.v.submit(&f.Request, s)
}

// answerForeign ends it.
func answerForeign(r *blockdev.Request) {
	f := r.Tag.(*foreign)
	in := f.in
	switch {
	case errors.Is(r.Err, errNotOwner):
		in.Answer = message.HostAnswer{Status: message.NotOwner}
	case errors.Is(r.Err, errUnresolved):
		in.Answer = message.HostAnswer{Status: message.Unresolved}
	default:
		in.Answer = message.AnswerOf(r)
	}
	if r.Err == nil && f.buf != nil {
		in.Answer.Data, in.Buf = f.buf.Bytes(), f.buf
	} else if f.buf != nil {
		f.buf.Release()
	}
	f.in, f.buf, f.segs[0] = nil, nil, nil
	foreigns.Put(f)
	in.Done(in)
}
