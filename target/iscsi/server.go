package iscsi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev/arena"
	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
	"blockd.dev/target/sockio"
)

// ErrClosed is what Serve returns after Shutdown.
var ErrClosed = errors.New("iscsi: server is shut down")

var (
	errReinstated = errors.New("iscsi: replaced by a new login of the same initiator port")
	errShutdown   = errors.New("iscsi: the target shut down")
	errColdReset  = errors.New("iscsi: target cold reset")
)

// Server serves one iSCSI target on any number of portals. All methods may be
// called from any goroutine.
type Server struct {
	cfg        atomic.Pointer[Config]
	limits     Limits
	arena      *arena.Arena
	target     *scsi.Target
	challenges auth.Challenges
	wg         sync.WaitGroup // connections and the ticker

	// establishing is held while a login becomes a session, so that of two
	// logins of one initiator port the later one wins. It is taken before mu.
	establishing sync.Mutex

	mu struct {
		sync.Mutex
		listeners map[net.Listener]uint16 // portal group tags
		conns     map[*conn]*pulse
		byTSIH    map[uint16]*session
		byKey     map[sessionKey]*session
		lastTSIH  uint16
		logins    int // connections without a session
		draining  bool
		stop      chan struct{} // ends the ticker and Serve
		changed   chan struct{} // closed and replaced when a connection ends
		stats     ServerStats
	}
}

// pulse is how the ticker follows one connection.
type pulse struct {
	received uint64
	sent     uint64 // bytes
	idle     int    // seconds
}

// New makes a server. It fails when cfg is not valid.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s := &Server{limits: cfg.Limits, arena: cfg.Arena, target: cfg.Target}
	s.cfg.Store(&cfg)
	s.mu.listeners = map[net.Listener]uint16{}
	s.mu.conns = map[*conn]*pulse{}
	s.mu.byTSIH = map[uint16]*session{}
	s.mu.byKey = map[sessionKey]*session{}
	s.mu.stop = make(chan struct{})
	s.mu.changed = make(chan struct{})
	s.wg.Add(1)
	go s.tick(s.mu.stop)
	return s, nil
}

// Configure replaces the target's name and alias, the auth directory, the
// redirect, the portals and the event function for logins from now on.
// Target, Arena and Limits must stay as they are and may be left zero.
// Sessions go on; see Drop.
func (s *Server) Configure(cfg Config) error {
	if cfg.Target == nil {
		cfg.Target = s.target
	}
	if cfg.Arena == nil {
		cfg.Arena = s.arena
	}
	if cfg.Target != s.target || cfg.Arena != s.arena {
		return errors.New("iscsi: Target and Arena can't be changed: make a new server")
	}
	cfg.Limits = s.limits
	if err := cfg.validate(); err != nil {
		return err
	}
	s.cfg.Store(&cfg)
	return nil
}

// Serve accepts connections on ln, a portal of group tpgt, until Shutdown or
// a failure of ln. It closes ln and returns ErrClosed after Shutdown.
func (s *Server) Serve(ln net.Listener, tpgt uint16) error {
	defer ln.Close()
	s.mu.Lock()
	if s.mu.draining {
		s.mu.Unlock()
		return ErrClosed
	}
	s.mu.listeners[ln] = tpgt
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.mu.listeners, ln)
		s.mu.Unlock()
	}()
	if err := sockio.Accept(ln, s.mu.stop, func(tcp *net.TCPConn) { s.accept(tcp, tpgt) }); err != nil {
		return fmt.Errorf("iscsi: portal %v: %w", ln.Addr(), err)
	}
	return ErrClosed
}

// accept starts serving one connection, or closes it when too many others
// have not logged in.
func (s *Server) accept(tcp *net.TCPConn, tpgt uint16) {
	c, err := newConn(s, tcp, tpgt)
	if err != nil {
		_ = tcp.Close()
		return
	}
	s.mu.Lock()
	s.mu.stats.Accepted++
	if s.mu.draining || s.mu.logins >= s.limits.Logins {
		s.mu.stats.Refused++
		s.mu.Unlock()
		_ = tcp.Close()
		return
	}
	s.mu.logins++
	s.mu.conns[c] = &pulse{}
	s.wg.Add(1)
	s.mu.Unlock()

	cfg := s.cfg.Load()
	c.login = newLogin(loginEnv{
		targetName: cfg.TargetName, targetAlias: cfg.Alias, tpgt: tpgt, limits: &s.limits,
		auth: cfg.Auth, challenges: &s.challenges, redirect: cfg.Redirect,
	})
	_ = c.sock.SetReadDeadline(time.Now().Add(time.Duration(s.limits.LoginSeconds) * time.Second))
	go func() {
		defer s.wg.Done()
		c.run()
	}()
}

