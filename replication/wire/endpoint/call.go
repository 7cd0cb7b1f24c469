package endpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockd.dev/replication/wire"
)

// Call is a request to a peer, or a notice, without a goroutine of its own.
// The caller owns it, and may use it again once Done was called.
type Call struct {
	// Channel orders messages: see wire.Outgoing. 0 promises no order.
	Channel uint16
	// Timeout fails a request that is not answered, or a notice that is not
	// acknowledged, in time; 0 for no limit. A peer that is silent ends the
	// connection anyway, and every Call on it fails.
	Timeout time.Duration
	// Notice expects no answer: Done is called when the peer has it.
	Notice bool
	// Hint is what the call is about, told to who counts packets if Config.Wire
	// says Hints: see wire.Outgoing.
	Hint uint64
	// Data is gathered in order, 0 to 1 MiB in all. The slices and what they
	// point to are the connection's from Go until Done.
	Data [][]byte
	// Done is called once on a pump if Go returned nil. It must not block. From
	// it, Go sends with the same turn of the pump.
	Done func(*Call)
	// Context is the caller's own.
	Context any

	// Response is the answer; Done's to Release, when Err is nil.
	Response wire.Message
	// Err is why there is none: one of wire's errors, wrapped. Unless it is
	// wire.ErrNotSent, the peer may have done what it was asked.
	Err error

	conn *conn
	id   wire.MessageID
}

const channelMax = 1023 // of wire.Outgoing

// Go sends a call and returns at once. Its errors are ErrNotConnected,
// ErrStopped, wire.ErrTooLong, and wire.ErrQueueFull, after which an Event
// PeerRoom tells when to try again; then nothing was sent, the call is still
// the caller's, and Done is not called.
func (p *Peer) Go(call *Call) error {
	c := p.active.Load()
	if c == nil {
		return ErrNotConnected
	}
	if call.Channel > channelMax {
		return fmt.Errorf("request on channel %d: channels go from 0 to %d", call.Channel, channelMax)
	}
	m := wire.Outgoing{Kind: wire.Request, Channel: call.Channel, Hint: call.Hint, Data: call.Data, Tag: call}
	if call.Notice {
		m.Kind = wire.Notice
	}
	call.Response, call.Err, call.conn = wire.Message{}, nil, c
	c.mu.Lock()
	now := c.nowLocked()
	if call.Timeout > 0 {
		m.Deadline = now.Add(call.Timeout)
	}
	id, err := c.mu.c.Send(now, m)
	call.id = id // under the lock: Done is called by somebody who has taken it since
	c.mu.Unlock()
	if err != nil {
		if gone(err) {
			return fmt.Errorf("%w: node %s: %w", ErrNotConnected, p.node, err)
		}
		return err
	}
	c.signal()
	return nil
}

// Cancel gives a call up that Go has taken: Done is called soon, with
// wire.ErrCanceled unless it was over already. Not after Done.
func (call *Call) Cancel() { call.conn.cancel(call.id) }

// on takes an event of the call.
func (call *Call) on(e *wire.Event) {
	switch {
	case e.Kind == wire.EventResponse:
		call.Response = e.Message
	case e.Kind == wire.EventFailed:
		call.Err = e.Err
	case !call.Notice:
		return // sent: the answer follows
	}
	call.Done(call)
}

// waiter is a Call that a goroutine waits for.
type waiter struct {
	Call
	done chan struct{} // room for one
}

func newWaiter() any {
	w := &waiter{done: make(chan struct{}, 1)}
	w.Done = func(*Call) { w.done <- struct{}{} }
	return w
}

// Call sends a request and waits for the answer, which the caller releases.
// While there is no connection, or no room in it, it waits for one. When ctx
// ends first, its error is wrapped, with wire.ErrNotSent if nothing was sent;
// the data is the caller's again in any case.
func (p *Peer) Call(ctx context.Context, channel uint16, data ...[]byte) (wire.Message, error) {
	w := p.e.waiters.Get().(*waiter)
	w.Channel, w.Data, w.Timeout, w.Notice = channel, data, 0, false
	if deadline, ok := ctx.Deadline(); ok {
		w.Timeout = max(1, time.Until(deadline))
	}
	if err := p.goWhenPossible(ctx, &w.Call); err != nil {
		p.e.waiters.Put(w)
		return wire.Message{}, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		w.Cancel()
		<-w.done
	}
	response, err := w.Response, w.Err
	w.Data, w.Response, w.Err, w.conn = nil, wire.Message{}, nil, nil
	p.e.waiters.Put(w)
	switch {
	case err == nil:
		return response, nil
	case ctx.Err() != nil || errors.Is(err, wire.ErrDeadline):
		cause := ctx.Err()
		if cause == nil { // the Conn's clock was first
			cause = context.DeadlineExceeded
		}
		return wire.Message{}, fmt.Errorf("request to node %s: %w: %w", p.node, cause, err)
	}
	return wire.Message{}, fmt.Errorf("request to node %s: %w", p.node, err)
}

// goWhenPossible is Go that waits.
func (p *Peer) goWhenPossible(ctx context.Context, call *Call) error {
	for {
		changed := p.change() // before the attempt, so that nothing is missed
		err := p.Go(call)
		if err == nil || !errors.Is(err, ErrNotConnected) && !errors.Is(err, wire.ErrQueueFull) {
			return err
		}
		if p.e.stopped() {
			return fmt.Errorf("request to node %s: %w, %w", p.node, ErrStopped, wire.ErrNotSent)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if last := p.Err(); last != nil && errors.Is(err, ErrNotConnected) {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return fmt.Errorf("request to node %s: %w, %w: %w", p.node, ctx.Err(), wire.ErrNotSent, err)
		}
	}
}

func (e *Endpoint) stopped() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.mu.stopped
}
