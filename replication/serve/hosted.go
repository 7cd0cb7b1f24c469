package serve

import (
	"errors"
	"fmt"
	"sync"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/turn"
	"blockd.dev/replication/message"
	"blockd.dev/replication/message/inbox"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
	"blockd.dev/replication/wire/endpoint"
)

// hosted is one replica with its store. Everything goes through its inbox; what
// the replica wants done is collected, and done after a batch of events.
type hosted struct {
	target message.Target
	store  *store.Store
	vol    *store.Vol
	inbox  inbox.Inbox[event]
	ending sync.Once
	broken func(*store.Op) // tells the service what has made the replica useless
	soon   turn.Soon
	share  *volume.Share

	// Of whoever works at the inbox.
	r       *replica.Replica
	asked   []*asked // by the number that the replica knows it by; nil is free
	free    []int
	current *asked // being handed over
	ops     []*store.Op
	ended   []*asked
	running int           // ops in the store
	failed  bool          // the replica takes no changes any more
	told    bool          // the service knows of versions that can't be read
	freeing *freeing      // extents that are being freed, or nil
	held    []*asked      // what waits for that
	newest  uint64        // epoch of a request that was handled
	closing chan struct{} // closed when none are left
}

// event is a request, an op that has ended, the wish to free extents or its end, or the wish
// to close.
type event struct {
	ask   *asked
	op    *storeOp
	free  *freeing
	close chan struct{}
}

// asked is one request of an owner.
type asked struct {
	service *Service // of one that a Task is
	target  message.Target
	number  int
	taken   bool // the replica will answer it
	q       replica.Request
	resp    replica.Response
	ok      bool // resp is the answer
	buf     *message.Buffer

	sent   *message.Sent     // whose it is: an owner here,
	net    *endpoint.Request // or elsewhere
	since  clock.Mono        // when it came from there
	gather [2][]byte
	meta   []byte
}

var askedPool sync.Pool

// fast tells how long requests take here: of no use to leases. owners is the clock that owners and their Share go by.
var (
	fast   clock.Fast
	owners clock.Boot
)

func (s *Service) newAsked() *asked {
	a, _ := askedPool.Get().(*asked)
	if a == nil {
		a = &asked{}
	}
	return a
}

func open(t message.Target, d *store.Store, boot uint64) (*hosted, error) {
	vol, err := d.OpenVolume(t.Volume)
	if err != nil {
		return nil, fmt.Errorf("open the replica of volume %x on disk %d: %w", t.Volume, t.Disk, err)
	}
	st, err := d.ReplicaState(vol)
	if err != nil {
		d.CloseVolume(vol)
		return nil, fmt.Errorf("read the state of the replica of volume %x on disk %d: %w", t.Volume, t.Disk, err)
	}
	h := &hosted{target: t, store: d, vol: vol}
	h.inbox.Run = h.take
	h.r = replica.New(replica.Config{Boot: boot, RegionBytes: store.ChunkBytes, CopyMax: message.DataMax, Buffer: h.buffer}, h, stateOf(st))
	return h, nil
}

// close waits until the store has ended what is under way. Requests that come
// later are refused.
func (h *hosted) close() {
	h.ending.Do(func() {
		done := make(chan struct{})
		h.inbox.Post(event{close: done})
		<-done
		h.store.CloseVolume(h.vol)
	})
}

// take is the work of one batch.
func (h *hosted) take(batch []event) {
	for i := range batch {
		switch e := &batch[i]; {
		case e.ask != nil && h.waits(e.ask):
			h.held = append(h.held, e.ask)
		case e.ask != nil:
			h.handle(e.ask)
		case e.free != nil:
			h.release(e.free)
		case e.op != nil && e.op.again():
			h.ops = append(h.ops, &e.op.Op)
		case e.op != nil:
			h.running--
			h.look(&e.op.Op)
			h.r.Done(e.op.done())
			e.op.free()
		case e.close != nil:
			h.closing = e.close
		}
	}
	if len(h.ops) > 0 {
		h.store.Submit(h.ops)
		clear(h.ops)
		h.ops = h.ops[:0]
	}
	h.tell()
	for i, a := range h.ended {
		h.ended[i] = nil
		a.finish()
	}
	h.ended = h.ended[:0]
	if h.closing != nil && h.running == 0 {
		select {
		case <-h.closing:
		default:
			close(h.closing)
		}
	}
}

