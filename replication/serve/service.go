package serve

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/store"
	"blockd.dev/internal/turn"
	"blockd.dev/replication/message"
	"blockd.dev/replication/replica"
	"blockd.dev/replication/volume"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
)

// Config says what a Service is made of.
type Config struct {
	// Boot grows with each start of this node's process. Below 2^32.
	Boot uint64
	// Disks are the stores of this node's disks; nil for others.
	Disks func(disk uint16) *store.Store
	// Known tells whether the cluster has a volume, and part of it on a disk.
	// Others are refused. It is asked once for each use of a new replica.
	Known func(volume [16]byte, disk uint16) bool
	// Volume is the volume on this node that requests of other nodes' hosts go
	// to, a device.Volume; nil for those that this node does not know.
	Volume func(volume [16]byte) Volume
	// Soon is the endpoint's: what a turn of a pump brings for a replica goes to the store
	// at once. nil has each request go by itself.
	Soon turn.Soon
	// Anew is after what time a replica begins anew that has failed though its disk is well. It should be
	// several times what an owner waits before it goes on without a replica. Default 5 s.
	Anew time.Duration
	// Share is that of the node's owners: it is told of hosts of volumes whose owners are elsewhere. It may be nil.
	Share *volume.Share
	// Log is told what went wrong in a replica, in words. It may be nil.
	Log func(t message.Target, err error)
}

// Volume does what hosts of other nodes ask of this one.
type Volume interface {
	// Serve does a request, or refuses it, and calls its Done once.
	Serve(in *message.Incoming)
}

// Service keeps the replicas on this node.
type Service struct {
	cfg Config

	mu       sync.RWMutex
	replicas map[message.Target]*hosted
	starts   uint64
	closed   bool
}

// New returns a Service. It opens replicas as they are asked for.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Disks == nil || cfg.Known == nil || cfg.Volume == nil:
		return nil, errors.New("replica service: Disks, Known and Volume are required")
	case cfg.Boot >= 1<<32:
		return nil, fmt.Errorf("replica service: Boot is %d: give a number below 2^32", cfg.Boot)
	}
	if cfg.Log == nil {
		cfg.Log = func(message.Target, error) {}
	}
	if cfg.Anew == 0 {
		cfg.Anew = 5 * time.Second
	}
	return &Service{cfg: cfg, replicas: map[message.Target]*hosted{}}, nil
}

// Handle is an endpoint's Config.Handler.
func (s *Service) Handle(r *endpoint.Request) {
	if r.Message.Kind != wire.Request {
		r.Release()
		return
	}
	switch message.TypeOf(r.Message.Data) {
	case message.ReplicaRequest:
		a := s.newAsked()
		a.net, a.since = r, fast.Now()
		var err error
		if a.target, err = message.DecodeRequest(r.Message.Data, &a.q); err != nil {
			a.finish()
			return
		}
		s.ask(a, s.cfg.Soon)
	case message.HostRequest:
		s.serveHost(r)
	default: // of another version, perhaps
		_ = r.Reply(nil) // it fails when the connection is gone, and then nobody waits
	}
}

// Local is for owners on this node.
func (s *Service) Local(m *message.Sent) { s.ask(s.asked(m), m.Soon) }

// asked is an owner's request, to be done by Do.
func (s *Service) asked(m *message.Sent) *asked {
	a := s.newAsked()
	a.service, a.sent, a.target, a.q = s, m, m.Target, m.Request
	return a
}

// Do is turn.Task's.
func (a *asked) Do() { a.service.ask(a, a.service.cfg.Soon) }

// ask gives a request to its replica, at the end of a turn if one is under way.
func (s *Service) ask(a *asked, soon turn.Soon) {
	h, err := s.replica(a.target)
	if err != nil {
		s.cfg.Log(a.target, err)
		// The owner will ask again: perhaps this node has yet to hear of the volume.
		a.answer(replica.Response{ID: a.q.ID, Status: replica.OldSession})
		a.finish()
		return
	}
	h.inbox.PostSoon(event{ask: a}, soon)
}

