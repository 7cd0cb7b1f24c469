package nvmetcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
	"blockd.dev/target/sockio"
)

const (
	inputSmall = 4 << 10  // input buffer of a quiet connection, in bytes
	inputLarge = 64 << 10 // and of a busy one
	// lingerTime is how long a peer has to take the last words.
	lingerTime = time.Second
)

// phase is how far a connection is; see the package comment.
type phase uint8

const (
	phaseInit phase = iota
	phaseConnect
	phaseAuth
	phaseLive
)

var (
	errHostTerminated = errors.New("nvmetcp: the host terminated the connection")
	errStalled        = errors.New("nvmetcp: the host stopped within a PDU or owes data")
	errDisconnect     = errors.New("nvmetcp: the host disconnected the queue")
	errConnect        = errors.New("nvmetcp: Connect was refused")
	errOverrun        = errors.New("nvmetcp: the host sent more commands than its queue has entries")
)

// conn is one connection: one queue of a controller once Connect succeeded.
// The fields without a guard belong to the reader goroutine.
type conn struct {
	srv           *Server
	sock          *sockio.Conn
	port          uint16
	discoveryOnly bool
	lim           *Limits
	pool          pool
	slots         []*command // by transfer tag - 1

	phase  phase
	rules  pdu.Rules
	layout pdu.Layout // fixed before the first command; read by completions
	queue  *nvme.Queue
	noSQHD bool // SQ flow control is off; fixed with queue
	auth   *auth.DHController
	host   string
	subNQN string

	in       []byte // input buffer
	r, w     int    // in[r:w] is read and not used
	full     int    // reads in a row that filled the input buffer
	segs     [][]byte
	iov      [16][]byte
	sub      submission
	done     bool  // nothing more is read
	closeErr error // why the connection ends

	sqhd  atomic.Uint32 // sub.head, for completions
	order sync.Mutex    // keeps SQHDs in the order of the output

	mu struct {
		sync.Mutex
		first, last *command // parked
		dead        bool
		pumping     bool // a goroutine is in unpark
		timer       *time.Timer
		info        SessionInfo
		connected   bool // info is that of a queue
	}

	heldBytes atomic.Int64  // buffer of commands
	parked    atomic.Int32  // length of the list of parked commands
	owed      atomic.Int32  // commands with an R2T out
	within    atomic.Bool   // the reader waits for the rest of a PDU
	received  atomic.Uint64 // counts reads
	large     atomic.Bool   // the input buffer is the large one
	shrink    atomic.Bool   // the ticker wants the reader to give it up
	closing   atomic.Pointer[error]
	counts    counters
}

func newConn(srv *Server, tcp *net.TCPConn, port uint16, discoveryOnly bool) (*conn, error) {
	sock, err := sockio.New(tcp, sockio.Config{})
	if err != nil {
		return nil, err
	}
	c := &conn{srv: srv, sock: sock, port: port, discoveryOnly: discoveryOnly, lim: &srv.limits, in: make([]byte, inputSmall)}
	c.rules = pdu.Rules{FromHost: true, CapsuleMax: AdminCapsuleBytes, DataMax: c.lim.MaxH2CData}
	c.pool.limit = handshakeCommands
	c.pool.empty.L = &c.pool.mu
	return c, nil
}

// drop ends the connection from any goroutine, for the reason given.
func (c *conn) drop(why error) {
	c.closing.CompareAndSwap(nil, &why)
	_ = c.sock.Close()
}

// endedError is why the command set ended the queue.
type endedError struct{ reason error }

func (e *endedError) Error() string { return e.reason.Error() }
func (e *endedError) Unwrap() error { return e.reason }

// controllerEnded drops the connection when the command set ended its queue.
func (c *conn) controllerEnded(reason error) { c.drop(&endedError{reason}) }

// orderly reports whether a connected queue ended as it should: by the host,
// or, for an I/O queue, with its controller, of which the admin queue tells.
func (c *conn) orderly() bool {
	var ended *endedError
	return errors.Is(c.closeErr, errDisconnect) || errors.Is(c.closeErr, io.EOF) ||
		c.queue.ID() != 0 && errors.As(c.closeErr, &ended)
}

// run serves the connection until it ends.
func (c *conn) run() {
	err := c.loop()
	if p := c.closing.Load(); p != nil {
		err = *p
	}
	c.closeErr = err
	c.end()
}

// loop reads, serves what has arrived, and sends the answers in one go.
func (c *conn) loop() error {
	for {
		err := c.serve()
		if err == nil && !c.done {
			err = c.fill(false)
		}
		if err != nil {
			var fe *fatal
			if errors.As(err, &fe) {
				c.terminate(fe)
			}
			return err
		}
		if c.done {
			c.lastWords()
			return c.closeErr
		}
	}
}