// look tells of the first change by which the replica has failed, and of the first versions that can't be read.
func (h *hosted) look(op *store.Op) {
	switch {
	case op.Note != nil && statusOf(op) == replica.Failed && !h.failed:
		h.failed = true
		h.broken(op)
	case op.Kind == store.OpVersions && errors.Is(op.Err, blockdev.ErrMedium) && !h.told:
		h.told = true
		h.broken(op)
	}
}

// handle gives the replica a request. One that it neither answers nor starts
// is a copy of an older one, but for a Fence, which is answered later.
func (h *hosted) handle(a *asked) {
	if h.closing != nil {
		a.answer(replica.Response{ID: a.q.ID, Status: replica.Failed})
		h.ended = append(h.ended, a)
		return
	}
	if n := len(h.free); n > 0 {
		a.number, h.free = h.free[n-1], h.free[:n-1]
	} else {
		a.number, h.asked = len(h.asked), append(h.asked, nil)
	}
	h.asked[a.number] = a
	h.newest = max(h.newest, a.q.Epoch)
	a.taken = a.q.Kind == replica.Fence
	h.current = a
	h.r.Handle(a.number, a.q)
	h.current = nil
	if !a.taken {
		h.end(a)
	}
}

// tell has the node's owners know of hosts whose owners are elsewhere and have ended a change here, and owners elsewhere
// that copy to here of all hosts of this node. Owners here hear their own hosts by themselves; reads are nearly always done on the owner's node.
func (h *hosted) tell() {
	var now clock.Mono
	for _, a := range h.ended {
		changes, copies := a.q.Kind.Changes(), a.q.Kind == replica.Copy || a.q.Kind == replica.Confirm
		if a.net == nil || !a.ok || a.resp.Status != replica.OK || !changes && !copies {
			continue
		}
		if now == 0 {
			now = owners.Now()
		}
		if changes {
			h.share.Saw(now)
		} else {
			a.resp.Hosts = h.share.Hosts(now)
		}
	}
}

// end is the end of a request, with an answer or without.
func (h *hosted) end(a *asked) {
	h.asked[a.number] = nil
	h.free = append(h.free, a.number)
	h.ended = append(h.ended, a)
}

// Answer is replica.Env.
func (h *hosted) Answer(number int, resp replica.Response) {
	a := h.asked[number]
	a.taken = true
	a.answer(resp)
	h.end(a)
}

// Submit is replica.Env.
func (h *hosted) Submit(op *replica.Op) {
	if h.current != nil {
		h.current.taken = true
	}
	h.running++
	h.ops = append(h.ops, &newStoreOp(h, op).Op)
}

// buffer is for what the present request reads; it goes with its answer.
func (h *hosted) buffer(n int64) []byte {
	h.current.buf = message.GetBuffer(int(n))
	return h.current.buf.Bytes()
}

func (a *asked) answer(resp replica.Response) { a.resp, a.ok = resp, true }

// finish sends the answer, if there is one.
func (a *asked) finish() {
	if s := a.sent; s != nil {
		s.Lost = !a.ok
		s.Response, s.Free, s.Internal = a.resp, freeLocal, a
		s.Done(s)
		return
	}
	if !a.ok {
		_ = a.net.Reply(nil) // it fails when the connection is gone, and then nobody waits
		a.release()
		return
	}
	if a.q.Kind != replica.Fence {
		a.resp.Last = uint64(fast.Now().Sub(a.since))
	}
	a.meta = message.AppendResponse(a.meta[:0], a.q.Kind, &a.resp)
	a.gather = [2][]byte{a.resp.Data, a.meta}
	a.net.Context, a.net.Done = a, replied
	if a.net.Reply(a.gather[:]) != nil {
		a.release()
	}
}

func freeLocal(s *message.Sent)            { s.Internal.(*asked).release() }
func replied(r *endpoint.Request, _ error) { r.Context.(*asked).release() }

func (a *asked) release() {
	if a.buf != nil {
		a.buf.Release()
	}
	*a = asked{meta: a.meta[:0]}
	askedPool.Put(a)
}

// statusOf is what a store's error means to an owner.
func statusOf(op *store.Op) replica.Status {
	switch {
	case op.Err == nil:
		return replica.OK
	case op.Note == nil && errors.Is(op.Err, blockdev.ErrMedium):
		return replica.Medium
	case errors.Is(op.Err, blockdev.ErrNoSpace):
		return replica.NoSpace
	}
	return replica.Failed
}
