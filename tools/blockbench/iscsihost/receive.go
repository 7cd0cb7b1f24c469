package iscsihost

import (
	"encoding/binary"
	"errors"
	"fmt"

	"blockd.dev/target/iscsi/pdu"
)

// errProtocol is what a target did that RFC 7143 does not allow. At error
// recovery level 0 it ends the session.
var errProtocol = errors.New("iscsihost: protocol error")

// directMin is from where on the rest of a data segment is read straight into
// the request's buffers.
const directMin = 4 << 10

// read is the reader's goroutine. The socket is corked while PDUs that have
// arrived are served, so that what is sent meanwhile goes out in one write.
func (s *Session) read() {
	s.sock.Cork()
	for {
		if err := s.next(); err != nil {
			s.die(err)
			return
		}
	}
}

func hungUp(err error) error { return fmt.Errorf("iscsihost: the connection ended: %w", err) }

// fill reads until in[r:w] has n bytes, at most inputLen.
func (s *Session) fill(n int) error {
	if s.w-s.r >= n {
		return nil
	}
	if s.r > 0 {
		s.w = copy(s.in, s.in[s.r:s.w])
		s.r = 0
	}
	s.sock.Uncork()
	for s.w < n {
		m, err := s.sock.Read(s.in[s.w:])
		if err != nil {
			return hungUp(err)
		}
		s.w += m
	}
	s.sock.Cork()
	return nil
}

// next serves one PDU.
func (s *Session) next() error {
	n := pdu.BHSLen
	if s.par.headerDigest {
		n += pdu.DigestLen
	}
	if err := s.fill(n); err != nil {
		return err
	}
	b := s.in[s.r : s.r+n]
	var h pdu.Header
	if _, err := h.Decode(b); err != nil {
		return err
	}
	if h.AHSLen != 0 || h.DataLen > s.par.maxRecv {
		return fmt.Errorf("%w: %v with an additional header of %d bytes and %d bytes of data", errProtocol, h.Opcode, h.AHSLen, h.DataLen)
	}
	if s.par.headerDigest && pdu.Digest(0, b[:pdu.BHSLen]) != pdu.DigestAt(b[pdu.BHSLen:]) {
		return fmt.Errorf("%w: header digest", errProtocol)
	}
	s.received.Add(1)
	s.r += n
	if h.Opcode == pdu.OpDataIn {
		return s.dataIn(b)
	}
	var hdr [pdu.BHSLen]byte // fill may move the buffer
	copy(hdr[:], b)
	data, err := s.segment(h.DataLen)
	if err != nil {
		return err
	}
	return s.serve(h.Opcode, hdr[:], data)
}

// segment reads a data segment that is not a Data-In's and checks its digest.
// It is valid until the next fill.
func (s *Session) segment(n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	padded := n + pdu.Pad(n)
	all := padded
	if s.par.dataDigest {
		all += pdu.DigestLen
	}
	if all > inputLen {
		return nil, fmt.Errorf("%w: %d bytes of data where little is expected", errProtocol, n)
	}
	if err := s.fill(all); err != nil {
		return nil, err
	}
	b := s.in[s.r : s.r+all]
	s.r += all
	if s.par.dataDigest && pdu.Digest(0, b[:padded]) != pdu.DigestAt(b[padded:]) {
		return nil, fmt.Errorf("%w: data digest", errProtocol)
	}
	return b[:n], nil
}

// serve handles a PDU other than Data-In.
func (s *Session) serve(op pdu.Opcode, hdr, data []byte) error {
	switch op {
	case pdu.OpSCSIResponse:
		return s.response(hdr, data)
	case pdu.OpR2T:
		return s.readyToTransfer(hdr)
	case pdu.OpNOPIn:
		return s.ping(hdr)
	case pdu.OpAsync:
		return s.async(hdr, data)
	case pdu.OpLogoutResp:
		s.why.CompareAndSwap(nil, &errClosed)
		return errClosed
	case pdu.OpReject:
		var p pdu.Reject
		if _, err := p.Decode(hdr); err != nil {
			return err
		}
		return fmt.Errorf("%w: the target rejects a PDU with reason %#x", errProtocol, uint8(p.Reason))
	}
	return fmt.Errorf("%w: unexpected %v", errProtocol, op)
}

// lookup finds the command of a tag, and takes note of the window.
func (s *Session) lookup(itt, maxCmdSN uint32, statSN uint32, hasStat bool) (*command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.windowLocked(maxCmdSN)
	if hasStat {
		s.mu.expStatSN = statSN + 1
	}
	i := itt & (slotsMax - 1)
	if int(i) < len(s.mu.slots) {
		if c := s.mu.slots[i]; c.active && !c.answered && c.itt == itt {
			return c, nil
		}
	}
	return nil, fmt.Errorf("%w: an answer to the unknown task %#x", errProtocol, itt)
}

// windowLocked moves the window forward and sends what waited for it.
func (s *Session) windowLocked(maxCmdSN uint32) {
	if int32(maxCmdSN-s.mu.maxCmdSN) > 0 {
		s.mu.maxCmdSN = maxCmdSN
		s.pumpLocked()
	}
}

// dataIn reads the data of a Data-In to where it belongs.
func (s *Session) dataIn(b []byte) error {
	var p pdu.DataIn
	if _, err := p.Decode(b); err != nil {
		return err
	}
	c, err := s.lookup(p.ITT, p.MaxCmdSN, p.StatSN, p.HasStatus)
	if err != nil {
		return err
	}
	if c.out || int64(p.Offset)+int64(p.DataLen) > int64(c.expected) {
		return fmt.Errorf("%w: Data-In of %d bytes at %d for a command that expects %d", errProtocol, p.DataLen, p.Offset, c.expected)
	}
	if err := s.place(c, int(p.Offset), p.DataLen); err != nil {
		return err
	}
	c.got += p.DataLen
	if p.HasStatus {
		c.answered, c.status, c.residual = true, p.Status, p.Residual
		c.release()
	}
	return nil
}

