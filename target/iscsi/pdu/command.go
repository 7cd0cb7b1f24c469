package pdu

// AHS types (RFC 7143 §11.2.2.1).
const (
	ahsExtendedCDB = 1
	ahsBidiRead    = 2
)

// CDBMax is the longest CDB a command carries: 260 bytes, of which all but 16
// are in an additional header segment.
const CDBMax = 260

// SCSICommand carries a CDB to a logical unit (RFC 7143 §11.3).
type SCSICommand struct {
	Immediate   bool
	Final       bool // no unsolicited Data-Out follows
	Read, Write bool
	Attr        uint8 // task attribute, §11.3.1.2
	LUN         uint64
	ITT         uint32
	Expected    uint32 // expected data transfer length in bytes
	CmdSN       uint32
	ExpStatSN   uint32
	BidiRead    uint32 // expected read length of a bidirectional command in bytes
	DataLen     int    // immediate data
	AHSLen      int
	CDBLen      int          // 16, or more with an extended CDB
	CDB         [CDBMax]byte // CDBLen bytes are valid
}

// Decode reads the command in b, which holds the header and its AHS.
func (c *SCSICommand) Decode(b []byte) (int, error) {
	if err := check(b, OpSCSICommand); err != nil {
		return 0, err
	}
	c.Immediate = b[0]&immediate != 0
	c.Final = b[1]&finalFlag != 0
	c.Read = b[1]&0x40 != 0
	c.Write = b[1]&0x20 != 0
	c.Attr = b[1] & 7
	c.AHSLen = int(b[4]) * 4
	c.DataLen = dataLen(b)
	c.LUN = lun(b)
	c.ITT = u32(b, 16)
	c.Expected = u32(b, 20)
	c.CmdSN = u32(b, 24)
	c.ExpStatSN = u32(b, 28)
	c.BidiRead = 0
	c.CDBLen = cdbLen
	copy(c.CDB[:], b[32:BHSLen])
	if len(b) < BHSLen+c.AHSLen {
		return 0, ErrShort
	}
	if c.Attr > 4 || (!c.Final && !c.Write) {
		return 0, ErrField
	}
	if err := c.decodeAHS(b[BHSLen : BHSLen+c.AHSLen]); err != nil {
		return 0, err
	}
	return BHSLen + c.AHSLen, nil
}

// decodeAHS walks the additional header segments. Each has a length of its
// own, not counting padding and the first three bytes.
func (c *SCSICommand) decodeAHS(b []byte) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return ErrShort
		}
		n := 3 + int(u16(b, 0))
		if n > len(b) {
			return ErrField
		}
		switch b[2] & 0x3f {
		case ahsExtendedCDB:
			cdb := b[3:n] // one reserved byte, then the rest of the CDB
			if len(cdb) < 2 || c.CDBLen != cdbLen || len(cdb)-1 > CDBMax-cdbLen {
				return ErrField
			}
			c.CDBLen += copy(c.CDB[cdbLen:], cdb[1:])
		case ahsBidiRead:
			if n != 8 {
				return ErrField
			}
			c.BidiRead = u32(b, 4)
		default:
			return ErrField
		}
		b = b[min(len(b), n+Pad(n)):]
	}
	return nil
}

// Append encodes the command; AHSLen is computed from CDBLen and BidiRead.
func (c *SCSICommand) Append(dst []byte) []byte {
	start := len(dst)
	dst, h := grow(dst, OpSCSICommand)
	h[0] |= flag(c.Immediate, immediate)
	h[1] = flag(c.Final, finalFlag) | flag(c.Read, 0x40) | flag(c.Write, 0x20) | c.Attr&7
	putDataLen(h, c.DataLen)
	put64(h, 8, c.LUN)
	put32(h, 16, c.ITT)
	put32(h, 20, c.Expected)
	put32(h, 24, c.CmdSN)
	put32(h, 28, c.ExpStatSN)
	copy(h[32:], c.CDB[:min(max(c.CDBLen, 0), cdbLen)])
	if c.CDBLen > cdbLen {
		more := c.CDB[cdbLen:c.CDBLen]
		dst = append(dst, byte((len(more)+1)>>8), byte(len(more)+1), ahsExtendedCDB, 0)
		dst = append(dst, more...)
		dst = append(dst, zero[:Pad(len(more))]...)
	}
	if c.BidiRead != 0 {
		dst = append(dst, 0, 5, ahsBidiRead, 0, 0, 0, 0, 0)
		put32(dst, len(dst)-4, c.BidiRead)
	}
	dst[start+4] = byte((len(dst) - start - BHSLen) / 4)
	return dst
}
