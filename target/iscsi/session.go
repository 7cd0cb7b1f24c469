package iscsi

import (
	"time"

	"blockd.dev/target/scsi"
)

// session is one session with its one connection. The fields are set before
// it is registered; conn is guarded by Server.mu.
type session struct {
	initiator string
	alias     string
	isid      [6]byte
	tsih      uint16
	tpgt      uint16
	discovery bool
	since     time.Time
	nexus     *scsi.Nexus // nil in discovery sessions
	conn      *conn
}

// sessionKey is what makes two sessions the same (§4.4.3.1): a login with the
// key of an existing session reinstates it.
type sessionKey struct {
	initiator string
	isid      [6]byte
	tpgt      uint16
	discovery bool
}

func (s *session) key() sessionKey {
	return sessionKey{s.initiator, s.isid, s.tpgt, s.discovery}
}

// infoLocked describes the session; the caller holds Server.mu.
func (s *session) infoLocked() SessionInfo {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.mu.stats
	st.InFlight = c.mu.tasks.n
	st.HeldBytes = c.heldBytes.Load()
	return SessionInfo{
		Initiator: s.initiator, Alias: s.alias, ISID: s.isid, TSIH: s.tsih, CID: c.cid, TPGT: s.tpgt,
		Discovery: s.discovery, Remote: c.sock.RemoteAddr(), Local: c.sock.LocalAddr(), Since: s.since,
		Params: c.mu.par, Stats: st, Socket: c.sock.Stats(),
	}
}
