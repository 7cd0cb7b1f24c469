package iscsi

import (
	"errors"

	"blockd.dev/target/iscsi/pdu"
)

// errNotLogin is why a connection ends that doesn't begin with a login.
var errNotLogin = errors.New("iscsi: the first PDU is not a login request")

// handleLogin takes one PDU of the login phase. Anything but a login request
// ends the connection (§6.3).
func (c *conn) handleLogin(h *pdu.Header, hdr, data []byte) error {
	if h.Opcode != pdu.OpLogin {
		return errNotLogin
	}
	var req pdu.LoginRequest
	if _, err := req.Decode(hdr); err != nil {
		req.ITT = h.ITT
		r := c.login.failed(&req, pdu.LoginInitiatorError, "malformed request")
		c.sendLogin(&req, r, 0)
		return r.err
	}
	if !c.login.started {
		c.mu.Lock()
		c.mu.statSN = req.ExpStatSN
		c.mu.win.init(req.CmdSN, c.lim.QueueDepth)
		c.mu.Unlock()
		c.cid = req.CID
	}
	r := c.login.step(&req, data)
	if !r.done {
		c.sendLogin(&req, r, req.TSIH)
		return r.err
	}
	s, status, err := c.srv.establish(c)
	if err != nil {
		r = c.login.failed(&req, status, err.Error())
		c.sendLogin(&req, r, req.TSIH)
		return r.err
	}
	// The last response still goes without digests: c.login is set.
	c.sendLogin(&req, r, s.tsih)
	c.begins(s)
	return nil
}

// sendLogin queues a login response.
func (c *conn) sendLogin(req *pdu.LoginRequest, r loginReply, tsih uint16) {
	c.mu.Lock()
	r.resp.TSIH = tsih
	r.resp.StatSN, r.resp.ExpCmdSN, r.resp.MaxCmdSN = c.snLocked(true)
	c.sendLocked(r.resp.Append(make([]byte, 0, pdu.BHSLen)), r.text)
	c.mu.Unlock()
	c.sock.Flush()
}

// begins puts the connection into the full-feature phase.
func (c *conn) begins(s *session) {
	l := c.login
	c.par = l.params
	c.mu.Lock()
	c.mu.par = l.params
	c.mu.pingAt = 0
	c.login = nil
	c.mu.Unlock()
	c.in.Live()
	c.srv.cfg.Load().Events(Event{Kind: EventLogin, Initiator: s.initiator, TSIH: s.tsih,
		Discovery: s.discovery, Remote: c.sock.RemoteAddr()})
}

// end cleans up behind the reader: the session goes, its tasks are aborted,
// and every buffer comes back before end returns.
func (c *conn) end() {
	c.gone.Store(true)
	c.mu.Lock()
	c.mu.dead = true
	var waiting []*command
	c.mu.tasks.each(func(cmd *command) {
		if !cmd.executing {
			waiting = append(waiting, cmd)
		}
	})
	for _, cmd := range waiting {
		c.mu.tasks.remove(cmd)
	}
	c.mu.Unlock()
	_ = c.sock.Close()
	for _, cmd := range waiting {
		c.giveUp(cmd)
	}
	c.srv.ended(c)
	c.pool.Wait()
}

// giveUp recycles a command that waits for data and is no longer in the table.
func (c *conn) giveUp(cmd *command) {
	if cmd.prepared {
		c.nexus.Cancel(&cmd.task)
		cmd.prepared = false
	}
	cmd.unref()
}
