package pdu

import "encoding/binary"

// TermReq is a Host to Controller or Controller to Host Terminate Connection
// Request (§3.6.2.3, §3.6.2.4): the sender's last words.
type TermReq struct {
	FromHost bool
	FatalError
	// Culprit is the header of the PDU in error, at most TermDataMax bytes. It
	// aliases the buffer that was decoded.
	Culprit []byte
}

// Decode reads a TermReq that is all of b.
func (p *TermReq) Decode(b []byte) (int, error) {
	var h Header
	if _, err := h.Decode(b); err != nil {
		return 0, err
	}
	if len(b) < TermLen || uint64(h.PLen) > uint64(len(b)) || h.PLen < TermLen {
		return 0, errShort
	}
	p.FromHost = h.Type == TypeH2CTermReq
	p.Status = FES(binary.LittleEndian.Uint16(b[8:]))
	p.Info = binary.LittleEndian.Uint32(b[10:])
	p.Culprit = b[TermLen:h.PLen]
	return int(h.PLen), nil
}

// Append writes the PDU.
func (p *TermReq) Append(dst []byte) []byte {
	culprit := p.Culprit[:min(len(p.Culprit), TermDataMax)]
	h := Header{Type: TypeC2HTermReq, HLen: TermLen, PLen: uint32(TermLen + len(culprit))}
	if p.FromHost {
		h.Type = TypeH2CTermReq
	}
	dst = h.Append(dst)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(p.Status))
	dst = binary.LittleEndian.AppendUint32(dst, p.Info)
	dst = append(dst, zeros[:TermLen-14]...)
	return append(dst, culprit...)
}
