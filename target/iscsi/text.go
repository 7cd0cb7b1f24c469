package iscsi

import (
	"net"
	"slices"
	"strings"

	"blockd.dev/target/iscsi/pdu"
)

// textMax is the most text that one negotiation in the full-feature phase may
// carry, in bytes.
const textMax = 16 << 10

// textState is the one text negotiation that a connection may have at a time
// (§11.10).
type textState struct {
	itt  uint32
	ttt  uint32
	in   []byte // request text so far
	out  []byte // response text not yet sent
	busy bool
}

// handleText takes a text request: a whole one, a piece of one, or the demand
// for the next piece of our answer.
func (c *conn) handleText(hdr, data []byte) error {
	var q pdu.TextRequest
	if _, err := q.Decode(hdr); err != nil {
		c.reject(pdu.RejectInvalidField, hdr)
		return nil
	}
	t := &c.text
	switch {
	case q.TTT == pdu.NoTag: // a new one, which ends an old one
		*t = textState{itt: q.ITT, ttt: t.ttt, busy: true}
	case !t.busy || q.TTT != t.ttt || q.ITT != t.itt:
		c.reject(pdu.RejectNegotiationReset, hdr)
		return nil
	}
	if len(t.in)+len(data) > textMax {
		t.busy = false
		c.reject(pdu.RejectNegotiationReset, hdr)
		return nil
	}
	t.in = append(t.in, data...)
	if q.Continue {
		c.sendText(&q, nil, false, false)
		return nil
	}
	if len(t.in) > 0 {
		if !c.answerText() {
			t.busy = false
			c.reject(pdu.RejectProtocol, hdr)
			return nil
		}
		t.in = t.in[:0]
	}
	n := min(len(t.out), c.par.MaxSendData)
	piece, rest := t.out[:n], t.out[n:]
	t.out = rest
	c.sendText(&q, piece, len(rest) == 0 && q.Final, len(rest) > 0)
	return nil
}

// sendText queues a response. One that isn't final carries a tag by which the
// initiator goes on.
func (c *conn) sendText(q *pdu.TextRequest, data []byte, final, more bool) {
	t := &c.text
	r := pdu.TextResponse{Final: final, Continue: more, LUN: q.LUN, ITT: q.ITT, TTT: pdu.NoTag, DataLen: len(data)}
	if final {
		t.busy = false
	} else {
		t.ttt = (t.ttt + 1) & 0xffff
		r.TTT = t.ttt
	}
	c.mu.Lock()
	r.StatSN, r.ExpCmdSN, r.MaxCmdSN = c.snLocked(true)
	c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), data)
	c.mu.Unlock()
	c.sock.Flush()
}

// answerText answers the keys of a request; false means that it breaks rules.
func (c *conn) answerText() bool {
	t := &c.text
	rest := t.in
	for range loginKeysMax {
		k, v, next, err := pdu.NextPair(rest)
		if err != nil {
			return false
		}
		if k == nil {
			return true
		}
		rest = next
		switch name, value := string(k), string(v); name {
		case "SendTargets":
			c.sendTargets(value)
		case "MaxRecvDataSegmentLength":
			p := c.par
			if a := negotiate(&p, c.lim, c.sess.discovery, name, value); a != "" {
				t.out = pdu.AppendPair(t.out, name, a)
				continue
			}
			c.par = p
			c.mu.Lock()
			c.mu.par = p
			c.mu.Unlock()
		case "InitiatorAlias", "TargetAlias":
			// Declared by whoever has one; no answer is due.
		default:
			if _, known := keys[name]; known || loginOnly[name] {
				return false // keys of the login phase
			}
			t.out = pdu.AppendPair(t.out, name, "NotUnderstood")
		}
	}
	return false
}

// loginOnly are keys outside of the negotiation table that belong to the login
// phase.
var loginOnly = map[string]bool{
	"AuthMethod": true, "CHAP_A": true, "CHAP_I": true, "CHAP_C": true, "CHAP_N": true, "CHAP_R": true,
	"InitiatorName": true, "TargetName": true, "SessionType": true,
}

// sendTargets answers SendTargets (RFC 7143 appendix C): All, the name of a
// target, or nothing for the session's own. All is answered in normal
// sessions too, as initiators that probe for it expect.
func (c *conn) sendTargets(value string) {
	t := &c.text
	cfg := c.srv.cfg.Load()
	switch {
	case value == "All":
	case value == "" && !c.sess.discovery:
	default:
		name, err := NormalizeName(value)
		if err != nil {
			t.out = pdu.AppendPair(t.out, "SendTargets", "Reject")
			return
		}
		if name != cfg.TargetName {
			return // not a target of ours: an empty list
		}
	}
	if _, err := cfg.Auth.Host(c.sess.initiator); err != nil {
		return // a target that this host may not use is not shown
	}
	t.out = pdu.AppendPair(t.out, "TargetName", cfg.TargetName)
	for _, p := range c.srv.portals(c.sock.LocalAddr()) {
		t.out = pdu.AppendPair(t.out, "TargetAddress", p.String())
	}
}

// portals are the addresses to announce to a host that came to local.
func (s *Server) portals(local net.Addr) []Portal {
	cfg := s.cfg.Load()
	if cfg.Portals != nil {
		return slices.Concat(cfg.Portals, cfg.Elsewhere)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Portal
	for ln, tpgt := range s.mu.listeners {
		host, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			if host, _, err = net.SplitHostPort(local.String()); err != nil {
				continue
			}
		}
		host, _, _ = strings.Cut(host, "%") // zones mean nothing to others
		out = append(out, Portal{Address: net.JoinHostPort(host, port), TPGT: tpgt})
	}
	sortPortals(out)
	return append(out, cfg.Elsewhere...)
}
