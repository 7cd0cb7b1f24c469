package iscsi

import (
	"blockd.dev/target/iscsi/pdu"
)

// handleLogout closes the session or the connection, which is the same with
// one connection (§11.14). The response says that nothing of it is under way any more
// (§11.15): an initiator sends what has no answer by another path then, and goes on to newer
// writes, which a task that still ran could undo.
func (c *conn) handleLogout(hdr []byte) error {
	var q pdu.LogoutRequest
	if _, err := q.Decode(hdr); err != nil {
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	resp := uint8(pdu.LogoutDone)
	switch {
	case q.Reason == pdu.LogoutSession:
	case q.Reason == pdu.LogoutConnection && q.CID == c.cid:
	case q.Reason == pdu.LogoutConnection:
		resp = pdu.LogoutNoCID
	case q.Reason == pdu.LogoutRecovery:
		resp = pdu.LogoutNoRecovery
	default:
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	if resp == pdu.LogoutDone {
		c.gone.Store(true)
		c.mu.Lock()
		leave := c.mu.leave
		c.mu.Unlock()
		if c.nexus != nil && !leave {
			c.nexus.Detach() // tasks end without response, and none waits for the limits of its volume
		}
		c.halt()
	}
	c.mu.Lock()
	r := pdu.LogoutResponse{Response: resp, ITT: q.ITT}
	r.Time2Wait, r.Time2Retain = uint16(c.mu.par.Time2Wait), uint16(c.mu.par.Time2Retain)
	r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(true)
	c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), nil)
	if resp == pdu.LogoutDone {
		c.mu.dead = true // nothing follows the response
		c.done = true
	}
	c.mu.Unlock()
	return nil
}

// halt has no more commands begin, and waits for the end of those that have. For the reader
// alone, whose turn ends: what it has left to that would not go on.
func (c *conn) halt() {
	c.sock.Uncork()
	idle := make(chan struct{})
	c.mu.Lock()
	c.mu.halted = true
	if c.underWayLocked() == 0 {
		close(idle)
	} else {
		c.mu.idle = idle
	}
	c.mu.Unlock()
	<-idle
}

// underWayLocked counts the commands that the device server has.
func (c *conn) underWayLocked() (n int) {
	c.mu.tasks.each(func(cmd *command) {
		if cmd.executing {
			n++
		}
	})
	return n
}

// halted has no more commands begin, and reports whether none is under way, nor anything
// queued for the initiator.
func (c *conn) halted() bool {
	c.mu.Lock()
	c.mu.halted = true
	n := c.underWayLocked()
	c.mu.Unlock()
	return n == 0 && c.sock.QueuedBytes() == 0
}

// requestLogout asks the initiator to log out within the given seconds, after
// which the connection is dropped (§11.9.1, event 1).
func (c *conn) requestLogout(seconds int) {
	c.mu.Lock()
	if !c.mu.leave {
		c.mu.leave = true
		a := pdu.Async{Event: pdu.AsyncLogout, Parameter3: uint16(min(seconds, 65535))}
		a.StatSN, a.ExpCmdSN, a.MaxCmdSN = c.snLocked(true)
		c.sendLocked(a.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), nil)
	}
	c.mu.Unlock()
	c.sock.Flush()
}
