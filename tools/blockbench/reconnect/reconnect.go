// Package reconnect makes one blockdev.Device of many that follow each other:
// the sessions of a host with a target that is restarted, or whose connection
// is cut.
//
// When the session is lost, requests that come are kept, and a goroutine dials
// until there is a new one or Config.Timeout is over; then everything fails
// with blockdev.ErrGone. What was in flight is sent again, or, with
// Config.Interrupt, writes and flushes fail with ErrInterrupted once the new
// session is there, so that the caller can look what became of them.
package reconnect

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev"
)

// ErrInterrupted is what a write or flush fails with that was in flight when
// the session was lost: it may have been done or not. A new session is there.
var ErrInterrupted = errors.New("the session was lost while the request was in flight")

// Session is a device that ends with ErrGone.
type Session interface {
	blockdev.Device
	// Close ends the session and returns when its goroutines have ended.
	Close() error
}

// Config says how to reconnect.
type Config struct {
	// Dial makes a session. Required.
	Dial func(context.Context) (Session, error)
	// Timeout bounds how long the target may be away. 0 means that the first
	// lost session is the end.
	Timeout time.Duration
	// Pause lies between two attempts. Default 50 ms.
	Pause time.Duration
	// Interrupt fails writes and flushes that were in flight, rather than
	// sending them again.
	Interrupt bool
	// Lost and Found are told of every session that was lost, with the first
	// error, and of the one that came instead, before any request is sent to
	// it. They must not block; nil drops them.
	Lost  func(error)
	Found func(away time.Duration)
}

// Device is the device. Its methods may be called from any goroutine.
type Device struct {
	cfg      Config
	watchers blockdev.Watchers
	ops      sync.Pool
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup

	mu struct {
		sync.Mutex
		session   Session
		number    uint64 // of the session
		geometry  blockdev.Geometry
		stopWatch func()
		down      bool
		waiting   []*op
		final     error // set once: there won't be another session
	}
}

// op is a request on its way.
type op struct {
	dev     *Device
	caller  *blockdev.Request
	sub     blockdev.Request
	session uint64 // that it was sent to
	// interrupted fails the request as soon as there is a session.
	interrupted error
	batch       [1]*blockdev.Request
}

