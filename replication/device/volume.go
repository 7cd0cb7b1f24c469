package device

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/rangelock"
	"blockd.dev/internal/clock"
)

// Volume implements blockdev.Device. All methods may be called from any
// goroutine; none waits for storage but Close, Scrub and ScrubStored.
type Volume struct {
	cfg      Config
	geometry atomic.Pointer[blockdev.Geometry]
	layout   atomic.Pointer[Layout]
	watch    blockdev.Watchers
	locks    rangelock.Table // of requests that are served by the owner here
	route    atomic.Pointer[route]
	sessions atomic.Uint64 // last one begun with an owner elsewhere
	scrubbed atomic.Int64  // bytes

	inflight atomic.Int64 // requests, plus one until Close
	drained  chan struct{}
	drain    sync.Once
	closed   atomic.Bool
	left     atomic.Int64 // when Leave was called, or 0: nothing waits any more, but for a session

	lost losses

	control  sync.Mutex // one change of owner, view or size at a time
	draining *run       // under control

	mu struct {
		sync.Mutex
		parked  []*request // wait for another route, or a session
		sweeper *time.Timer
		swept   bool // the sweeper is set
	}
}

var _ blockdev.Device = (*Volume)(nil)

// route is where requests go. It is never changed, only replaced, under
// Volume.mu; that of a forwarder's session is in the forwarder.
type route struct {
	run     *run       // the owner here
	forward *forwarder // or the way to the owner elsewhere
}

// New returns the volume, which has no owner yet.
func New(cfg Config) (*Volume, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	v := &Volume{cfg: cfg, drained: make(chan struct{})}
	v.geometry.Store(&blockdev.Geometry{
		SizeBytes: cfg.SizeBytes, BlockSize: cfg.BlockSize, PhysicalBlockSize: blockBytes,
		OptimalIOBytes: regionBytes, UnmapGranularity: blockBytes, Thin: true, ReadOnly: cfg.ReadOnly,
	})
	v.layout.Store(&cfg.Layout)
	v.route.Store(&route{})
	v.sessions.Store(cfg.Boot << 32)
	v.inflight.Store(1)
	v.mu.sweeper = time.AfterFunc(time.Hour, v.sweep)
	v.mu.sweeper.Stop()
	return v, nil
}

// ID returns the volume's identity.
func (v *Volume) ID() [16]byte { return v.cfg.ID }

// Geometry returns the current shape.
func (v *Volume) Geometry() blockdev.Geometry { return *v.geometry.Load() }

// Watch calls fn after every change of size or read-only state.
func (v *Volume) Watch(fn func(blockdev.Change)) (stop func()) { return v.watch.Add(fn) }

// Attended implements blockdev.Attendable: the disk of the owner's own copy, where this node
// owns the volume and has one.
func (v *Volume) Attended() blockdev.Attended {
	if r := v.route.Load().run; r != nil && r.local >= 0 {
		return v.cfg.Attended(r.began[r.local])
	}
	return nil
}

// SetReadOnly turns read-only on or off.
func (v *Volume) SetReadOnly(on bool) {
	v.mu.Lock()
	g := v.Geometry()
	differs := g.ReadOnly != on
	g.ReadOnly = on
	v.geometry.Store(&g)
	v.mu.Unlock()
	if differs {
		v.watch.Notify(blockdev.ChangeReadOnly)
	}
}

// swap makes requests go another way. It returns those that waited for it, to
// be given to resume once control is released, which the caller holds.
func (v *Volume) swap(to *route) (parked []*request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.route.Swap(to)
	if old.forward != nil {
		old.forward.state = sessionOver
	}
	if to.run != nil || to.forward != nil {
		parked, v.mu.parked = v.mu.parked, nil
	}
	return parked
}

func (v *Volume) resume(parked []*request) {
	for _, q := range parked {
		v.dispatch(q)
	}
}

// dispatch begins q again, wherever requests go now.
func (v *Volume) dispatch(q *request) { v.begin(q, v.now()) }

// begin begins q, wherever requests go now.
func (v *Volume) begin(q *request, now clock.Mono) {
	if why := q.stale(now); why != nil {
		q.finish(blockdev.NewError(blockdev.ErrBusy, q.r, -1, why))
		return
	}
	to := v.route.Load()
	q.route = to
	switch {
	case to.run != nil:
		q.serve()
	case to.forward != nil:
		to.forward.take(q)
	default:
		v.park(q)
	}
}

// park has q wait for another route than that which it has failed by.
func (v *Volume) park(q *request) {
	v.mu.Lock()
	if v.route.Load() != q.route && !v.closed.Load() {
		v.mu.Unlock()
		v.dispatch(q)
		return
	}
	v.parkLocked(q)
	v.mu.Unlock()
}

