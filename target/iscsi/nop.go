package iscsi

import (
	"errors"

	"blockd.dev/target/iscsi/pdu"
)

// errSilent is why a connection is dropped whose peer does not answer.
var errSilent = errors.New("iscsi: the initiator did not answer a NOP-In in time")

// pingTag is the target transfer tag of our pings; one is out at a time.
const pingTag = 0x01

// handleNOP answers a ping, or takes the answer to ours (§11.18).
func (c *conn) handleNOP(hdr, data []byte) error {
	var q pdu.NOPOut
	if _, err := q.Decode(hdr); err != nil {
		return err
	}
	if q.ITT == pdu.NoTag {
		if !q.Immediate {
			c.reject(pdu.RejectProtocol, hdr)
		}
		return nil // that it came is what was asked
	}
	if q.TTT != pdu.NoTag {
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	c.mu.Lock()
	data = data[:min(len(data), c.mu.par.MaxSendData)]
	r := pdu.NOPIn{LUN: q.LUN, ITT: q.ITT, TTT: pdu.NoTag, DataLen: len(data)}
	r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(true)
	c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), data)
	c.mu.Unlock()
	c.sock.Flush()
	return nil
}

// keepAlive is called once a second for each connection of a session. idle is
// for how many seconds nothing came. It sends a ping or drops the connection.
func (c *conn) keepAlive(idle int) {
	l := c.lim
	switch {
	case l.NOPSeconds < 0:
	case idle >= l.NOPSeconds+l.NOPTimeoutSeconds:
		c.drop(errSilent)
	case idle == l.NOPSeconds:
		c.mu.Lock()
		r := pdu.NOPIn{ITT: pdu.NoTag, TTT: pingTag}
		r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(false)
		c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), nil)
		c.mu.Unlock()
		c.sock.Flush()
	}
}
