package pdu

import "encoding/binary"

// Data is the header of an H2CData or C2HData (§3.6.2.7, §3.6.2.8).
type Data struct {
	FromHost bool // H2CData
	Last     bool
	Success  bool   // C2HData: completes the command
	CID      uint16 // CCCID: the command's identifier
	TTag     uint16 // H2CData: the transfer tag of the R2T
	Offset   uint32 // DATAO: from the start of the command's data, in bytes
	Length   uint32 // DATAL: in bytes
}

// Decode reads the header. It returns a *FatalError when the flags or the
// offset can't be; whether Length is that of the frame is the caller's to check.
func (p *Data) Decode(b []byte) (int, error) {
	if len(b) < DataLen {
		return 0, errShort
	}
	flags := Flags(b[1])
	p.FromHost = Type(b[0]) == TypeH2CData
	p.Last = flags&FlagLast != 0
	p.Success = flags&FlagSuccess != 0 && !p.FromHost
	p.CID = binary.LittleEndian.Uint16(b[8:])
	p.TTag = binary.LittleEndian.Uint16(b[10:])
	p.Offset = binary.LittleEndian.Uint32(b[12:])
	p.Length = binary.LittleEndian.Uint32(b[16:])
	if p.Success && !p.Last {
		return 0, Fatal(InvalidHeaderField, 1)
	}
	return DataLen, nil
}

// Append writes the header, with digest and padding: the Length bytes of data
// come next.
func (p *Data) Append(dst []byte, l *Layout) []byte {
	t, flags := TypeC2HData, Flags(0)
	if p.FromHost {
		t = TypeH2CData
	}
	if p.Last {
		flags |= FlagLast
	}
	if p.Success {
		flags |= FlagSuccess
	}
	start := len(dst)
	h, pad := l.Plan(t, flags, int(p.Length))
	dst = h.Append(dst)
	dst = binary.LittleEndian.AppendUint16(dst, p.CID)
	dst = binary.LittleEndian.AppendUint16(dst, p.TTag)
	dst = binary.LittleEndian.AppendUint32(dst, p.Offset)
	dst = binary.LittleEndian.AppendUint32(dst, p.Length)
	dst = append(dst, 0, 0, 0, 0)
	return l.Seal(dst, start, pad)
}

// R2T is a Ready to Transfer (§3.6.2.9): the controller asks for data.
type R2T struct {
	CID    uint16
	TTag   uint16
	Offset uint32 // R2TO: from the start of the command's data, in bytes
	Length uint32 // R2TL: in bytes
}

// Decode reads the PDU.
func (p *R2T) Decode(b []byte) (int, error) {
	if len(b) < R2TLen {
		return 0, errShort
	}
	p.CID = binary.LittleEndian.Uint16(b[8:])
	p.TTag = binary.LittleEndian.Uint16(b[10:])
	p.Offset = binary.LittleEndian.Uint32(b[12:])
	p.Length = binary.LittleEndian.Uint32(b[16:])
	return R2TLen, nil
}

// Append writes the PDU with its digest.
func (p *R2T) Append(dst []byte, l *Layout) []byte {
	start := len(dst)
	h, _ := l.Plan(TypeR2T, 0, 0)
	dst = h.Append(dst)
	dst = binary.LittleEndian.AppendUint16(dst, p.CID)
	dst = binary.LittleEndian.AppendUint16(dst, p.TTag)
	dst = binary.LittleEndian.AppendUint32(dst, p.Offset)
	dst = binary.LittleEndian.AppendUint32(dst, p.Length)
	dst = append(dst, 0, 0, 0, 0)
	return l.Seal(dst, start, 0)
}