// fatal is a violation with the header that shows it.
type fatal struct {
	err *pdu.FatalError
	hdr [pdu.TermDataMax]byte
	n   int
}

func (f *fatal) Error() string { return f.err.Error() }
func (f *fatal) Unwrap() error { return f.err }

// fatalAt makes a fatal of what is known of the PDU.
func fatalAt(e *pdu.FatalError, hdr []byte) error {
	f := &fatal{err: e}
	f.n = copy(f.hdr[:], hdr)
	return f
}

// terminate sends a C2HTermReq and waits a moment for the host to take it.
func (c *conn) terminate(f *fatal) {
	t := pdu.TermReq{FatalError: *f.err, Culprit: f.hdr[:f.n]}
	c.sock.Append(t.Append(nil), nil, nil, nil)
	c.lastWords()
}

// lastWords sends what is queued before the connection is closed, and reads
// on for a moment: closing with unread input would make the kernel take back
// what the peer has not read.
func (c *conn) lastWords() {
	limit := time.AfterFunc(lingerTime, func() { _ = c.sock.Close() })
	defer limit.Stop()
	c.sock.Uncork()
	if c.sock.Drain() != nil {
		return
	}
	for {
		if _, err := c.sock.Read(c.in); err != nil {
			return
		}
	}
}

// fill reads into the input buffer what has arrived, waiting for it; it may
// return without. within says that the
// reader is in the middle of a PDU whatever the buffer holds.
func (c *conn) fill(within bool) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
		c.resize()
	} else if c.w == len(c.in) {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if err := c.beforeRead(within || c.w > c.r); err != nil {
		return err
	}
	n, err := c.sock.Read(c.in[c.w:])
	if err != nil {
		return c.readError(err, within || c.w > c.r)
	}
	if n == len(c.in)-c.w {
		c.full++
	} else {
		c.full = 0
	}
	c.w += n
	c.afterRead()
	return nil
}

// resize makes the empty input buffer fit the traffic.
func (c *conn) resize() {
	switch {
	case c.full >= 2 && len(c.in) < inputLarge:
		c.in = make([]byte, inputLarge)
		c.full = 0
		c.large.Store(true)
	case c.shrink.Load():
		c.shrink.Store(false)
		if len(c.in) > inputSmall {
			c.in = make([]byte, inputSmall)
			c.large.Store(false)
		}
	}
}

// beforeRead sends what is queued and waits until the peer takes output.
func (c *conn) beforeRead(within bool) error {
	c.sock.Uncork()
	if c.within.Load() != within {
		c.within.Store(within)
	}
	if c.sock.Congested() {
		return c.sock.WaitRoom()
	}
	return nil
}

func (c *conn) afterRead() {
	c.received.Add(1)
	c.sock.Cork()
}

// readError names the end of the stream, and lets a reader that the ticker
// woke go on: a connection that is served has no deadline of its own.
func (c *conn) readError(err error, within bool) error {
	if c.phase == phaseLive && errors.Is(err, os.ErrDeadlineExceeded) {
		return c.sock.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, io.EOF) && within {
		return io.ErrUnexpectedEOF
	}
	return err
}

// need reads until n bytes are in the input buffer, n at most inputSmall.
func (c *conn) need(n int) error {
	for c.w-c.r < n {
		if c.r+n > len(c.in) {
			c.w = copy(c.in, c.in[c.r:c.w])
			c.r = 0
		}
		if err := c.fill(true); err != nil {
			return err
		}
	}
	return nil
}

// serve handles every PDU in the input buffer.
func (c *conn) serve() error {
	for !c.done && c.w-c.r >= pdu.CommonLen {
		if err := c.serveOne(); err != nil {
			return err
		}
	}
	return nil
}

