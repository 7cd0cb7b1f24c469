package pdu

// Reasons of a LogoutRequest (RFC 7143 §11.14.1).
const (
	LogoutSession    = 0
	LogoutConnection = 1
	LogoutRecovery   = 2
)

// Responses of a LogoutResponse (RFC 7143 §11.15.1).
const (
	LogoutDone        = 0
	LogoutNoCID       = 1
	LogoutNoRecovery  = 2
	LogoutCleanupFail = 3
)

// LogoutRequest asks to close a connection or the session (RFC 7143 §11.14).
type LogoutRequest struct {
	Immediate bool
	Reason    uint8
	ITT       uint32
	CID       uint16
	CmdSN     uint32
	ExpStatSN uint32
}

// Decode reads the PDU in b.
func (l *LogoutRequest) Decode(b []byte) (int, error) {
	if err := check(b, OpLogout); err != nil {
		return 0, err
	}
	if dataLen(b) != 0 || b[4] != 0 {
		return 0, ErrField
	}
	l.Immediate = b[0]&immediate != 0
	l.Reason = b[1] & 0x7f
	l.ITT = u32(b, 16)
	l.CID = u16(b, 20)
	l.CmdSN = u32(b, 24)
	l.ExpStatSN = u32(b, 28)
	return BHSLen, nil
}

// Append encodes the PDU.
func (l *LogoutRequest) Append(dst []byte) []byte {
	dst, h := grow(dst, OpLogout)
	h[0] |= flag(l.Immediate, immediate)
	h[1] = finalFlag | l.Reason&0x7f
	put32(h, 16, l.ITT)
	put16(h, 20, l.CID)
	put32(h, 24, l.CmdSN)
	put32(h, 28, l.ExpStatSN)
	return dst
}

// LogoutResponse answers a LogoutRequest (RFC 7143 §11.15).
type LogoutResponse struct {
	Response    uint8
	ITT         uint32
	StatSN      uint32
	ExpCmdSN    uint32
	MaxCmdSN    uint32
	Time2Wait   uint16 // seconds
	Time2Retain uint16 // seconds
}

// Decode reads the PDU in b.
func (l *LogoutResponse) Decode(b []byte) (int, error) {
	if err := check(b, OpLogoutResp); err != nil {
		return 0, err
	}
	l.Response = b[2]
	l.ITT = u32(b, 16)
	l.StatSN = u32(b, 24)
	l.ExpCmdSN = u32(b, 28)
	l.MaxCmdSN = u32(b, 32)
	l.Time2Wait = u16(b, 40)
	l.Time2Retain = u16(b, 42)
	return BHSLen, nil
}

// Append encodes the PDU.
func (l *LogoutResponse) Append(dst []byte) []byte {
	dst, h := grow(dst, OpLogoutResp)
	h[1] = finalFlag
	h[2] = l.Response
	put32(h, 16, l.ITT)
	put32(h, 24, l.StatSN)
	put32(h, 28, l.ExpCmdSN)
	put32(h, 32, l.MaxCmdSN)
	put16(h, 40, l.Time2Wait)
	put16(h, 42, l.Time2Retain)
	return dst
}
