package iscsihost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/sockio"
)

// ErrSilent is why a session ended whose target did not answer in time.
var ErrSilent = errors.New("iscsihost: the target does not answer")

var (
	errClosed    = errors.New("iscsihost: session is closed")
	errLoggedOut = errors.New("iscsihost: the target asked to log out")
)

// Session is a logged-in session with one logical unit. It implements
// blockdev.Device. All methods may be called from any goroutine.
type Session struct {
	cfg      Config
	tcp      *net.TCPConn // what sock reads and writes
	sock     *sockio.Conn
	par      params
	lun      uint64 // as the LUN field of a header has it
	zero     []byte // one block, for WRITE SAME
	watchers blockdev.Watchers
	shape    atomic.Pointer[shape]

	in   []byte // the reader's input buffer
	r, w int    // in[r:w] is read and not used
	iov  [16][]byte

	received   atomic.Uint64 // PDUs, for the watchdog
	refreshing atomic.Bool
	why        atomic.Pointer[error] // why the connection is closed
	tasks      sync.WaitGroup        // goroutines
	ended      chan struct{}         // closed by the reader at its end

	mu struct {
		sync.Mutex
		slots     []*command // by index
		free      []*command
		waiting   queue
		inFlight  int
		cmdSN     uint32 // of the next command
		maxCmdSN  uint32
		expStatSN uint32
		head      []byte   // scratch of append
		tail      []byte   // scratch of append
		segs      [][]byte // scratch of append
		dead      error    // set once: no command can be sent any more
		leaving   bool     // logout is under way: commands fail
		loggedOut bool     // the logout is sent
		taken     bool     // the connection outlives its reader
	}
}

// slotsMax is how many commands a session sends at once at most, whatever the
// target's window allows.
const slotsMax = 1 << slotBits

const inputLen = 64 << 10

// Dial logs in and reads the logical unit's shape. ctx bounds the login.
func Dial(ctx context.Context, cfg Config) (*Session, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	conn, l, par, err := connect(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	s, err := newSession(cfg, conn, l, par)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// The probe waits for answers; ctx ends it with the connection.
	stop := context.AfterFunc(ctx, func() { s.drop(ctx.Err()) })
	sh, err := s.probe()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("iscsihost: LUN %d of %s: %w", cfg.LUN, cfg.Target, err), s.Close())
	}
	s.zero = make([]byte, sh.geometry.BlockSize)
	s.shape.Store(sh)
	return s, nil
}

// newSession takes over a connection that has logged in.
func newSession(cfg Config, conn *net.TCPConn, l *login, par params) (*Session, error) {
	sock, err := sockio.New(conn, sockio.Config{Poll: cfg.Poll})
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, tcp: conn, sock: sock, par: par, lun: encodeLUN(cfg.LUN), in: make([]byte, inputLen), ended: make(chan struct{})}
	s.mu.cmdSN, s.mu.maxCmdSN, s.mu.expStatSN = l.cmdSN, l.last.MaxCmdSN, l.expStatSN
	s.tasks.Add(2)
	go func() {
		defer s.tasks.Done()
		s.read()
	}()
	go func() {
		defer s.tasks.Done()
		s.watchSilence()
	}()
	return s, nil
}

// encodeLUN is the eight-byte LUN of SAM-5 §4.7: peripheral device addressing
// up to 255, flat space addressing above.
func encodeLUN(n uint16) uint64 {
	if n > 255 {
		n |= 0x4000
	}
	return uint64(n) << 48
}

// Geometry is what the logical unit told last.
func (s *Session) Geometry() blockdev.Geometry { return s.shape.Load().geometry }

// WriteCache reports whether the logical unit says that it has a volatile
// write cache (WCE of the caching mode page).
func (s *Session) WriteCache() bool { return s.shape.Load().writeCache }

// Watch calls fn when the unit's size or the state of the session changes.
func (s *Session) Watch(fn func(blockdev.Change)) (stop func()) { return s.watchers.Add(fn) }

// Gone is closed when the connection has ended, and every request with it.
func (s *Session) Gone() <-chan struct{} { return s.ended }

// Stats returns the counters of the session's socket.
func (s *Session) Stats() sockio.Stats { return s.sock.Stats() }

// LocalAddr is this side's address.
func (s *Session) LocalAddr() net.Addr { return s.sock.LocalAddr() }