// replica returns the replica of a target, which it opens if need be.
func (s *Service) replica(t message.Target) (*hosted, error) {
	s.mu.RLock()
	h := s.replicas[t]
	s.mu.RUnlock()
	if h != nil {
		return h, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.replicas[t]; h != nil {
		return h, nil
	}
	switch {
	case s.closed:
		return nil, errClosed
	case !s.cfg.Known(t.Volume, t.Disk):
		return nil, fmt.Errorf("the cluster knows no part of volume %x on disk %d", t.Volume, t.Disk)
	}
	d := s.cfg.Disks(t.Disk)
	if d == nil {
		return nil, fmt.Errorf("disk %d is not open on this node", t.Disk)
	}
	s.starts++
	h, err := open(t, d, s.cfg.Boot<<32|s.starts)
	if err != nil {
		return nil, err
	}
	h.soon, h.share = s.cfg.Soon, s.cfg.Share
	h.broken = func(op *store.Op) { s.broken(h, op) }
	s.replicas[t] = h
	return h, nil
}

// broken is what follows when a store has refused a change for another reason than want of space, or can't tell versions. After a
// change the replica counts as failed, for an owner to go on without it; it can't tell a watermark in a takeover, and is rebuilt when it is back. That is
// after cfg.Anew, from what its store remembers, where the store is well, and what it refused was not done:
//   - its tail was as long as it may be, which the rebuild empties. Owners keep far below that while they
//     serve; takeovers that end early, one after the other, may not.
//   - the disk could not write data to new chunks, which the store does not use any more.
//
// Else what the store knows of the volume can't be read.
func (s *Service) broken(h *hosted, op *store.Op) {
	why := op.Err
	if op.Cause != nil {
		why = fmt.Errorf("%w: %w", op.Err, op.Cause)
	}
	if state, _ := h.store.State(); state != store.StateOnline {
		return // of all its volumes, and told of by itself
	}
	if !errors.Is(op.Err, blockdev.ErrBusy) && !errors.Is(op.Err, blockdev.ErrIO) {
		s.cfg.Log(h.target, fmt.Errorf("the copy of the volume on disk %d can't be kept in sync, nor be brought back: have other disks get what is on it (blockctl disk drain): %w", h.target.Disk, why))
		return
	}
	s.cfg.Log(h.target, fmt.Errorf("the replica refuses changes, and begins anew in %v: %w", s.cfg.Anew, why))
	s.anew(h)
}

// anew begins a replica anew after cfg.Anew.
func (s *Service) anew(h *hosted) {
	time.AfterFunc(s.cfg.Anew, func() {
		h.close() // before another has its place
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.replicas[h.target] == h {
			delete(s.replicas, h.target)
		}
	})
}

var errClosed = errors.New("the service has ended")

// Drop ends the replicas of a volume that the cluster has no more, and frees
// their data. It waits for the stores. It may be called again, also for a volume
// that was not open; the caller makes sure that Known says no by now.
func (s *Service) Drop(volume [16]byte) error {
	return s.drop(func(t message.Target) bool { return t.Volume == volume })
}

// DropFrom is Drop for one disk, which another has taken the place of.
func (s *Service) DropFrom(volume [16]byte, disk uint16) error {
	return s.drop(func(t message.Target) bool { return t.Volume == volume && t.Disk == disk })
}

func (s *Service) drop(which func(message.Target) bool) error {
	var list []*hosted
	s.mu.Lock()
	for t, h := range s.replicas {
		if which(t) {
			list = append(list, h)
			delete(s.replicas, t)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, h := range list {
		h.close()
		if err := h.store.DeleteVolume(h.target.Volume); err != nil {
			errs = append(errs, fmt.Errorf("free volume %x on disk %d: %w", h.target.Volume, h.target.Disk, err))
		}
	}
	return errors.Join(errs...)
}

// Close ends all replicas, when their stores have done what they were asked.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	list := s.replicas
	s.replicas = map[message.Target]*hosted{}
	s.mu.Unlock()
	for _, h := range list {
		h.close()
	}
}

// serveHost passes a host's request of another node to the volume.
func (s *Service) serveHost(r *endpoint.Request) {
	in := newIncoming(r)
	var err error
	if in.Request, err = message.DecodeHost(r.Message.Data); err != nil {
		in.end()
		_ = r.Reply(nil) // it fails when the connection is gone, and then nobody waits
		return
	}
	in.From = r.Peer.Node()
	v := s.cfg.Volume(in.Request.Volume)
	if v == nil {
		in.Answer.Status = message.NotOwner
		answerHost(&in.Incoming)
		return
	}
	v.Serve(&in.Incoming)
}

// incoming is a host's request of another node.
type incoming struct {
	message.Incoming
	net    *endpoint.Request
	gather [2][]byte
	meta   []byte
}

var incomings sync.Pool

func newIncoming(r *endpoint.Request) *incoming {
	in, _ := incomings.Get().(*incoming)
	if in == nil {
		in = &incoming{}
		in.Tag, in.Done = in, answerHost
	}
	in.net = r
	return in
}

func answerHost(m *message.Incoming) {
	in := m.Tag.(*incoming)
	in.meta = message.AppendAnswer(in.meta[:0], &in.Answer)
	in.gather = [2][]byte{in.Answer.Data, in.meta}
	in.net.Context, in.net.Done = in, answered
	if in.net.Reply(in.gather[:]) != nil {
		in.end()
	}
}

func answered(r *endpoint.Request, _ error) { r.Context.(*incoming).end() }

func (in *incoming) end() {
	in.Release()
	in.net, in.gather = nil, [2][]byte{}
	incomings.Put(in)
}