// establish makes the session for a login that has succeeded, as TSIH and ISID
// ask (§6.3.1): a new one, one that replaces another of the same initiator
// port, or a new connection for one that exists.
func (s *Server) establish(c *conn) (*session, pdu.LoginStatus, error) {
	l := c.login
	n := &session{initiator: l.initiator, alias: l.alias, isid: l.isid, tpgt: c.tpgt,
		discovery: l.discovery, since: time.Now(), conn: c}
	s.establishing.Lock()
	defer s.establishing.Unlock()
	if status, err := s.register(n, l.tsih); err != nil {
		return nil, status, err
	}
	if !n.discovery {
		// Attach ends the nexus that the old session had; what waits for its
		// tasks may call back into the server, so mu is not held.
		n.nexus = s.target.Attach(scsi.NexusID{InitiatorName: n.initiator, ISID: n.isid, TargetPort: n.tpgt})
		c.nexus = n.nexus
	}
	return n, 0, nil
}

// register enters a session into the tables in place of the one that it
// replaces. tsih is the handle that the initiator asked for.
func (s *Server) register(n *session, tsih uint16) (pdu.LoginStatus, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.draining {
		return pdu.LoginUnavailable, errShutdown
	}
	old := s.mu.byKey[n.key()]
	if tsih != 0 {
		if old == nil || old.tsih != tsih {
			return pdu.LoginNoSession, fmt.Errorf("no session %d of this initiator port", tsih)
		}
		if old.conn.cid != n.conn.cid {
			return pdu.LoginTooManyConnections, errors.New("a session has one connection")
		}
		n.tsih = tsih
	}
	if old == nil && len(s.mu.byKey) >= s.limits.Sessions {
		return pdu.LoginOutOfResources, fmt.Errorf("all %d sessions are in use", s.limits.Sessions)
	}
	if n.tsih == 0 {
		n.tsih = s.freeTSIHLocked()
	}
	if old != nil {
		delete(s.mu.byTSIH, old.tsih)
		old.conn.drop(errReinstated)
	}
	s.mu.byTSIH[n.tsih] = n
	s.mu.byKey[n.key()] = n
	s.mu.logins--
	s.mu.stats.Logins++
	n.conn.sess = n
	return pdu.LoginSuccess, nil
}

// freeTSIHLocked finds a handle that no session has; there are more handles
// than sessions. 0 is not one.
func (s *Server) freeTSIHLocked() uint16 {
	for {
		s.mu.lastTSIH++
		if _, used := s.mu.byTSIH[s.mu.lastTSIH]; !used && s.mu.lastTSIH != 0 {
			return s.mu.lastTSIH
		}
	}
}

// ended is told by a connection that it ends.
func (s *Server) ended(c *conn) {
	n := c.sess
	ev := Event{Remote: c.sock.RemoteAddr(), Err: c.closeErr}
	s.mu.Lock()
	delete(s.mu.conns, c)
	s.mu.stats.Poll.Add(c.sock.Stats().Poll.Ended())
	if n == nil {
		s.mu.logins--
		s.mu.stats.Failed++
		ev.Kind = EventLoginFailed
		if c.login != nil {
			ev.Initiator = c.login.initiator
		}
	} else {
		if s.mu.byKey[n.key()] == n {
			delete(s.mu.byKey, n.key())
		}
		if s.mu.byTSIH[n.tsih] == n {
			delete(s.mu.byTSIH, n.tsih)
		}
		ev.Initiator, ev.TSIH, ev.Discovery = n.initiator, n.tsih, n.discovery
		switch {
		case c.closeErr == nil:
			ev.Kind = EventLogout
		case errors.Is(c.closeErr, errReinstated):
			ev.Kind = EventReinstated
		default:
			ev.Kind = EventDropped
			s.mu.stats.Dropped++
		}
	}
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
	s.mu.Unlock()
	if n != nil && n.nexus != nil {
		n.nexus.Detach()
	}
	s.cfg.Load().Events(ev)
}

// reset follows a target reset that the device server has done. A cold reset
// ends every session, behind its response (§11.5.1).
func (s *Server) reset(by *conn, cold bool) {
	s.cfg.Load().Events(Event{Kind: EventReset, Initiator: by.sess.initiator, TSIH: by.sess.tsih, Remote: by.sock.RemoteAddr()})
	if !cold {
		return
	}
	s.mu.Lock()
	all := make([]*conn, 0, len(s.mu.byKey))
	for _, n := range s.mu.byKey {
		if !n.discovery {
			all = append(all, n.conn)
		}
	}
	_, here := s.mu.conns[by]
	if here {
		s.wg.Add(1) // while by is in conns its goroutine is counted too
	}
	s.mu.Unlock()
	for _, c := range all {
		if c != by {
			c.drop(errColdReset)
		}
	}
	if !here {
		return
	}
	go func() {
		defer s.wg.Done()
		_ = by.sock.Drain() // ends when the response is out or the connection is
		by.drop(errColdReset)
	}()
}

