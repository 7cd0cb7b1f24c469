package pdu

// Stage is a stage of the login phase (RFC 7143 §11.12.3).
type Stage uint8

// The login stages.
const (
	StageSecurity    Stage = 0
	StageOperational Stage = 1
	stageReserved    Stage = 2
	StageFullFeature Stage = 3
)

// LoginStatus is the class and detail of a login response (RFC 7143
// §11.13.5), class in the upper byte.
type LoginStatus uint16

// The login statuses.
const (
	LoginSuccess            LoginStatus = 0x0000
	LoginMovedTemporarily   LoginStatus = 0x0101
	LoginMovedPermanently   LoginStatus = 0x0102
	LoginInitiatorError     LoginStatus = 0x0200
	LoginAuthFailed         LoginStatus = 0x0201
	LoginForbidden          LoginStatus = 0x0202
	LoginNotFound           LoginStatus = 0x0203
	LoginTargetRemoved      LoginStatus = 0x0204
	LoginVersion            LoginStatus = 0x0205
	LoginTooManyConnections LoginStatus = 0x0206
	LoginMissingParameter   LoginStatus = 0x0207
	LoginCantInclude        LoginStatus = 0x0208
	LoginSessionType        LoginStatus = 0x0209
	LoginNoSession          LoginStatus = 0x020a
	LoginInvalidRequest     LoginStatus = 0x020b
	LoginTargetError        LoginStatus = 0x0300
	LoginUnavailable        LoginStatus = 0x0301
	LoginOutOfResources     LoginStatus = 0x0302
)

// LoginRequest is one step of an initiator's login (RFC 7143 §11.12).
type LoginRequest struct {
	Transit    bool // T bit: ready for the next stage
	Continue   bool // C bit: the text goes on in the next request
	CSG, NSG   Stage
	VersionMax uint8
	VersionMin uint8
	ISID       [6]byte
	TSIH       uint16
	ITT        uint32
	CID        uint16
	CmdSN      uint32
	ExpStatSN  uint32
	DataLen    int
}

// Decode reads the PDU in b. Stages that don't exist are ErrField.
func (l *LoginRequest) Decode(b []byte) (int, error) {
	if err := check(b, OpLogin); err != nil {
		return 0, err
	}
	l.Transit = b[1]&finalFlag != 0
	l.Continue = b[1]&contFlag != 0
	l.CSG = Stage(b[1] >> 2 & 3)
	l.NSG = Stage(b[1] & 3)
	l.VersionMax, l.VersionMin = b[2], b[3]
	l.DataLen = dataLen(b)
	copy(l.ISID[:], b[8:])
	l.TSIH = u16(b, 14)
	l.ITT = u32(b, 16)
	l.CID = u16(b, 20)
	l.CmdSN = u32(b, 24)
	l.ExpStatSN = u32(b, 28)
	if b[4] != 0 {
		return 0, ErrField
	}
	if err := stages(l.Transit, l.Continue, l.CSG, l.NSG); err != nil {
		return 0, err
	}
	return BHSLen, nil
}

// stages checks the combination of the flags of byte 1.
func stages(transit, cont bool, csg, nsg Stage) error {
	if csg > StageOperational || (transit && cont) {
		return ErrField
	}
	if transit && (nsg == stageReserved || nsg <= csg) {
		return ErrField
	}
	return nil
}

// Append encodes the PDU. Login requests are always immediate.
func (l *LoginRequest) Append(dst []byte) []byte {
	dst, h := grow(dst, OpLogin)
	h[0] |= immediate
	h[1] = flag(l.Transit, finalFlag) | flag(l.Continue, contFlag) | byte(l.CSG)<<2 | byte(l.NSG)
	h[2], h[3] = l.VersionMax, l.VersionMin
	putDataLen(h, l.DataLen)
	copy(h[8:], l.ISID[:])
	put16(h, 14, l.TSIH)
	put32(h, 16, l.ITT)
	put16(h, 20, l.CID)
	put32(h, 24, l.CmdSN)
	put32(h, 28, l.ExpStatSN)
	return dst
}

// LoginResponse is the target's answer to one LoginRequest (RFC 7143 §11.13).
type LoginResponse struct {
	Transit       bool
	Continue      bool
	CSG, NSG      Stage
	VersionMax    uint8
	VersionActive uint8
	ISID          [6]byte
	TSIH          uint16
	ITT           uint32
	StatSN        uint32
	ExpCmdSN      uint32
	MaxCmdSN      uint32
	Status        LoginStatus
	DataLen       int
}

// Decode reads the PDU in b.
func (l *LoginResponse) Decode(b []byte) (int, error) {
	if err := check(b, OpLoginResp); err != nil {
		return 0, err
	}
	l.Transit = b[1]&finalFlag != 0
	l.Continue = b[1]&contFlag != 0
	l.CSG = Stage(b[1] >> 2 & 3)
	l.NSG = Stage(b[1] & 3)
	l.VersionMax, l.VersionActive = b[2], b[3]
	l.DataLen = dataLen(b)
	copy(l.ISID[:], b[8:])
	l.TSIH = u16(b, 14)
	l.ITT = u32(b, 16)
	l.StatSN = u32(b, 24)
	l.ExpCmdSN = u32(b, 28)
	l.MaxCmdSN = u32(b, 32)
	l.Status = LoginStatus(u16(b, 36))
	return BHSLen, nil
}

// Append encodes the PDU.
func (l *LoginResponse) Append(dst []byte) []byte {
	dst, h := grow(dst, OpLoginResp)
	h[1] = flag(l.Transit, finalFlag) | flag(l.Continue, contFlag) | byte(l.CSG)<<2 | byte(l.NSG)
	h[2], h[3] = l.VersionMax, l.VersionActive
	putDataLen(h, l.DataLen)
	copy(h[8:], l.ISID[:])
	put16(h, 14, l.TSIH)
	put32(h, 16, l.ITT)
	put32(h, 24, l.StatSN)
	put32(h, 28, l.ExpCmdSN)
	put32(h, 32, l.MaxCmdSN)
	put16(h, 36, uint16(l.Status))
	return dst
}
