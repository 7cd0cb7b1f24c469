package pdu

// TMFRequest asks for a task management function (RFC 7143 §11.5).
type TMFRequest struct {
	Immediate bool
	Function  uint8
	LUN       uint64
	ITT       uint32
	RefITT    uint32 // the task to abort, else NoTag
	CmdSN     uint32
	ExpStatSN uint32
	RefCmdSN  uint32 // CmdSN of the task to abort
	ExpDataSN uint32
}

// Decode reads the PDU in b.
func (t *TMFRequest) Decode(b []byte) (int, error) {
	if err := check(b, OpTMFRequest); err != nil {
		return 0, err
	}
	if dataLen(b) != 0 || b[4] != 0 {
		return 0, ErrField
	}
	t.Immediate = b[0]&immediate != 0
	t.Function = b[1] & 0x7f
	t.LUN = lun(b)
	t.ITT = u32(b, 16)
	t.RefITT = u32(b, 20)
	t.CmdSN = u32(b, 24)
	t.ExpStatSN = u32(b, 28)
	t.RefCmdSN = u32(b, 32)
	t.ExpDataSN = u32(b, 36)
	return BHSLen, nil
}

// Append encodes the PDU.
func (t *TMFRequest) Append(dst []byte) []byte {
	dst, h := grow(dst, OpTMFRequest)
	h[0] |= flag(t.Immediate, immediate)
	h[1] = finalFlag | t.Function&0x7f
	put64(h, 8, t.LUN)
	put32(h, 16, t.ITT)
	put32(h, 20, t.RefITT)
	put32(h, 24, t.CmdSN)
	put32(h, 28, t.ExpStatSN)
	put32(h, 32, t.RefCmdSN)
	put32(h, 36, t.ExpDataSN)
	return dst
}

// TMFResponse tells how a task management function ended (RFC 7143 §11.6).
type TMFResponse struct {
	Response uint8
	ITT      uint32
	StatSN   uint32
	ExpCmdSN uint32
	MaxCmdSN uint32
}

// Decode reads the PDU in b.
func (t *TMFResponse) Decode(b []byte) (int, error) {
	if err := check(b, OpTMFResponse); err != nil {
		return 0, err
	}
	t.Response = b[2]
	t.ITT = u32(b, 16)
	t.StatSN = u32(b, 24)
	t.ExpCmdSN = u32(b, 28)
	t.MaxCmdSN = u32(b, 32)
	return BHSLen, nil
}

// Append encodes the PDU.
func (t *TMFResponse) Append(dst []byte) []byte {
	dst, h := grow(dst, OpTMFResponse)
	h[1] = finalFlag
	h[2] = t.Response
	put32(h, 16, t.ITT)
	put32(h, 24, t.StatSN)
	put32(h, 28, t.ExpCmdSN)
	put32(h, 32, t.MaxCmdSN)
	return dst
}