func (v *Volume) parkLocked(q *request) {
	if q.parked == 0 {
		q.parked = v.now()
	}
	v.mu.parked = append(v.mu.parked, q)
	if !v.mu.swept {
		v.mu.swept = true
		v.mu.sweeper.Reset(v.sweepAfter())
	}
}

// sweepAfter is how late the end of patience may be noticed.
func (v *Volume) sweepAfter() time.Duration {
	switch {
	case v.closed.Load():
		return 0
	case v.left.Load() != 0:
		return leaveGrace / 16
	}
	return max(min(v.cfg.Patience, v.cfg.Late)/16, time.Millisecond)
}

// sweep ends requests that have waited for too long, or that nobody waits for any
// more.
func (v *Volume) sweep() {
	now := v.now()
	v.mu.Lock()
	all := v.mu.parked
	v.mu.parked = nil
	over := map[*request]error{} // judged once: a route may come meanwhile, with which they would wait on
	for _, q := range all {
		if err := v.endOfWait(q, now); err != nil {
			over[q] = err
		} else {
			v.mu.parked = append(v.mu.parked, q)
		}
	}
	v.mu.swept = len(v.mu.parked) > 0
	if v.mu.swept {
		v.mu.sweeper.Reset(v.sweepAfter())
	}
	v.mu.Unlock()
	for q, err := range over {
		q.finish(err)
	}
}

// endOfWait is how a request that is parked ends now, or nil if it waits on.
func (v *Volume) endOfWait(q *request, now clock.Mono) error {
	if v.closed.Load() {
		return blockdev.NewError(blockdev.ErrGone, q.r, -1, errClosed)
	}
	why := q.stale(now)
	since, patience := q.parked, v.cfg.Patience
	if left := clock.Mono(v.left.Load()); left != 0 {
		since, patience = max(since, left), 0
		if v.route.Load().forward != nil {
			patience = leaveGrace
		}
	}
	if why == nil && now >= since.Add(patience) {
		why = errNobody
	}
	if why == nil {
		return nil
	}
	return blockdev.NewError(blockdev.ErrBusy, q.r, -1, why)
}

func (v *Volume) sweepNow() {
	v.mu.Lock()
	v.mu.swept = true
	v.mu.sweeper.Reset(0)
	v.mu.Unlock()
}

// Leave is for a node that stops, once it has given others the time to take over:
// from now on requests that wait for an owner end with ErrBusy at once, and those that
// wait for a session with one elsewhere after leaveGrace. An owner here ends as with
// Disown, so that nothing waits there for replicas, and there is none any more. What was
// forwarded goes on.
func (v *Volume) Leave() {
	v.left.CompareAndSwap(0, int64(v.now()))
	v.Disown()
	v.sweepNow()
}

// leaveGrace is many times what beginning a session takes.
const leaveGrace = 200 * time.Millisecond

// Close ends everything: requests end with ErrGone. It waits for those in
// flight; for forwarded ones that is until their owner has answered, or the
// connection to it has ended.
func (v *Volume) Close() error {
	if v.closed.Swap(true) {
		return errClosed
	}
	v.control.Lock()
	over := v.leaveRuns()
	v.swap(&route{})
	v.control.Unlock()
	stop(over)
	v.sweepNow()
	v.leave()
	<-v.drained
	v.mu.Lock()
	v.mu.sweeper.Stop()
	v.mu.Unlock()
	v.watch.Notify(blockdev.ChangeGone)
	return nil
}

// enter counts a request in; false when the volume is closed.
func (v *Volume) enter() bool {
	v.inflight.Add(1)
	if v.closed.Load() {
		v.leave()
		return false
	}
	return true
}

func (v *Volume) leave() {
	if v.inflight.Add(-1) == 0 {
		v.drain.Do(func() { close(v.drained) })
	}
}

// Grow makes the volume larger; layout covers the new size. An extent that keeps some of it is served once
// View has told of its members, if Grow comes first.
func (v *Volume) Grow(sizeBytes int64, layout Layout) error {
	if err := checkSize(sizeBytes, layout); err != nil {
		return fmt.Errorf("grow replicated volume %x: %w", v.cfg.ID, err)
	}
	v.control.Lock()
	v.layout.Store(&layout)
	r := v.route.Load().run
	v.control.Unlock()
	if r != nil {
		r.inbox.Post(event{kind: evGrow, bytes: layout.SizeBytes()})
	}
	v.mu.Lock()
	g := v.Geometry()
	differs := g.SizeBytes != sizeBytes
	g.SizeBytes = sizeBytes
	v.geometry.Store(&g)
	v.mu.Unlock()
	if differs {
		v.watch.Notify(blockdev.ChangeSize)
	}
	return nil
}

func (v *Volume) now() clock.Mono { return v.cfg.Clock.Now() }
