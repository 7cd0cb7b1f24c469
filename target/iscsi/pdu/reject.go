package pdu

// RejectReason says why a PDU was refused (RFC 7143 §11.17.1).
type RejectReason uint8

// The reject reasons.
const (
	RejectDataDigest       RejectReason = 0x02
	RejectSNACK            RejectReason = 0x03
	RejectProtocol         RejectReason = 0x04
	RejectNotSupported     RejectReason = 0x05
	RejectTooManyImmediate RejectReason = 0x06
	RejectTaskInProgress   RejectReason = 0x07
	RejectInvalidDataACK   RejectReason = 0x08
	RejectInvalidField     RejectReason = 0x09
	RejectLongOperation    RejectReason = 0x0a
	RejectNegotiationReset RejectReason = 0x0b
	RejectWaitingForLogout RejectReason = 0x0c
)

// Reject refuses a PDU; its data is the header of that PDU (RFC 7143 §11.17).
type Reject struct {
	Reason   RejectReason
	StatSN   uint32
	ExpCmdSN uint32
	MaxCmdSN uint32
	DataSN   uint32
	DataLen  int
}

// Decode reads the PDU in b.
func (r *Reject) Decode(b []byte) (int, error) {
	if err := check(b, OpReject); err != nil {
		return 0, err
	}
	r.Reason = RejectReason(b[2])
	r.DataLen = dataLen(b)
	r.StatSN = u32(b, 24)
	r.ExpCmdSN = u32(b, 28)
	r.MaxCmdSN = u32(b, 32)
	r.DataSN = u32(b, 36)
	return BHSLen, nil
}

// Append encodes the PDU.
func (r *Reject) Append(dst []byte) []byte {
	dst, h := grow(dst, OpReject)
	h[1] = finalFlag
	h[2] = byte(r.Reason)
	putDataLen(h, r.DataLen)
	put32(h, 16, NoTag)
	put32(h, 24, r.StatSN)
	put32(h, 28, r.ExpCmdSN)
	put32(h, 32, r.MaxCmdSN)
	put32(h, 36, r.DataSN)
	return dst
}
