package nvmetcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev/arena"
	"blockd.dev/target/nvme"
	"blockd.dev/target/sockio"
)

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("nvmetcp: server is shut down")

var errShutdown = errors.New("nvmetcp: the target shut down")

// Server serves one nvme.Subsystem on any number of ports. All methods may be
// called from any goroutine.
type Server struct {
	cfg       atomic.Pointer[Config]
	limits    Limits
	arena     *arena.Arena
	subsystem *nvme.Subsystem
	authGate  authGate
	wg        sync.WaitGroup // connections and the ticker

	mu struct {
		sync.Mutex
		listeners   map[net.Listener]struct{}
		conns       map[*conn]*pulse
		handshaking int
		draining    bool
		stop        chan struct{} // ends the ticker and Serve
		stats       ServerStats
	}
}

// pulse is how the ticker follows one connection.
type pulse struct {
	received uint64
	idle     int // seconds
	live     bool
}

// New makes a server. It fails when cfg is not valid. The server calls the
// subsystem's Tick from now on until Shutdown.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{limits: cfg.Limits, arena: cfg.Arena, subsystem: cfg.Subsystem}
	s.authGate = make(authGate, cfg.Limits.Authentications)
	s.cfg.Store(&cfg)
	s.mu.listeners = map[net.Listener]struct{}{}
	s.mu.conns = map[*conn]*pulse{}
	s.mu.stop = make(chan struct{})
	s.wg.Add(1)
	go s.tick(s.mu.stop)
	return s, nil
}

// Configure replaces the auth directory and the event function for what
// happens from now on. Subsystem, Arena and Limits must stay as they are and
// may be left zero. Queues that are connected go on; see Drop.
func (s *Server) Configure(cfg Config) error {
	if cfg.Subsystem == nil {
		cfg.Subsystem = s.subsystem
	}
	if cfg.Arena == nil {
		cfg.Arena = s.arena
	}
	if cfg.Subsystem != s.subsystem || cfg.Arena != s.arena {
		return errors.New("nvmetcp: Subsystem and Arena can't be changed: make a new server")
	}
	cfg.Limits = s.limits
	if err := cfg.validate(); err != nil {
		return err
	}
	s.cfg.Store(&cfg)
	return nil
}

// Serve accepts connections on ln, which hosts know as the port of that id,
// until Shutdown or a failure of ln. Both the NVM and the discovery subsystem
// answer there. It closes ln and returns ErrClosed after Shutdown.
func (s *Server) Serve(ln net.Listener, portID uint16) error { return s.serve(ln, portID, false) }

// ServeDiscovery is Serve for a listener on which only the discovery subsystem
// answers.
func (s *Server) ServeDiscovery(ln net.Listener) error { return s.serve(ln, 0, true) }

func (s *Server) serve(ln net.Listener, portID uint16, discoveryOnly bool) error {
	defer ln.Close()
	s.mu.Lock()
	if s.mu.draining {
		s.mu.Unlock()
		return ErrClosed
	}
	s.mu.listeners[ln] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.listeners, ln)
		s.mu.Unlock()
	}()
	if err := sockio.Accept(ln, s.mu.stop, func(tcp *net.TCPConn) { s.accept(tcp, portID, discoveryOnly) }); err != nil {
		return fmt.Errorf("nvmetcp: port %v: %w", ln.Addr(), err)
	}
	return ErrClosed
}

// accept starts serving one connection, or closes it when there are too many.
func (s *Server) accept(tcp *net.TCPConn, portID uint16, discoveryOnly bool) {
	c, err := newConn(s, tcp, portID, discoveryOnly)
	if err != nil {
		_ = tcp.Close()
		return
	}
	s.mu.Lock()
	s.mu.stats.Accepted++
	if s.mu.draining || s.mu.handshaking >= s.limits.Handshakes || len(s.mu.conns) >= s.limits.Connections {
		s.mu.stats.Refused++
		s.mu.Unlock()
		_ = tcp.Close()
		return
	}
	s.mu.handshaking++
	s.mu.conns[c] = &pulse{}
	s.wg.Add(1)
	s.mu.Unlock()
	_ = c.sock.SetReadDeadline(time.Now().Add(time.Duration(s.limits.InitSeconds) * time.Second))
	go func() {
		defer s.wg.Done()
		c.run()
	}()
}

// live is told by a connection that its handshake is over.
func (s *Server) live(c *conn) {
	s.mu.Lock()
	s.mu.conns[c].live = true
	s.mu.handshaking--
	s.mu.stats.Connects++
	s.mu.Unlock()
	s.event(c, EventConnected, nil)
}

func (s *Server) authFailed(c *conn) {
	s.mu.Lock()
	s.mu.stats.AuthFailed++
	s.mu.Unlock()
	s.event(c, EventAuthFailed, c.auth.Failed())
}

