package device

import (
	"fmt"
	"slices"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/internal/clock"
	"blockd.dev/replication/volume"
)

// Own makes this node serve the volume under l, whose epoch is that of the
// view, from now on. waits is by when every earlier lease has surely ended, by
// Config.Clock. local is the member on a disk of this node, or -1. Requests are
// taken at once; they wait until the takeover is done.
func (v *Volume) Own(l Lease, waits clock.Mono, m Members, local int) error {
	if len(m.Disks) != len(m.View.Members) {
		return fmt.Errorf("own volume %x: %d disks for %d members of its view", v.cfg.ID, len(m.Disks), len(m.View.Members))
	}
	v.control.Lock()
	if v.closed.Load() || v.left.Load() != 0 {
		v.control.Unlock()
		return errClosed
	}
	over := v.leaveRuns()
	r := newRun(v, l, waits, m, local)
	parked := v.swap(r.route)
	v.control.Unlock()
	r.inbox.Post(event{kind: evTick}) // what New wants done
	v.resume(parked)
	stop(over)
	return nil
}

// Disown ends serving at once: the lease is over. Requests wait for the next
// owner.
func (v *Volume) Disown() {
	v.control.Lock()
	over := v.leaveRuns()
	if v.route.Load().run != nil {
		v.swap(&route{})
	}
	v.control.Unlock()
	stop(over)
}

// leaveRuns returns the owners here that are to be stopped once control is
// released, also one that drains.
func (v *Volume) leaveRuns() []*run {
	over := []*run{v.draining, v.route.Load().run}
	v.draining = nil
	return over
}

// stop ends owners. Their requests go where the route says by now.
func stop(runs []*run) {
	for _, r := range runs {
		if r != nil {
			r.inbox.Post(event{kind: evStop})
		}
	}
}

// Drain ends serving in good order, so that the next owner has nothing to
// repair: new requests wait for it, those in flight are finished. Where that takes
// longer than drainPatience the owner just ends, and the next one takes over as from one that died.
// done is called once, perhaps before Drain returns, when the owner has ended, in one of these ways or
// because its lease was over. Only then may the lease be given back.
func (v *Volume) Drain(done func()) {
	v.control.Lock()
	r := v.route.Load().run
	if r != nil {
		v.draining = r
		v.swap(&route{})
	}
	v.control.Unlock()
	if r == nil {
		done()
		return
	}
	late := time.AfterFunc(drainPatience, func() { r.inbox.Post(event{kind: evStop}) })
	r.drainWhenIdle(func() {
		late.Stop()
		done()
	})
}

// drainPatience is how long a drain waits for what is in flight. A replica that dies in it can't be
// marked out any more, since the catalog may have moved on and the owner gets no views: without
// a bound its writes would wait until they time out, and the volume with them.
const drainPatience = time.Second

// View takes the newest members. Disks may be added at the end, for a volume that
// grows. If those that the owner began with have other places, it drains and
// calls Config.GiveUp: its successor can begin with the new ones.
func (v *Volume) View(m Members) {
	switch r := v.route.Load().run; {
	case r == nil:
	case slices.Equal(r.began, m.Disks[:min(len(r.began), len(m.Disks))]):
		r.inbox.Post(event{kind: evView, members: &m})
	default:
		v.Drain(func() { v.cfg.GiveUp(r.epoch) })
	}
}

// Forward sends requests to another node, which owns the volume; "" is for
// nobody. It does nothing where requests go there already, or where this node
// owns the volume: Disown ends that.
func (v *Volume) Forward(node string) {
	v.control.Lock()
	now := v.route.Load()
	var parked []*request
	switch {
	case now.run != nil, now.forward != nil && now.forward.node == node, v.closed.Load():
	case node == "" && now.forward == nil:
	case node == "":
		v.swap(&route{})
	default:
		parked = v.swap(&route{forward: &forwarder{v: v, node: node}})
	}
	v.control.Unlock()
	v.resume(parked)
}

// Status is how a volume stands on this node.
type Status struct {
	Owner   bool          // this node has an owner
	Epoch   uint64        // of it
	Volume  volume.Status // of it
	Forward string        // the node that requests go to instead, or ""
	Lost    Losses        // that owners on this node have found
	Waiting int           // requests that wait for an owner, or for the way to it
	Queued  Times         // until the owner here looks at a request, from its arrival on this node
	Sent    Times         // until the answer of the owner there, from the arrival on this node
}

// Times are how long requests of hosts took, since this node has had the owner, or has sent them to
// the same node.
type Times struct{ Reads, Writes volume.Latency }

// timing counts Times. All that changes data is a write.
type timing struct{ reads, writes volume.Meter }

func (t *timing) of(op blockdev.Op) *volume.Meter {
	if op == blockdev.OpRead {
		return &t.reads
	}
	return &t.writes
}

func (t *timing) times() Times { return Times{t.reads.Latency(), t.writes.Latency()} }

// Status waits for no I/O. It must not be called from Done of a request, nor from
// a callback of Config.
func (v *Volume) Status() Status {
	v.mu.Lock()
	s := Status{Waiting: len(v.mu.parked)}
	to := v.route.Load()
	v.mu.Unlock()
	var now standing
	switch {
	case to.run != nil:
		s.Owner, s.Epoch = true, to.run.epoch
		answer := make(chan standing, 1)
		to.run.inbox.Post(event{kind: evStatus, status: answer})
		now = <-answer
		s.Volume = now.Status
		s.Queued = to.run.queued.times()
	case to.forward != nil:
		s.Forward = to.forward.node
		s.Sent = to.forward.took.times()
	}
	s.Lost = v.lost.with(now)
	return s
}

// Trust has the owner here take the replicas that are there at their word, see volume.Owner.Trust. It
// returns false when there is no owner of that epoch.
func (v *Volume) Trust(epoch uint64) bool {
	r := v.route.Load().run
	if r == nil || r.epoch != epoch {
		return false
	}
	r.inbox.Post(event{kind: evTrust})
	return true
}

// Unreachable tells the owner that nothing can be sent to these disks now, since
// the connection to their node has ended.
func (v *Volume) Unreachable(disks ...uint16) {
	if r := v.route.Load().run; r != nil {
		r.inbox.Post(event{kind: evUnreachable, disks: disks})
	}
}
