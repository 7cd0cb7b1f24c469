package multipath

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/tools/blockbench/iscsihost"
)

// ErrUnknown is what a request ends with that may or may not have been done, or
// may yet be.
var ErrUnknown = errors.New("whether the request was done is not known")

// Session is a connection to the volume by one path. What it was asked ends
// with blockdev.ErrGone when it is lost.
type Session interface {
	blockdev.Device
	// Optimized reports whether the target prefers this path, as far as it has told.
	Optimized() bool
	// Gone is closed when the session is lost.
	Gone() <-chan struct{}
	// Close ends the session and returns when its goroutines have ended.
	Close() error
}

// Config says which paths there are and how long to try.
type Config struct {
	// Paths dial one session each. At least one is required.
	Paths []func(context.Context) (Session, error)
	// Patience bounds how long a request is sent again. Default 60 s.
	Patience time.Duration
	// Pause lies between two attempts, of a path to dial and of a request that was
	// refused. Default 20 ms.
	Pause time.Duration
	// Again is told of each request that is sent again since a path failed or
	// refused it. It must not block; nil drops it.
	Again func(r *blockdev.Request, why error)
}

// Device is the volume by all its paths. Its methods may be called from any
// goroutine.
type Device struct {
	cfg      Config
	geometry blockdev.Geometry
	watchers blockdev.Watchers
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
	wake     chan struct{} // the resender has something to look at

	mu       sync.Mutex
	sessions []Session // by path; nil while there is none
	current  int       // the path that requests take
	waiting  []*op
	closed   bool
}

// op is a request on its way.
type op struct {
	dev    *Device
	caller *blockdev.Request
	sub    blockdev.Request
	path   int
	via    Session
	sent   bool // at least once, with an outcome that is not known
	until  time.Time
	why    error // it has to be sent again
}

var errNoPath = errors.New("no path to the volume works")

// New dials all paths and returns as soon as one of them works. ctx bounds that.
func New(ctx context.Context, cfg Config) (*Device, error) {
	if cfg.Patience == 0 {
		cfg.Patience = time.Minute
	}
	if cfg.Pause == 0 {
		cfg.Pause = 20 * time.Millisecond
	}
	d := &Device{cfg: cfg, wake: make(chan struct{}, 1), sessions: make([]Session, len(cfg.Paths))}
	run, cancel := context.WithCancel(context.Background())
	d.cancel = cancel
	found := make(chan struct{}, len(cfg.Paths))
	for i := range cfg.Paths {
		d.tasks.Go(func() { d.keep(run, i, found) })
	}
	d.tasks.Go(func() { d.resend(run) })
	select {
	case <-found:
		return d, nil
	case <-ctx.Done():
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoPath, context.Cause(ctx)), d.Close())
	}
}

// keep has a session on a path as long as ctx lives.
func (d *Device) keep(ctx context.Context, path int, found chan<- struct{}) {
	for ctx.Err() == nil {
		s, err := d.cfg.Paths[path](ctx)
		if err != nil {
			sleep(ctx, d.cfg.Pause)
			continue
		}
		d.mu.Lock()
		d.sessions[path], d.geometry = s, s.Geometry()
		d.mu.Unlock()
		select {
		case found <- struct{}{}:
		default: // nobody waits for it any more
		}
		d.look()
		select {
		case <-s.Gone():
		case <-ctx.Done():
		}
		d.drop(path, s)
		_ = s.Close() // it is lost, or nobody wants it any more
	}
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, pause time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

func (d *Device) look() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// resend sends what waits, and gives up what has waited for too long, until ctx ends.
func (d *Device) resend(ctx context.Context) {
	tick := time.NewTicker(d.cfg.Pause)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-d.wake:
		case <-tick.C:
		}
		d.mu.Lock()
		waiting := d.waiting
		d.waiting = nil
		d.mu.Unlock()
		for _, o := range waiting {
			if time.Now().After(o.until) {
				o.giveUp()
				continue
			}
			o.send()
		}
	}
}

// Geometry is that of the newest session.
func (d *Device) Geometry() blockdev.Geometry {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.geometry
}