// Submit sends the requests' commands, or queues them until the target's
// window has room.
func (s *Session) Submit(batch []*blockdev.Request) {
	sh := s.shape.Load()
	s.mu.Lock()
	for _, r := range batch {
		err := blockdev.Validate(sh.geometry, r)
		split := false
		switch {
		case err != nil:
		case r.Length == 0 && r.Op != blockdev.OpFlush:
		case r.Length > sh.maxBytes(r.Op):
			split = true
		default:
			if err = s.startLocked(job{req: r}); err == nil {
				continue
			}
			err = blockdev.NewError(blockdev.ErrGone, r, -1, err)
		}
		s.mu.Unlock()
		if split {
			s.split(r, sh.maxBytes(r.Op))
		} else {
			blockdev.Complete(r, err)
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	s.sock.Flush()
}

// startLocked sends a command for the job, or queues it. It fails when the
// session can't send any more.
func (s *Session) startLocked(j job) error {
	m := &s.mu
	switch {
	case m.dead != nil:
		return m.dead
	case m.leaving:
		return errLoggedOut
	}
	if m.waiting.len() > 0 || !s.launchLocked(j) {
		m.waiting.push(j)
	}
	return nil
}

// launchLocked sends a command for the job if there is room for one.
func (s *Session) launchLocked(j job) bool {
	m := &s.mu
	if int32(m.cmdSN-m.maxCmdSN) > 0 {
		return false
	}
	if len(m.free) == 0 {
		if len(m.slots) == slotsMax {
			return false
		}
		c := &command{session: s, index: uint32(len(m.slots))}
		m.slots = append(m.slots, c)
		m.free = append(m.free, c)
	}
	c := m.free[len(m.free)-1]
	m.free = m.free[:len(m.free)-1]
	m.inFlight++
	c.prepare(j)
	s.sendLocked(c)
	return true
}

// pumpLocked sends what waits as far as there is room.
func (s *Session) pumpLocked() {
	m := &s.mu
	for m.waiting.len() > 0 && s.launchLocked(m.waiting.front()) {
		m.waiting.pop()
	}
}

// drop closes the connection, for the reason given.
func (s *Session) drop(why error) {
	s.why.CompareAndSwap(nil, &why)
	_ = s.sock.Close()
}

// Drop closes the connection without a word.
func (s *Session) Drop() { s.drop(errClosed) }

// logoutWait is how long Close waits for the target's answer.
const logoutWait = 2 * time.Second

// Close logs out and closes the connection. Requests in flight fail with
// blockdev.ErrGone.
func (s *Session) Close() error {
	s.mu.Lock()
	s.mu.leaving = true
	if s.mu.dead == nil {
		s.logoutLocked()
	}
	s.mu.Unlock()
	s.sock.Flush()
	timer := time.NewTimer(logoutWait)
	defer timer.Stop()
	select {
	case <-s.ended:
	case <-timer.C:
	}
	s.drop(errClosed)
	s.tasks.Wait()
	return nil
}

// Raw is the connection of a session in full-feature phase, for a caller who
// speaks the protocol on it.
type Raw struct {
	Conn             *net.TCPConn
	LUN              uint64 // as the LUN field of a header has it
	CmdSN, ExpStatSN uint32 // of the next command
	ImmediateBytes   int    // of data that a command may bring along
}

var errTaken = errors.New("iscsihost: the session's connection was taken")

// Take gives away the connection; no request may be under way. It is still the
// session's to close, which is then without logout.
func (s *Session) Take() (Raw, error) {
	s.why.CompareAndSwap(nil, &errTaken)
	s.mu.Lock()
	s.mu.taken, s.mu.leaving = true, true
	s.mu.Unlock()
	if err := s.sock.SetReadDeadline(time.Now()); err != nil {
		return Raw{}, err
	}
	<-s.ended
	immediate := 0
	if s.par.immediate {
		immediate = min(s.par.firstBurst, s.par.maxSend)
	}
	return Raw{s.tcp, s.lun, s.mu.cmdSN, s.mu.expStatSN, immediate}, s.tcp.SetReadDeadline(time.Time{})
}

func (s *Session) logoutLocked() {
	if s.mu.loggedOut {
		return
	}
	s.mu.loggedOut = true
	q := pdu.LogoutRequest{Immediate: true, Reason: pdu.LogoutSession, ITT: logoutITT, CmdSN: s.mu.cmdSN, ExpStatSN: s.mu.expStatSN}
	s.mu.head = s.seal(q.Append(s.mu.head[:0]))
	s.sock.Append(s.mu.head, nil, nil, nil)
}

// leave logs out because the target asks for it, once nothing is in flight.
func (s *Session) leave() {
	s.why.CompareAndSwap(nil, &errLoggedOut)
	s.mu.Lock()
	s.mu.leaving = true
	if s.mu.inFlight == 0 {
		s.logoutLocked()
	}
	var left []job
	for s.mu.waiting.len() > 0 {
		left = append(left, s.mu.waiting.pop())
	}
	s.mu.Unlock()
	for _, j := range left {
		j.fail(errLoggedOut)
	}
}

// watchSilence ends a session whose target does not answer while commands are
// in flight.
func (s *Session) watchSilence() {
	tick := time.NewTicker(max(s.cfg.Timeout/4, 10*time.Millisecond))
	defer tick.Stop()
	var last uint64
	silent := 0
	for {
		select {
		case <-s.ended:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		busy := s.mu.inFlight > 0
		s.mu.Unlock()
		if n := s.received.Load(); n != last || !busy {
			last, silent = n, 0
			continue
		}
		if silent++; silent >= 4 {
			s.drop(fmt.Errorf("%w: nothing for %v", ErrSilent, s.cfg.Timeout))
			return
		}
	}
}

// die is the end of the reader: everything fails.
func (s *Session) die(err error) {
	if p := s.why.Load(); p != nil {
		err = *p
	}
	s.mu.Lock()
	s.mu.dead = err
	if !s.mu.taken {
		_ = s.sock.Close()
	}
	var open []*command
	for _, c := range s.mu.slots {
		if c.active && !c.answered {
			open = append(open, c)
		}
	}
	var left []job
	for s.mu.waiting.len() > 0 {
		left = append(left, s.mu.waiting.pop())
	}
	s.mu.Unlock()
	for _, c := range open {
		c.answered, c.failed = true, err
		c.release()
	}
	for _, j := range left {
		j.fail(err)
	}
	s.watchers.Notify(blockdev.ChangeGone)
	close(s.ended)
}
