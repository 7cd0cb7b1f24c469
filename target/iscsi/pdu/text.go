package pdu

// TextRequest carries keys of an initiator in the full-feature phase
// (RFC 7143 §11.10).
type TextRequest struct {
	Immediate bool
	Final     bool
	Continue  bool
	LUN       uint64
	ITT       uint32
	TTT       uint32 // of the response it goes on from, else NoTag
	CmdSN     uint32
	ExpStatSN uint32
	DataLen   int
}

// Decode reads the PDU in b.
func (t *TextRequest) Decode(b []byte) (int, error) {
	if err := check(b, OpText); err != nil {
		return 0, err
	}
	t.Immediate = b[0]&immediate != 0
	t.Final = b[1]&finalFlag != 0
	t.Continue = b[1]&contFlag != 0
	t.DataLen = dataLen(b)
	t.LUN = lun(b)
	t.ITT = u32(b, 16)
	t.TTT = u32(b, 20)
	t.CmdSN = u32(b, 24)
	t.ExpStatSN = u32(b, 28)
	if (t.Final && t.Continue) || b[4] != 0 {
		return 0, ErrField
	}
	return BHSLen, nil
}

// Append encodes the PDU.
func (t *TextRequest) Append(dst []byte) []byte {
	dst, h := grow(dst, OpText)
	h[0] |= flag(t.Immediate, immediate)
	h[1] = flag(t.Final, finalFlag) | flag(t.Continue, contFlag)
	putDataLen(h, t.DataLen)
	put64(h, 8, t.LUN)
	put32(h, 16, t.ITT)
	put32(h, 20, t.TTT)
	put32(h, 24, t.CmdSN)
	put32(h, 28, t.ExpStatSN)
	return dst
}

// TextResponse carries the target's keys (RFC 7143 §11.11).
type TextResponse struct {
	Final    bool
	Continue bool
	LUN      uint64
	ITT      uint32
	TTT      uint32 // NoTag on the last response
	StatSN   uint32
	ExpCmdSN uint32
	MaxCmdSN uint32
	DataLen  int
}

// Decode reads the PDU in b.
func (t *TextResponse) Decode(b []byte) (int, error) {
	if err := check(b, OpTextResp); err != nil {
		return 0, err
	}
	t.Final = b[1]&finalFlag != 0
	t.Continue = b[1]&contFlag != 0
	t.DataLen = dataLen(b)
	t.LUN = lun(b)
	t.ITT = u32(b, 16)
	t.TTT = u32(b, 20)
	t.StatSN = u32(b, 24)
	t.ExpCmdSN = u32(b, 28)
	t.MaxCmdSN = u32(b, 32)
	return BHSLen, nil
}

// Append encodes the PDU.
func (t *TextResponse) Append(dst []byte) []byte {
	dst, h := grow(dst, OpTextResp)
	h[1] = flag(t.Final, finalFlag) | flag(t.Continue, contFlag)
	putDataLen(h, t.DataLen)
	put64(h, 8, t.LUN)
	put32(h, 16, t.ITT)
	put32(h, 20, t.TTT)
	put32(h, 24, t.StatSN)
	put32(h, 28, t.ExpCmdSN)
	put32(h, 32, t.MaxCmdSN)
	return dst
}
