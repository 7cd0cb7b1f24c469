package sockio

import (
	"sync"
	"sync/atomic"
	"syscall"

	"blockd.dev/internal/turn"
)

// Sender is told when a queued response no longer needs its data.
type Sender interface {
	// Sent is called exactly once for each Append that named it, after the
	// kernel has taken the bytes or when the connection has failed. It must
	// not block, and may run on any goroutine.
	Sent()
}

// batch is output gathered for one writev. Headers are copied into heads, one
// after another; iov points into heads and into the senders' data.
type batch struct {
	heads   []byte
	iov     [][]byte
	senders []Sender
	bytes   int
}

func (b *batch) reset() {
	b.heads = b.heads[:0]
	clear(b.iov)
	b.iov = b.iov[:0]
	clear(b.senders)
	b.senders = b.senders[:0]
	b.bytes = 0
}

// addHead copies p and queues it, joined with the header before it when
// nothing lies between them.
func (b *batch) addHead(p []byte) {
	start := len(b.heads)
	grows := start+len(p) > cap(b.heads)
	b.heads = append(b.heads, p...)
	if last := len(b.iov) - 1; !grows && last >= 0 && start > 0 && adjacent(b.iov[last], b.heads[:start]) {
		b.iov[last] = b.iov[last][:len(b.iov[last])+len(p)]
		return
	}
	b.iov = append(b.iov, b.heads[start:])
}

// adjacent reports whether s is a slice of heads that ends where heads ends.
func adjacent(s, heads []byte) bool {
	return len(s) > 0 && &s[len(s)-1] == &heads[len(heads)-1]
}

// writer is the sending half of a Conn: two batches, one being filled by
// whoever appends, one being sent by whoever flushes.
type writer struct {
	conn *Conn
	high int
	soon turn.Soon

	mu      sync.Mutex
	pending *batch
	writing bool  // a goroutine owns active
	corked  bool  // Flush waits for Uncork or corkBytes
	left    bool  // to soon, whose Do sends
	err     error // set once: the connection can't send any more
	queued  int   // bytes in both batches
	roomy   *sync.Cond

	active  *batch // owned by the goroutine that set writing
	next    [][]byte
	stalled bool // the drain goroutine is the writer
	sendFn  func(fd uintptr) bool
	sendErr error

	held                  atomic.Bool // corked, and the last Append left less than corkBytes
	writes, bytes, stalls atomic.Uint64
}

func (w *writer) init(c *Conn, high int, soon turn.Soon) {
	w.conn, w.high, w.soon = c, high, soon
	w.pending, w.active = &batch{}, &batch{}
	w.roomy = sync.NewCond(&w.mu)
	w.sendFn = w.send
}

// Append queues head, data and tail as one unit, to go out in that order
// after everything appended before. head and tail are copied; data is
// referenced until sender.Sent is called. sender may be nil when data is
// empty. Nothing is sent before a Flush or an Uncork. On a failed connection
// the output is dropped and Sent is called at once.
func (c *Conn) Append(head []byte, data [][]byte, tail []byte, sender Sender) {
	w := &c.tx
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		if sender != nil {
			sender.Sent()
		}
		return
	}
	b := w.pending
	n := len(head) + len(tail)
	b.addHead(head)
	for _, s := range data {
		if len(s) > 0 {
			b.iov = append(b.iov, s)
			n += len(s)
		}
	}
	if len(tail) > 0 {
		b.addHead(tail)
	}
	if sender != nil {
		b.senders = append(b.senders, sender)
	}
	b.bytes += n
	w.queued += n
	if held := b.bytes < corkBytes; w.corked && w.held.Load() != held {
		w.held.Store(held)
	}
	w.mu.Unlock()
}

// corkBytes is how much output Cork holds back. More means that the peer sits
// idle while a long batch is served. Less means more system calls and more
// wake-ups of the peer: of 128 KiB reads at depth 8 each took 45 us of CPU time
// with 128 KiB here, and 20 us with this or more.
const corkBytes = 512 << 10

// Cork holds back the output until Uncork or until it is worth a write of its
// own, so that a reader that serves several requests from one read answers
// them with few writes; a turn begins, which Soon leaves to. Calls don't nest, and are the reader's.
func (c *Conn) Cork() {
	c.tx.mu.Lock()
	c.tx.corked = true
	c.tx.mu.Unlock()
	c.turn.Begin()
}

// Soon is a turn.Soon: what the requests that the reader serves from one read lead to is done
// by Uncork, which a reader must not end without.
func (c *Conn) Soon(t turn.Task) bool { return c.turn.Leave(t) }

// Uncork ends Cork and flushes.
func (c *Conn) Uncork() {
	c.turn.End()
	c.tx.mu.Lock()
	c.tx.corked = false
	c.tx.held.Store(false)
	c.tx.flushLocked()
}