// serveOne handles the PDU at the front of the input buffer, reading what is
// missing of it.
func (c *conn) serveOne() error {
	var h pdu.Header
	b := c.in[c.r:c.w]
	if _, err := h.Decode(b); err != nil {
		return err
	}
	f, fe := c.rules.Frame(&h)
	if fe != nil {
		return fatalAt(fe, b[:min(len(b), max(int(h.HLen), pdu.CommonLen))])
	}
	if (h.Type == pdu.TypeICReq) != (c.phase == phaseInit) && h.Type != pdu.TypeH2CTermReq {
		return fatalAt(pdu.Fatal(pdu.SequenceError, 0), b[:min(len(b), f.HLen)])
	}
	if len(b) < f.DataOff {
		if err := c.need(f.DataOff); err != nil {
			return err
		}
		b = c.in[c.r:c.w]
	}
	if f.HDigest && pdu.Digest(0, b[:f.HLen]) != pdu.DigestAt(b[f.HLen:]) {
		return fatalAt(pdu.Fatal(pdu.HeaderDigestError, pdu.DigestAt(b[f.HLen:])), b[:f.HLen])
	}
	hdr := b[:f.HLen]
	switch h.Type {
	case pdu.TypeICReq:
		return c.handleICReq(&f, hdr)
	case pdu.TypeCapsuleCmd:
		return c.handleCapsule(&f, hdr)
	case pdu.TypeH2CData:
		return c.handleData(&f, hdr)
	default: // H2CTermReq is the only one left that Frame lets through
		var t pdu.TermReq
		if err := c.need(f.Total); err != nil {
			return err
		}
		if _, err := t.Decode(c.in[c.r : c.r+f.Total]); err != nil {
			return err
		}
		return fmt.Errorf("%w: %v", errHostTerminated, t.FatalError.Error())
	}
}

// body receives f's data: segs takes its front, the rest is dropped. The
// header is already taken off the input buffer. It reports whether the digest,
// if any, is right. What of segs is not in the input buffer is read straight
// into it, with the input buffer behind it to catch what follows.
func (c *conn) body(f *pdu.Frame, segs [][]byte) (ok bool, err error) {
	left := f.DataLen
	var crc uint32
	for left > 0 {
		if c.r == c.w {
			if len(segs) == 0 {
				if err := c.fill(true); err != nil {
					return false, err
				}
				continue
			}
			n, err := c.readDirect(segs)
			if err != nil {
				return false, err
			}
			left -= n
			for n > 0 {
				m := min(n, len(segs[0]))
				if f.DDigest {
					crc = pdu.Digest(crc, segs[0][:m])
				}
				segs = skip(segs, m)
				n -= m
			}
			continue
		}
		p := c.in[c.r:min(c.w, c.r+left)]
		if len(segs) > 0 {
			p = p[:copy(segs[0], p)]
			segs = skip(segs, len(p))
		}
		if f.DDigest {
			crc = pdu.Digest(crc, p)
		}
		c.r += len(p)
		left -= len(p)
	}
	if !f.DDigest {
		return true, nil
	}
	if err := c.need(pdu.DigestLen); err != nil {
		return false, err
	}
	ok = crc == pdu.DigestAt(c.in[c.r:])
	c.r += pdu.DigestLen
	if !ok {
		c.counts.digests.Add(1)
	}
	return ok, nil
}

// readDirect reads into segs and, behind it, the empty input buffer. It
// returns how many bytes went to segs.
func (c *conn) readDirect(segs [][]byte) (int, error) {
	c.r, c.w = 0, 0
	if err := c.beforeRead(true); err != nil {
		return 0, err
	}
	k, total := 0, 0
	for k < len(c.iov)-1 && k < len(segs) {
		c.iov[k] = segs[k]
		total += len(segs[k])
		k++
	}
	if k == len(segs) {
		c.iov[k] = c.in
		k++
	}
	n, err := c.sock.Readv(c.iov[:k])
	clear(c.iov[:k])
	if err != nil {
		return 0, c.readError(err, true)
	}
	c.afterRead()
	if n > total {
		c.w = n - total
		n = total
	}
	return n, nil
}

// skip drops the first n bytes of the list.
func skip(segs [][]byte, n int) [][]byte {
	for len(segs) > 0 && n >= len(segs[0]) {
		n -= len(segs[0])
		segs = segs[1:]
	}
	if n > 0 {
		segs[0] = segs[0][n:]
	}
	return segs
}

// end cleans up behind the reader: commands that wait are given up, the queue
// goes, and every buffer comes back before end returns.
func (c *conn) end() {
	_ = c.sock.Close()
	c.mu.Lock()
	c.mu.dead = true
	c.mu.first, c.mu.last = nil, nil
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
	var waiting []*command
	for _, cmd := range c.slots {
		if cmd.stage == stageParked || cmd.stage == stageReceiving {
			cmd.stage = stageIdle
			waiting = append(waiting, cmd)
		}
	}
	c.mu.Unlock()
	c.parked.Store(0)
	for _, cmd := range waiting {
		if !cmd.own {
			c.queue.Cancel(&cmd.nv)
		}
		cmd.unref()
	}
	if c.queue != nil {
		c.queue.Disconnect()
	}
	c.srv.ended(c)
	c.pool.wait()
}