// Watch reports nothing: the volume's shape is read when a path is dialled.
func (d *Device) Watch(fn func(blockdev.Change)) (stop func()) { return d.watchers.Add(fn) }

// Submit sends the requests.
func (d *Device) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		o := &op{dev: d, caller: r, path: -1, until: time.Now().Add(d.cfg.Patience)}
		o.send()
	}
}

// pick is the path to take: the current one while it works and no other is
// better. avoid is one that has just refused, or -1.
func (d *Device) pick(avoid int) (Session, int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	best, rank := -1, -1
	for i := range d.sessions {
		path := (d.current + i) % len(d.sessions)
		s := d.sessions[path]
		if s == nil {
			continue
		}
		r := 0
		if path != avoid {
			r += 2
		}
		if s.Optimized() {
			r++
		}
		if r > rank {
			best, rank = path, r
		}
	}
	if best < 0 {
		return nil, -1
	}
	d.current = best
	return d.sessions[best], best
}

// send sends the request by the best path, or has it wait for one.
func (o *op) send() {
	r, d := o.caller, o.dev
	avoid := -1
	if o.why != nil {
		avoid = o.path
	}
	s, path := d.pick(avoid)
	if s == nil {
		if o.why == nil {
			o.why = errNoPath
		}
		o.wait()
		return
	}
	o.path, o.via = path, s
	o.sub = blockdev.Request{Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap, Offset: r.Offset, Length: r.Length, Data: r.Data,
		Done: func(*blockdev.Request) { o.done() }}
	s.Submit([]*blockdev.Request{&o.sub})
}

// drop takes no more requests to a session that is lost.
func (d *Device) drop(path int, s Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sessions[path] == s {
		d.sessions[path] = nil
	}
}

// wait has the request wait for the resender.
func (o *op) wait() {
	d := o.dev
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.waiting = append(d.waiting, o)
	}
	d.mu.Unlock()
	if closed {
		o.giveUp()
	}
}

// giveUp ends the request for want of a path.
func (o *op) giveUp() {
	err := o.why
	if o.sent {
		err = fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	blockdev.Complete(o.caller, blockdev.NewError(blockdev.ErrGone, o.caller, -1, err))
}

// done takes the answer of a session.
func (o *op) done() {
	err := o.sub.Err
	if errors.Is(err, blockdev.ErrGone) {
		o.dev.drop(o.path, o.via)
	}
	if err == nil || errors.Is(err, blockdev.ErrMiscompare) || !passes(err) {
		blockdev.Complete(o.caller, err)
		return
	}
	if o.caller.Op == blockdev.OpCompareAndWrite {
		blockdev.Complete(o.caller, blockdev.NewError(blockdev.ErrBusy, o.caller, -1, fmt.Errorf("%w: %w", ErrUnknown, err)))
		return
	}
	o.sent, o.why = true, err
	if o.dev.cfg.Again != nil {
		o.dev.cfg.Again(o.caller, err)
	}
	o.wait()
	if errors.Is(err, blockdev.ErrGone) {
		o.dev.look() // another path may be there; a target that is busy is left alone for a while
	}
}

// passes tells what another path, or another time, may cure.
func passes(err error) bool {
	return errors.Is(err, blockdev.ErrGone) || errors.Is(err, blockdev.ErrBusy) || isPathRelated(err)
}

// isPathRelated tells a status by which this path does not do the command, and another may
// (NVMe Base 2.0, figure "Status Code – Path Related Status Values"; ALUA).
func isPathRelated(err error) bool {
	var n *nvmehost.StatusError
	var i *iscsihost.StatusError
	return errors.As(err, &n) && n.Status>>8&7 == 3 || errors.As(err, &i) && i.PathRelated()
}

// Close ends all sessions. Requests under way end with blockdev.ErrGone.
func (d *Device) Close() error {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.tasks.Wait()
	d.mu.Lock()
	waiting := d.waiting
	d.waiting = nil
	d.mu.Unlock()
	for _, o := range waiting {
		o.giveUp()
	}
	return nil
}
