package pdu

import "encoding/binary"

// IC is an Initialize Connection Request or Response (§3.6.2.1, §3.6.2.2).
type IC struct {
	Resp bool   // ICResp
	PFV  uint16 // PDU format version, 0
	// PDA is what the sender wants the offset of data that it receives to be a
	// multiple of: HPDA or CPDA, 0's based, in dwords, at most 31.
	PDA          uint8
	HeaderDigest bool
	DataDigest   bool
	// Limit is MAXR2T of an ICReq, 0's based: how many R2Ts of one command may
	// be outstanding; or MAXH2CDATA of an ICResp: the most data of an H2CData
	// in bytes, at least 4096.
	Limit uint32
}

// PDAMax is the largest PDA.
const PDAMax = 31

const _ = uint(AlignMax - (PDAMax+1)*4) // data of any PDA fits behind AlignMax

// Align is PDA in bytes.
func (p *IC) Align() int { return (int(p.PDA) + 1) * 4 }

// Decode reads an ICReq or ICResp. It returns a *FatalError for values that
// can't be.
func (p *IC) Decode(b []byte) (int, error) {
	if len(b) < ICLen {
		return 0, errShort
	}
	p.Resp = Type(b[0]) == TypeICResp
	p.PFV = binary.LittleEndian.Uint16(b[8:])
	p.PDA = b[10]
	p.HeaderDigest = b[11]&1 != 0
	p.DataDigest = b[11]&2 != 0
	p.Limit = binary.LittleEndian.Uint32(b[12:])
	switch {
	case p.PFV != 0:
		return 0, Fatal(UnsupportedParameter, 8)
	case p.PDA > PDAMax:
		return 0, Fatal(InvalidHeaderField, 10)
	case b[11]&^3 != 0:
		return 0, Fatal(UnsupportedParameter, 11)
	case p.Resp && (p.Limit < 4096 || p.Limit%4 != 0):
		return 0, Fatal(InvalidHeaderField, 12)
	}
	return ICLen, nil
}

// Append writes the PDU.
func (p *IC) Append(dst []byte) []byte {
	start := len(dst)
	h := Header{Type: TypeICReq, HLen: ICLen, PLen: ICLen}
	if p.Resp {
		h.Type = TypeICResp
	}
	dst = h.Append(dst)
	dst = binary.LittleEndian.AppendUint16(dst, p.PFV)
	var digests byte
	if p.HeaderDigest {
		digests |= 1
	}
	if p.DataDigest {
		digests |= 2
	}
	dst = append(dst, p.PDA, digests)
	dst = binary.LittleEndian.AppendUint32(dst, p.Limit)
	for len(dst)-start < ICLen {
		dst = append(dst, 0)
	}
	return dst
}