// place reads n bytes of data, and what follows them, into c's buffers at
// offset.
func (s *Session) place(c *command, offset, n int) error {
	for at, left := offset, n; left > 0; {
		iov := cut(s.iov[:0], c.data, at, left)
		if s.r < s.w { // what is in the buffer already
			for _, seg := range iov {
				m := copy(seg, s.in[s.r:s.w])
				s.r, at, left = s.r+m, at+m, left-m
				if s.r == s.w {
					break
				}
			}
			continue
		}
		if left < directMin {
			if err := s.fill(min(left, directMin)); err != nil {
				return err
			}
			continue
		}
		m, err := s.direct(iov, left)
		if err != nil {
			return err
		}
		at, left = at+m, left-m
	}
	return s.trailer(c, offset, n)
}

// direct reads from the socket into iov, which holds at most left bytes, and
// what comes behind into the empty input buffer. It returns how much went into
// iov.
func (s *Session) direct(iov [][]byte, left int) (int, error) {
	s.r, s.w = 0, 0
	if len(iov) >= cap(s.iov) {
		iov = iov[:cap(s.iov)]
	}
	room := 0
	for _, seg := range iov {
		room += len(seg)
	}
	if room == left && len(iov) < cap(s.iov) {
		iov = append(iov, s.in)
	}
	s.sock.Uncork()
	m, err := s.sock.Readv(iov)
	clear(s.iov[:])
	if err != nil {
		return 0, hungUp(err)
	}
	s.sock.Cork()
	if m > room {
		s.w = m - room
		m = room
	}
	return m, nil
}

// trailer takes the padding and the digest behind data that is in place.
func (s *Session) trailer(c *command, offset, n int) error {
	k := pdu.Pad(n)
	if s.par.dataDigest && n > 0 {
		k += pdu.DigestLen
	}
	if k == 0 {
		return nil
	}
	if err := s.fill(k); err != nil {
		return err
	}
	b := s.in[s.r : s.r+k]
	s.r += k
	if !s.par.dataDigest {
		return nil
	}
	var crc uint32
	for _, seg := range cut(s.iov[:0], c.data, offset, n) {
		crc = pdu.Digest(crc, seg)
	}
	clear(s.iov[:])
	if pdu.Digest(crc, b[:pdu.Pad(n)]) != pdu.DigestAt(b[pdu.Pad(n):]) {
		return fmt.Errorf("%w: data digest", errProtocol)
	}
	return nil
}

// response ends a command.
func (s *Session) response(hdr, data []byte) error {
	var p pdu.SCSIResponse
	if _, err := p.Decode(hdr); err != nil {
		return err
	}
	c, err := s.lookup(p.ITT, p.MaxCmdSN, p.StatSN, true)
	if err != nil {
		return err
	}
	c.answered, c.status, c.residual = true, p.Status, p.Residual
	if p.Response != pdu.ResponseCompleted {
		c.failed = fmt.Errorf("iscsihost: the target failed with response %#x", p.Response)
	}
	if len(data) >= 2 {
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		c.sense = parseSense(data[2 : 2+n])
	}
	c.release()
	return nil
}

// readyToTransfer sends the data that an R2T asks for.
func (s *Session) readyToTransfer(hdr []byte) error {
	var p pdu.R2T
	if _, err := p.Decode(hdr); err != nil {
		return err
	}
	c, err := s.lookup(p.ITT, p.MaxCmdSN, 0, false)
	if err != nil {
		return err
	}
	if !c.out || int64(p.Offset)+int64(p.Length) > int64(c.expected) || int(p.Length) > s.par.maxBurst {
		return fmt.Errorf("%w: R2T for %d bytes at %d of a command with %d", errProtocol, p.Length, p.Offset, c.expected)
	}
	s.mu.Lock()
	s.dataOutLocked(c, p.TTT, int(p.Offset), int(p.Length))
	s.mu.Unlock()
	return nil
}

// ping answers the target where it wants an answer.
func (s *Session) ping(hdr []byte) error {
	var p pdu.NOPIn
	if _, err := p.Decode(hdr); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.windowLocked(p.MaxCmdSN)
	if p.ITT != pdu.NoTag {
		return fmt.Errorf("%w: an answer to a ping that was not sent", errProtocol)
	}
	if p.TTT == pdu.NoTag {
		return nil
	}
	q := pdu.NOPOut{Immediate: true, LUN: p.LUN, ITT: pdu.NoTag, TTT: p.TTT, CmdSN: s.mu.cmdSN, ExpStatSN: s.mu.expStatSN}
	s.mu.head = s.seal(q.Append(s.mu.head[:0]))
	s.sock.Append(s.mu.head, nil, nil, nil)
	return nil
}

// async handles what the target says unasked.
func (s *Session) async(hdr, data []byte) error {
	var p pdu.Async
	if _, err := p.Decode(hdr); err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.expStatSN = p.StatSN + 1
	s.windowLocked(p.MaxCmdSN)
	s.mu.Unlock()
	switch p.Event {
	case pdu.AsyncSCSI:
		if len(data) >= 2 {
			s.attention(parseSense(data[2:]))
		}
	case pdu.AsyncLogout:
		s.leave()
	case pdu.AsyncDropConnection, pdu.AsyncDropSession:
		return fmt.Errorf("iscsihost: the target drops the session (event %d)", p.Event)
	}
	return nil
}
