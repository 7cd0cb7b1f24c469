package iscsi

import (
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
)

// Functions and responses that the transport deals with itself (§11.5.1,
// §11.6.1).
const (
	tmfTaskReassign           = 8
	tmfNoReassign       uint8 = 4
	tmfNotSupported     uint8 = 5
	tmfNotAuthorized    uint8 = 6
	tmfDone             uint8 = 0
	tmfTaskDoesNotExist uint8 = 1
)

// handleTMF starts a task management function. Its response goes out when the
// device server has finished with the tasks.
func (c *conn) handleTMF(hdr []byte) error {
	var q pdu.TMFRequest
	if _, err := q.Decode(hdr); err != nil {
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	c.mu.Lock()
	crowded := c.mu.tmfs >= tmfMax
	if !crowded {
		c.mu.tmfs++
		c.mu.stats.TMFs++
	}
	c.mu.Unlock()
	switch fn := scsi.TMF(q.Function); {
	case c.nexus == nil || q.ITT == pdu.NoTag:
		c.finishTMF(q.ITT, tmfNotSupported)
	case crowded:
		c.reject(pdu.RejectTooManyImmediate, hdr)
	case q.Function == tmfTaskReassign:
		c.finishTMF(q.ITT, tmfNoReassign)
	case fn == scsi.TMFTargetColdReset && c.srv.shared(c):
		c.finishTMF(q.ITT, tmfNotAuthorized)
	case fn == scsi.TMFAbortTask:
		return c.abortTask(&q)
	case fn >= scsi.TMFAbortTaskSet && fn <= scsi.TMFTargetColdReset:
		c.abortMany(&q)
	default:
		c.finishTMF(q.ITT, tmfNotSupported)
	}
	return nil
}

// shared reports whether other initiators have sessions too. A cold reset ends
// every session with the target (§11.5.1), so that only an initiator that has the
// target for itself is authorized to it: no host may cut off another's. (A warm
// reset is about units that the host sees, see package scsi.)
func (s *Server) shared(by *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.mu.byKey {
		if !n.discovery && n.initiator != by.sess.initiator {
			return true
		}
	}
	return false
}

// abortTask finds the task: still without its data, running, or not received
// at all.
func (c *conn) abortTask(q *pdu.TMFRequest) error {
	c.mu.Lock()
	cmd := c.mu.tasks.find(q.RefITT)
	if cmd != nil && cmd.req.LUN != q.LUN {
		cmd = nil
	}
	if cmd == nil {
		// §11.5.5: one that is missing in front of this request counts as
		// received and aborted.
		ahead := c.mu.win.where(q.RefCmdSN) != placeOutside && int32(q.CmdSN-q.RefCmdSN) > 0
		if ahead {
			c.mu.win.skip(q.RefCmdSN)
		}
		c.mu.Unlock()
		if !ahead {
			c.finishTMF(q.ITT, tmfTaskDoesNotExist)
			return nil
		}
		c.finishTMF(q.ITT, tmfDone)
		return c.replay() // what waited for that number alone
	}
	if !cmd.executing {
		c.removeLocked(cmd)
		c.mu.Unlock()
		c.giveUp(cmd)
		c.finishTMF(q.ITT, tmfDone)
		return nil
	}
	cmd.refs.Add(1)
	c.mu.Unlock()
	itt := q.ITT
	c.nexus.TaskManagement(scsi.TMFAbortTask, q.LUN, &cmd.task, func(r scsi.TMFResult) {
		c.finishTMF(itt, uint8(r))
		cmd.unref()
	})
	return nil
}

// removeLocked takes a command that gets no response out of the table.
func (c *conn) removeLocked(cmd *command) {
	if c.mu.tasks.remove(cmd) && !cmd.req.Immediate {
		c.mu.win.open()
	}
}

// abortMany performs the functions that are about all tasks of a logical unit
// or of the target. Those that wait for data end here, the others in the
// device server.
func (c *conn) abortMany(q *pdu.TMFRequest) {
	fn := scsi.TMF(q.Function)
	all := fn == scsi.TMFTargetWarmReset || fn == scsi.TMFTargetColdReset
	if fn != scsi.TMFClearACA {
		var waiting []*command
		c.mu.Lock()
		c.mu.tasks.each(func(cmd *command) {
			if !cmd.executing && (all || cmd.req.LUN == q.LUN) {
				waiting = append(waiting, cmd)
			}
		})
		for _, cmd := range waiting {
			c.removeLocked(cmd)
		}
		c.mu.Unlock()
		for _, cmd := range waiting {
			c.giveUp(cmd)
		}
	}
	itt := q.ITT
	c.nexus.TaskManagement(fn, q.LUN, nil, func(r scsi.TMFResult) {
		c.finishTMF(itt, uint8(r))
		if all && r == scsi.TMFComplete {
			c.srv.reset(c, fn == scsi.TMFTargetColdReset)
		}
	})
}

// finishTMF sends the response. Any goroutine may call it.
func (c *conn) finishTMF(itt uint32, response uint8) {
	c.mu.Lock()
	if c.mu.tmfs > 0 {
		c.mu.tmfs--
	}
	r := pdu.TMFResponse{Response: response, ITT: itt}
	r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(true)
	c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), nil)
	c.mu.Unlock()
	c.sock.Flush()
}
