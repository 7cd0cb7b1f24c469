package pdu

// NOPOut is an initiator's ping, or its answer to the target's (RFC 7143
// §11.18).
type NOPOut struct {
	Immediate bool
	LUN       uint64
	ITT       uint32 // NoTag when no answer is wanted
	TTT       uint32 // of the NOP-In it answers, else NoTag
	CmdSN     uint32
	ExpStatSN uint32
	DataLen   int
}

// Decode reads the PDU in b.
func (n *NOPOut) Decode(b []byte) (int, error) {
	if err := check(b, OpNOPOut); err != nil {
		return 0, err
	}
	n.Immediate = b[0]&immediate != 0
	n.DataLen = dataLen(b)
	n.LUN = lun(b)
	n.ITT = u32(b, 16)
	n.TTT = u32(b, 20)
	n.CmdSN = u32(b, 24)
	n.ExpStatSN = u32(b, 28)
	return BHSLen, nil
}

// Append encodes the PDU.
func (n *NOPOut) Append(dst []byte) []byte {
	dst, h := grow(dst, OpNOPOut)
	h[0] |= flag(n.Immediate, immediate)
	h[1] = finalFlag
	putDataLen(h, n.DataLen)
	put64(h, 8, n.LUN)
	put32(h, 16, n.ITT)
	put32(h, 20, n.TTT)
	put32(h, 24, n.CmdSN)
	put32(h, 28, n.ExpStatSN)
	return dst
}

// NOPIn is a target's ping, or its answer to the initiator's (RFC 7143
// §11.19).
type NOPIn struct {
	LUN      uint64
	ITT      uint32 // of the NOP-Out it answers, else NoTag
	TTT      uint32 // NoTag when no answer is wanted
	StatSN   uint32 // the next one when ITT is NoTag, then not used up
	ExpCmdSN uint32
	MaxCmdSN uint32
	DataLen  int
}

// Decode reads the PDU in b.
func (n *NOPIn) Decode(b []byte) (int, error) {
	if err := check(b, OpNOPIn); err != nil {
		return 0, err
	}
	n.DataLen = dataLen(b)
	n.LUN = lun(b)
	n.ITT = u32(b, 16)
	n.TTT = u32(b, 20)
	n.StatSN = u32(b, 24)
	n.ExpCmdSN = u32(b, 28)
	n.MaxCmdSN = u32(b, 32)
	return BHSLen, nil
}

// Append encodes the PDU.
func (n *NOPIn) Append(dst []byte) []byte {
	dst, h := grow(dst, OpNOPIn)
	h[1] = finalFlag
	putDataLen(h, n.DataLen)
	put64(h, 8, n.LUN)
	put32(h, 16, n.ITT)
	put32(h, 20, n.TTT)
	put32(h, 24, n.StatSN)
	put32(h, 28, n.ExpCmdSN)
	put32(h, 32, n.MaxCmdSN)
	return dst
}