// New makes the first session, for which it tries for Config.Timeout; ctx
// bounds that.
func New(ctx context.Context, cfg Config) (*Device, error) {
	if cfg.Pause == 0 {
		cfg.Pause = 50 * time.Millisecond
	}
	d := &Device{cfg: cfg}
	s, err := cfg.Dial(ctx)
	if err != nil && cfg.Timeout > 0 {
		s, err = d.dial(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.mu.Lock()
	d.adoptLocked(s)
	d.mu.Unlock()
	return d, nil
}

func (d *Device) adoptLocked(s Session) {
	m := &d.mu
	m.session, m.geometry, m.down = s, s.Geometry(), false
	m.number++
	m.stopWatch = s.Watch(func(c blockdev.Change) {
		if c == blockdev.ChangeGone {
			return // requests tell
		}
		d.mu.Lock()
		d.mu.geometry = s.Geometry()
		d.mu.Unlock()
		d.watchers.Notify(c)
	})
}

// Geometry is that of the last session.
func (d *Device) Geometry() blockdev.Geometry {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.geometry
}

// Watch reports changes of size and read-only state, over all sessions, and
// ChangeGone when there won't be another session.
func (d *Device) Watch(fn func(blockdev.Change)) (stop func()) { return d.watchers.Add(fn) }

// Submit passes the requests to the session, or keeps them for the next one.
func (d *Device) Submit(batch []*blockdev.Request) {
	subs := make([]*blockdev.Request, 0, 16)
	d.mu.Lock()
	for _, r := range batch {
		o, _ := d.ops.Get().(*op)
		if o == nil {
			o = &op{dev: d}
			o.sub.Done = func(*blockdev.Request) { o.done() }
		}
		if o.session != d.mu.number {
			o.sub.Internal = nil // it was another session's
		}
		o.caller, o.session, o.interrupted = r, d.mu.number, nil
		o.sub = blockdev.Request{Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap, Offset: r.Offset, Length: r.Length,
			Data: r.Data, Done: o.sub.Done, Internal: o.sub.Internal}
		if d.mu.down || d.mu.final != nil {
			d.mu.waiting = append(d.mu.waiting, o)
			continue
		}
		subs = append(subs, &o.sub)
	}
	s, final := d.mu.session, d.mu.final
	d.mu.Unlock()
	if final != nil {
		d.failWaiting(final)
		return
	}
	if len(subs) > 0 {
		s.Submit(subs)
	}
}

// done takes the session's answer.
func (o *op) done() {
	d := o.dev
	if !errors.Is(o.sub.Err, blockdev.ErrGone) {
		o.finish(o.sub.Err)
		return
	}
	if d.cfg.Interrupt && o.sub.Op != blockdev.OpRead {
		o.interrupted = o.sub.Err
	}
	d.mu.Lock()
	if d.mu.final != nil {
		final := d.mu.final
		d.mu.Unlock()
		o.finish(final)
		return
	}
	if !d.mu.down && o.session == d.mu.number {
		d.mu.down = true
		d.tasks.Add(1)
		go d.redial(o.sub.Err)
	}
	if d.mu.down {
		d.mu.waiting = append(d.mu.waiting, o)
		d.mu.Unlock()
		return
	}
	// A straggler of a session that has a successor already.
	s := d.mu.session
	o.session = d.mu.number
	d.mu.Unlock()
	o.resume(s)
}

// resume goes on with a new session.
func (o *op) resume(s Session) {
	if o.interrupted != nil {
		o.finish(blockdev.NewError(blockdev.ErrBusy, o.caller, -1, fmt.Errorf("%w: %w", ErrInterrupted, o.interrupted)))
		return
	}
	o.sub.Internal = nil // it was another session's
	o.batch[0] = &o.sub
	s.Submit(o.batch[:])
}

func (o *op) finish(err error) {
	r, d := o.caller, o.dev
	o.caller, o.sub.Data, o.batch[0] = nil, nil, nil
	d.ops.Put(o)
	blockdev.Complete(r, err)
}

// redial makes a new session, or gives up.
func (d *Device) redial(why error) {
	defer d.tasks.Done()
	if d.cfg.Lost != nil {
		d.cfg.Lost(why)
	}
	d.mu.Lock()
	old, stop := d.mu.session, d.mu.stopWatch
	d.mu.Unlock()
	stop()
	_ = old.Close() // it has failed already
	began := time.Now()
	s, err := d.dial(d.ctx, why)
	if err != nil {
		d.mu.Lock()
		d.mu.final = err
		d.mu.Unlock()
		d.failWaiting(err)
		d.watchers.Notify(blockdev.ChangeGone)
		return
	}
	if d.cfg.Found != nil {
		d.cfg.Found(time.Since(began))
	}
	d.mu.Lock()
	d.adoptLocked(s)
	waiting := d.mu.waiting
	d.mu.waiting = nil
	for _, o := range waiting {
		o.session = d.mu.number
	}
	d.mu.Unlock()
	for _, o := range waiting {
		o.resume(s)
	}
}

func (d *Device) dial(ctx context.Context, why error) (Session, error) {
	if d.cfg.Timeout == 0 {
		return nil, why
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	for {
		s, err := d.cfg.Dial(ctx)
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (tried again for %v)", err, d.cfg.Timeout)
		case <-time.After(d.cfg.Pause):
		}
	}
}

func (d *Device) failWaiting(err error) {
	d.mu.Lock()
	waiting := d.mu.waiting
	d.mu.waiting = nil
	d.mu.Unlock()
	for _, o := range waiting {
		if d.cfg.Timeout == 0 && o.sub.Err != nil {
			o.finish(o.sub.Err)
			continue
		}
		o.finish(blockdev.NewError(blockdev.ErrGone, o.caller, -1, err))
	}
}

// Close ends the session, or the attempt to make another one. Requests in
// flight fail with ErrGone.
func (d *Device) Close() error {
	d.cancel()
	d.mu.Lock()
	if d.mu.final == nil {
		d.mu.final = fmt.Errorf("%w: closed", blockdev.ErrGone)
	}
	d.mu.Unlock()
	d.tasks.Wait()
	d.mu.Lock()
	s := d.mu.session
	d.mu.Unlock()
	return s.Close()
}
