package pdu

// AsyncEvent is what an Async tells (RFC 7143 §11.9.1).
type AsyncEvent uint8

// The asynchronous events.
const (
	AsyncSCSI           AsyncEvent = 0 // the data is sense data
	AsyncLogout         AsyncEvent = 1 // log out within Parameter3 seconds
	AsyncDropConnection AsyncEvent = 2
	AsyncDropSession    AsyncEvent = 3
	AsyncNegotiate      AsyncEvent = 4
)

// Async is a message that answers nothing (RFC 7143 §11.9).
type Async struct {
	LUN                                uint64
	StatSN                             uint32
	ExpCmdSN                           uint32
	MaxCmdSN                           uint32
	Event                              AsyncEvent
	VCode                              uint8
	Parameter1, Parameter2, Parameter3 uint16
	DataLen                            int
}

// Decode reads the PDU in b.
func (a *Async) Decode(b []byte) (int, error) {
	if err := check(b, OpAsync); err != nil {
		return 0, err
	}
	a.DataLen = dataLen(b)
	a.LUN = lun(b)
	a.StatSN = u32(b, 24)
	a.ExpCmdSN = u32(b, 28)
	a.MaxCmdSN = u32(b, 32)
	a.Event, a.VCode = AsyncEvent(b[36]), b[37]
	a.Parameter1, a.Parameter2, a.Parameter3 = u16(b, 38), u16(b, 40), u16(b, 42)
	return BHSLen, nil
}

// Append encodes the PDU.
func (a *Async) Append(dst []byte) []byte {
	dst, h := grow(dst, OpAsync)
	h[1] = finalFlag
	putDataLen(h, a.DataLen)
	put64(h, 8, a.LUN)
	put32(h, 16, NoTag)
	put32(h, 24, a.StatSN)
	put32(h, 28, a.ExpCmdSN)
	put32(h, 32, a.MaxCmdSN)
	h[36], h[37] = byte(a.Event), a.VCode
	put16(h, 38, a.Parameter1)
	put16(h, 40, a.Parameter2)
	put16(h, 42, a.Parameter3)
	return dst
}