func (s *Server) event(c *conn, kind EventKind, err error) {
	c.mu.Lock()
	i := c.mu.info
	c.mu.Unlock()
	s.cfg.Load().Events(Event{Kind: kind, HostNQN: cmp.Or(i.HostNQN, c.host), CNTLID: i.CNTLID, QID: i.QID,
		Discovery: i.Discovery, Remote: c.sock.RemoteAddr(), Err: err})
}

// ended is told by a connection that it ends.
func (s *Server) ended(c *conn) {
	kind := EventDisconnected
	s.mu.Lock()
	p := s.mu.conns[c]
	delete(s.mu.conns, c)
	s.mu.stats.Poll.Add(c.sock.Stats().Poll.Ended())
	if !p.live {
		s.mu.handshaking--
		s.mu.stats.Failed++
		kind = EventFailed
	} else if !c.orderly() {
		s.mu.stats.Dropped++
		kind = EventDropped
	}
	s.mu.Unlock()
	s.event(c, kind, c.closeErr)
}

// tick looks after silent connections once a second, and after keep-alive
// when it is due, until stop is closed.
func (s *Server) tick(stop chan struct{}) {
	defer s.wg.Done()
	pulse := time.NewTicker(time.Second)
	defer pulse.Stop()
	alive := time.NewTimer(0)
	defer alive.Stop()
	due := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-pulse.C:
			s.pulse()
		case <-alive.C:
			due = s.keepAlive(due, time.Now())
			alive.Reset(time.Until(due))
		}
	}
}

// lateness is how late a tick may be on a machine that has time for this process.
const lateness = 250 * time.Millisecond

// keepAlive is the tick that was due then, and gives when the next one is. When it
// is late, the process stood still (a machine was paused, or had no time), and
// what its hosts sent meanwhile is not read yet: they are not silent.
func (s *Server) keepAlive(due, now time.Time) (next time.Time) {
	if late := now.Sub(due); late > lateness {
		s.subsystem.StoodStill(late)
	}
	next = s.subsystem.Tick(now)
	if soonest := now.Add(10 * time.Millisecond); next.Before(soonest) {
		next = soonest
	}
	return next
}

// quietSeconds is after how long a connection gives up its large input buffer.
const quietSeconds = 5

// pulse is one tick.
func (s *Server) pulse() {
	var stalled []*conn
	s.mu.Lock()
	for c, p := range s.mu.conns {
		if n := c.in.Received(); n != p.received {
			p.received, p.idle = n, 0
			continue
		}
		p.idle++
		switch {
		case !p.live: // has deadlines of its own
		case p.idle >= s.limits.StallSeconds && (c.in.Within() || c.owed.Load() > 0):
			stalled = append(stalled, c)
		case p.idle >= quietSeconds:
			c.in.Trim()
		}
	}
	s.mu.Unlock()
	for _, c := range stalled {
		c.drop(errStalled)
	}
}

// Drop ends the queues for which match says so, for example those of a host
// that is no longer allowed, and returns how many.
func (s *Server) Drop(why error, match func(SessionInfo) bool) int {
	s.mu.Lock()
	var list []*conn
	for c := range s.mu.conns {
		if i, ok := c.session(); ok && match(i) {
			list = append(list, c)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.drop(why)
	}
	return len(list)
}

// session describes the connection's queue, if it has one.
func (c *conn) session() (SessionInfo, bool) {
	c.mu.Lock()
	i, ok := c.mu.info, c.mu.connected
	c.mu.Unlock()
	if !ok {
		return i, false
	}
	i.Stats = Stats{Parked: c.counts.parked.Load(), Digests: c.counts.digests.Load(),
		InFlight: c.pool.InUse(), HeldBytes: c.heldBytes.Load()}
	i.Socket = c.sock.Stats()
	return i, true
}

// Sessions lists the connected queues by host, controller and queue.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	out := make([]SessionInfo, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		if i, ok := c.session(); ok {
			out = append(out, i)
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b SessionInfo) int {
		return cmp.Or(cmp.Compare(a.HostNQN, b.HostNQN), cmp.Compare(a.CNTLID, b.CNTLID), cmp.Compare(a.QID, b.QID))
	})
	return out
}

// Stats returns the server's counters.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.mu.stats
	st.Connections, st.Handshaking = len(s.mu.conns), s.mu.handshaking
	for c := range s.mu.conns {
		st.Poll.Add(c.sock.Stats().Poll)
	}
	return st
}

// Shutdown stops accepting, has the subsystem leave (nvme.Subsystem.Leave), and closes every
// connection: NVMe/TCP has no way to ask a host to. Those of a controller are closed when no I/O
// command of it is under way, or when ctx is done. It returns when every buffer is back, with
// ctx's error if commands, or what was to be sent, were cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.mu.draining
	s.mu.draining = true
	if first {
		close(s.mu.stop)
	}
	for ln := range s.mu.listeners {
		_ = ln.Close()
	}
	conns := make([]*conn, 0, len(s.mu.conns))
	for c := range s.mu.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	if first {
		s.subsystem.Leave()
	}
	err := endAssociations(ctx, conns)
	s.wg.Wait()
	return err
}
