package endpoint

import (
	"errors"

	"blockd.dev/replication/wire"
)

// Request is a message from a peer, a Request or a Notice. The handler that
// got it owns it until it calls Reply or Release, once, on any goroutine.
type Request struct {
	// Peer is who sent it.
	Peer *Peer
	// Message is what was sent. Its Data is the handler's to read and to write,
	// until Done was called, or Release.
	Message wire.Message
	// Done, if set before Reply, is called on a pump when the data given to Reply
	// is the handler's again: nil when the peer has it, or why it hasn't. The
	// Request ends when it returns.
	Done func(r *Request, err error)
	// Context is the handler's own.
	Context any

	conn *conn
	data [][]byte // in the backlog
	next *Request // in the backlog, or among those to be used again
}

// backlog is a queue of answers for which a Conn's send queue had no room. It
// is bounded by what the peer may ask at once.
type backlog struct{ first, last *Request }

func (b *backlog) push(r *Request) {
	if b.first == nil {
		b.first = r
	} else {
		b.last.next = r
	}
	b.last = r
}

func (b *backlog) pop() *Request {
	r := b.first
	b.first, r.next = r.next, nil
	return r
}

// onMessage hands a message to the handler.
func (c *conn) onMessage(m *wire.Message) {
	c.mu.Lock()
	r := c.mu.free
	if r != nil {
		c.mu.free, r.next = r.next, nil
	}
	c.mu.Unlock()
	if r == nil {
		r = &Request{conn: c}
	}
	r.Peer, r.Message = c.peer, *m
	c.e.cfg.Handler(r)
}

// Reply answers a Request. data is gathered in order, 0 to 1 MiB in all; the
// slices and what they point to are the connection's until Done. The error
// says that the connection is gone, or that data is too long; then the
// Request has ended without a call of Done, and the peer gets no answer. Done is told
// the same of an answer that had to wait for room first.
func (r *Request) Reply(data [][]byte) error {
	c := r.conn
	r.data = data
	c.mu.Lock()
	var err error
	if c.mu.backlog.first != nil {
		err = wire.ErrQueueFull
	} else {
		err = c.answerLocked(r)
	}
	queued := errors.Is(err, wire.ErrQueueFull)
	if queued {
		c.mu.backlog.push(r)
	}
	c.mu.Unlock()
	if err != nil && !queued {
		r.Release()
		return err
	}
	c.signal()
	return nil
}

func (c *conn) answerLocked(r *Request) error {
	_, err := c.mu.c.Send(c.nowLocked(), wire.Outgoing{
		Kind: wire.Response, InReplyTo: r.Message.ID, Data: r.data, Tag: r,
	})
	return err
}

// sendBacklog sends answers that had no room before. One that can't be sent at all
// ends there, and does not hold up those behind it.
func (c *conn) sendBacklog() {
	for {
		c.mu.Lock()
		r := c.mu.backlog.first
		if r == nil {
			c.mu.Unlock()
			return
		}
		err := c.answerLocked(r)
		if errors.Is(err, wire.ErrQueueFull) {
			c.mu.Unlock()
			return
		}
		c.mu.backlog.pop()
		c.mu.Unlock()
		if err != nil {
			r.replied(err)
		}
	}
}

// dropBacklog fails answers that can't be sent any more.
func (c *conn) dropBacklog(err error) {
	for {
		c.mu.Lock()
		if c.mu.backlog.first == nil {
			c.mu.Unlock()
			return
		}
		r := c.mu.backlog.pop()
		c.mu.Unlock()
		r.replied(err)
	}
}

// replied ends a Request whose answer was sent, or can't be.
func (r *Request) replied(err error) {
	if r.Done != nil {
		r.Done(r, err)
	}
	r.Release()
}

// Release ends a Request without an answer: a Notice, or a Request that the
// peer shall wait for in vain. It gives the room back to the peer's window.
func (r *Request) Release() {
	c := r.conn
	r.Message.Release()
	*r = Request{conn: c}
	c.mu.Lock()
	r.next, c.mu.free = c.mu.free, r
	c.mu.Unlock()
}