// tick looks after silent connections once a second until stop is closed.
func (s *Server) tick(stop chan struct{}) {
	defer s.wg.Done()
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			s.pulse()
		}
	}
}

// quietSeconds is after how long a connection gives up its large input buffer.
const quietSeconds = 5

// pulse is one tick.
func (s *Server) pulse() {
	type due struct {
		c    *conn
		idle int
	}
	var list []due
	s.mu.Lock()
	for c, p := range s.mu.conns {
		if c.sess == nil {
			continue // the login has a deadline of its own
		}
		// A slow reader that takes what is queued is not a dead one.
		n, sent := c.in.Received(), c.sock.Stats().BytesOut
		alive := n != p.received || (sent != p.sent && c.sock.QueuedBytes() > 0)
		p.received, p.sent = n, sent
		if alive {
			p.idle = 0
			continue
		}
		if p.idle++; p.idle >= quietSeconds {
			c.in.Trim()
		}
		list = append(list, due{c, p.idle})
	}
	s.mu.Unlock()
	for _, d := range list {
		d.c.keepAlive(d.idle)
	}
}

// Drop ends the sessions for which match says so, for example those of a host
// that is no longer allowed, and returns how many.
func (s *Server) Drop(why error, match func(SessionInfo) bool) int {
	s.mu.Lock()
	var list []*conn
	for _, n := range s.mu.byKey {
		if match(n.infoLocked()) {
			list = append(list, n.conn)
		}
	}
	s.mu.Unlock()
	for _, c := range list {
		c.drop(why)
	}
	return len(list)
}

// Sessions lists the sessions by initiator, then TSIH.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]SessionInfo, 0, len(s.mu.byKey))
	for _, n := range s.mu.byKey {
		out = append(out, n.infoLocked())
	}
	slices.SortFunc(out, func(a, b SessionInfo) int {
		return cmp.Or(cmp.Compare(a.Initiator, b.Initiator), cmp.Compare(a.TSIH, b.TSIH))
	})
	return out
}

// Stats returns the server's counters.
func (s *Server) Stats() ServerStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.mu.stats
	st.Sessions, st.LogingIn = len(s.mu.byKey), s.mu.logins
	for c := range s.mu.conns {
		st.Poll.Add(c.sock.Stats().Poll)
	}
	return st
}

// Shutdown stops accepting and asks every initiator to log out. In the last quarter of the time
// until ctx's deadline, or after 3 s if it has none, no command of those that have not is begun,
// and their connections are closed when none is under way, or ctx is done. It returns when every
// buffer is back, with ctx's error if commands were cut off.
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
	patience := 3 * time.Second
	if at, ok := ctx.Deadline(); ok {
		patience = max(0, time.Until(at)/4*3)
	}
	var ask, cut []*conn
	for c := range s.mu.conns {
		if c.sess != nil && !c.sess.discovery {
			ask = append(ask, c)
		} else {
			cut = append(cut, c)
		}
	}
	s.mu.Unlock()
	for _, c := range cut {
		c.drop(errShutdown)
	}
	for _, c := range ask {
		c.requestLogout(int(patience / time.Second))
	}
	err := s.waitLogouts(ctx, patience)
	if err == nil {
		err = s.dropHalted(ctx)
	}
	for _, c := range s.connections() {
		c.drop(errShutdown)
	}
	s.wg.Wait()
	return err
}

// waitLogouts blocks until no connection is left, the patience is over or ctx is done.
func (s *Server) waitLogouts(ctx context.Context, patience time.Duration) error {
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		s.mu.Lock()
		n, changed := len(s.mu.conns), s.mu.changed
		s.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-over.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dropHalted has no more commands begin, and closes each connection when none of it is under
// way: an initiator sends what has no answer by another path then, and goes on to newer writes.
// Who has logged out waits for that by itself.
func (s *Server) dropHalted(ctx context.Context) error {
	t := time.NewTicker(5 * time.Millisecond)
	defer t.Stop()
	for {
		left := 0
		for _, c := range s.connections() {
			if c.halted() {
				c.drop(errShutdown)
			} else {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// connections are those of this moment.
func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.mu.conns))
}

func sortPortals(p []Portal) {
	slices.SortFunc(p, func(a, b Portal) int {
		return cmp.Or(cmp.Compare(a.TPGT, b.TPGT), cmp.Compare(a.Address, b.Address))
	})
}
