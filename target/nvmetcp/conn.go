package nvmetcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/turn"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
	"blockd.dev/target/pool"
	"blockd.dev/target/sockio"
)

// lingerTime is how long a peer has to take the last words.
const lingerTime = time.Second

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
	soon          turn.Soon // sock's
	port          uint16
	discoveryOnly bool
	lim           *Limits
	pool          pool.Pool[command, *command]
	slots         []*command // by transfer tag - 1

	phase  phase
	rules  pdu.Rules
	layout pdu.Layout // fixed before the first command; read by completions
	queue  *nvme.Queue
	noSQHD bool // SQ flow control is off; fixed with queue
	auth   *auth.DHController
	host   string
	subNQN string

	in       sockio.Input
	segs     [][]byte
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

	heldBytes atomic.Int64 // buffer of commands
	parked    atomic.Int32 // length of the list of parked commands
	owed      atomic.Int32 // commands with an R2T out
	leaving   atomic.Bool  // the target stops: parked commands end
	gone      atomic.Bool  // blockdev.Request.Gone of all commands; set before the host is told
	closing   atomic.Pointer[error]
	counts    counters
}

func newConn(srv *Server, tcp *net.TCPConn, port uint16, discoveryOnly bool) (*conn, error) {
	sock, err := sockio.New(tcp, sockio.Config{Soon: srv.cfg.Load().Soon})
	if err != nil {
		return nil, err
	}
	c := &conn{srv: srv, sock: sock, soon: sock.Soon, port: port, discoveryOnly: discoveryOnly, lim: &srv.limits}
	c.in.Init(sock)
	c.rules = pdu.Rules{FromHost: true, CapsuleMax: AdminCapsuleBytes, DataMax: c.lim.MaxH2CData}
	c.pool.SetLimit(handshakeCommands)
	return c, nil
}

// drop ends the connection from any goroutine, for the reason given.
func (c *conn) drop(why error) {
	c.closing.CompareAndSwap(nil, &why)
	c.gone.Store(true)
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
	c.sock.Uncork() // what the last commands have left to the reader's turn is done
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
			err = c.in.Fill()
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
	c.gone.Store(true)
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
	drop := make([]byte, 4<<10)
	for {
		if _, err := c.sock.Read(drop); err != nil {
			return
		}
	}
}

// serve handles every PDU in the input buffer.
func (c *conn) serve() error {
	for !c.done && len(c.in.Bytes()) >= pdu.CommonLen {
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
	b := c.in.Bytes()
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
		if err := c.in.Need(f.DataOff); err != nil {
			return err
		}
		b = c.in.Bytes()
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
		if err := c.in.Need(f.Total); err != nil {
			return err
		}
		if _, err := t.Decode(c.in.Bytes()[:f.Total]); err != nil {
			return err
		}
		return fmt.Errorf("%w: %v", errHostTerminated, t.FatalError.Error())
	}
}

// body receives f's data: segs takes its front, the rest is dropped. The
// header is already taken off the input. It reports whether the digest, if
// any, is right.
func (c *conn) body(f *pdu.Frame, segs [][]byte) (ok bool, err error) {
	if !f.DDigest {
		return true, c.in.Into(segs, f.DataLen, nil)
	}
	var crc uint32
	if err := c.in.Into(segs, f.DataLen, func(p []byte) { crc = pdu.Digest(crc, p) }); err != nil {
		return false, err
	}
	if err := c.in.Need(pdu.DigestLen); err != nil {
		return false, err
	}
	ok = crc == pdu.DigestAt(c.in.Bytes())
	c.in.Use(pdu.DigestLen)
	if !ok {
		c.counts.digests.Add(1)
	}
	return ok, nil
}

// end cleans up behind the reader: commands that wait are given up, the queue
// goes, and every buffer comes back before end returns.
func (c *conn) end() {
	c.gone.Store(true)
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
		cmd.recycle()
	}
	if c.queue != nil {
		c.queue.Disconnect()
	}
	c.srv.ended(c)
	c.pool.Wait()
}