// Flush sends what was appended, unless the connection is corked or another
// goroutine is sending, which then sends this too, or has it sent soon
// (Config.Soon). It never blocks.
func (c *Conn) Flush() {
	w := &c.tx
	if w.held.Load() {
		return // Uncork sends it
	}
	w.mu.Lock()
	if w.left || !w.idleLocked() && w.soon != nil && w.soon(w) {
		w.left = true
		w.mu.Unlock()
		return
	}
	w.flushLocked()
}

// Do is the end of the turn that the output was left to.
func (w *writer) Do() {
	w.mu.Lock()
	w.left = false
	w.flushLocked()
}

// Failed reports whether the connection can't send any more: what is appended is dropped.
func (c *Conn) Failed() bool {
	c.tx.mu.Lock()
	defer c.tx.mu.Unlock()
	return c.tx.err != nil
}

// Congested reports whether so much output is queued that the reader should
// not take more requests.
func (c *Conn) Congested() bool { return c.QueuedBytes() > c.tx.high }

// QueuedBytes is the output appended but not yet taken by the kernel.
func (c *Conn) QueuedBytes() int {
	c.tx.mu.Lock()
	defer c.tx.mu.Unlock()
	return c.tx.queued
}

// WaitRoom blocks until the connection is not Congested or has failed; it
// returns the failure. For the reader only.
func (c *Conn) WaitRoom() error {
	w := &c.tx
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.queued > w.high {
		w.roomy.Wait()
	}
	return w.err
}

// Drain blocks until everything appended so far has been taken by the kernel,
// or the connection has failed; it returns the failure. Call it uncorked.
func (c *Conn) Drain() error {
	w := &c.tx
	w.mu.Lock()
	w.flushLocked()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.queued > 0 {
		w.roomy.Wait()
	}
	return w.err
}

// idleLocked reports whether there is nothing that the caller could send.
func (w *writer) idleLocked() bool {
	return w.writing || w.err != nil || len(w.pending.iov) == 0 || w.corked && w.pending.bytes < corkBytes
}

// flushLocked is entered with mu held and leaves it released.
func (w *writer) flushLocked() {
	if w.idleLocked() {
		w.mu.Unlock()
		return
	}
	w.writing = true
	w.takeLocked()
	w.mu.Unlock()
	w.run()
}

// takeLocked makes the pending batch the active one.
func (w *writer) takeLocked() {
	w.pending, w.active = w.active, w.pending
	w.next = w.active.iov
}

// run sends batches until none is left. The caller owns active. When the
// socket is full it leaves that ownership to a goroutine that can wait.
func (w *writer) run() {
	for {
		err := w.conn.raw.Write(w.sendFn)
		if err == nil {
			err = w.sendErr
		}
		if err == nil && len(w.next) > 0 {
			// Only outside of drain: send gave up instead of waiting.
			w.stalls.Add(1)
			w.stalled = true
			go w.run()
			return
		}
		if !w.finish(err) {
			return
		}
	}
}

// finish releases the active batch and takes the next one; it reports whether
// there is one.
func (w *writer) finish(err error) bool {
	done := w.active
	for _, s := range done.senders {
		s.Sent()
	}
	n := done.bytes
	done.reset()
	w.stalled = false

	w.mu.Lock()
	w.queued -= n
	w.roomy.Broadcast()
	if err != nil || w.err != nil {
		w.writing = false
		w.mu.Unlock()
		w.fail(err)
		return false
	}
	if len(w.pending.iov) == 0 || w.corked && w.pending.bytes < corkBytes {
		w.writing = false
		w.mu.Unlock()
		return false
	}
	w.takeLocked()
	w.mu.Unlock()
	return true
}

// fail marks the connection as unable to send and lets go of what is queued.
// A writer that is active lets go of its own batch when its write fails.
func (w *writer) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	dropped := w.pending.senders
	w.queued -= w.pending.bytes
	w.pending = &batch{}
	w.roomy.Broadcast()
	w.mu.Unlock()
	for _, s := range dropped {
		s.Sent()
	}
}

// send writes as much of next as the socket takes. It reports true when the
// call is over: all sent, an error, or a full socket that this goroutine must
// not wait for.
func (w *writer) send(fd uintptr) bool {
	w.sendErr = nil
	for len(w.next) > 0 {
		n, errno := writev(fd, w.next)
		switch errno {
		case 0:
			w.writes.Add(1)
			w.bytes.Add(uint64(n))
			w.next = consume(w.next, n)
		case syscall.EINTR:
		case syscall.EAGAIN:
			return !w.stalled
		default:
			w.sendErr = errno
			return true
		}
	}
	return true
}

// consume drops the first n bytes of the list, and empty elements that follow.
func consume(iov [][]byte, n int) [][]byte {
	for len(iov) > 0 && n >= len(iov[0]) {
		n -= len(iov[0])
		iov = iov[1:]
	}
	if n > 0 {
		iov[0] = iov[0][n:]
	}
	return iov
}
