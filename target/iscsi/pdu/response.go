package pdu

// Response codes of a SCSI Response (RFC 7143 §11.4.3).
const (
	ResponseCompleted     = 0x00
	ResponseTargetFailure = 0x01
)

// Residual says by how much the data moved differs from what the initiator
// expected (RFC 7143 §11.4.5).
type Residual struct {
	Overflow, Underflow bool
	Count               uint32 // bytes
}

func (r Residual) flags() byte { return flag(r.Overflow, 4) | flag(r.Underflow, 2) }

func (r *Residual) decode(flags byte, count uint32) {
	*r = Residual{Overflow: flags&4 != 0, Underflow: flags&2 != 0, Count: count}
}

// SCSIResponse ends a command (RFC 7143 §11.4). Its data is the sense data
// behind a two-byte length.
type SCSIResponse struct {
	Response  uint8
	Status    uint8
	Residual  Residual
	ITT       uint32
	StatSN    uint32
	ExpCmdSN  uint32
	MaxCmdSN  uint32
	ExpDataSN uint32 // how many R2T and Data-In PDUs were sent for the command
	DataLen   int
}

// Decode reads the response in b.
func (r *SCSIResponse) Decode(b []byte) (int, error) {
	if err := check(b, OpSCSIResponse); err != nil {
		return 0, err
	}
	r.Response, r.Status = b[2], b[3]
	r.DataLen = dataLen(b)
	r.ITT = u32(b, 16)
	r.StatSN = u32(b, 24)
	r.ExpCmdSN = u32(b, 28)
	r.MaxCmdSN = u32(b, 32)
	r.ExpDataSN = u32(b, 36)
	r.Residual.decode(b[1], u32(b, 44))
	return BHSLen, nil
}

// Append encodes the response.
func (r *SCSIResponse) Append(dst []byte) []byte {
	dst, h := grow(dst, OpSCSIResponse)
	h[1] = finalFlag | r.Residual.flags()
	h[2], h[3] = r.Response, r.Status
	putDataLen(h, r.DataLen)
	put32(h, 16, r.ITT)
	put32(h, 24, r.StatSN)
	put32(h, 28, r.ExpCmdSN)
	put32(h, 32, r.MaxCmdSN)
	put32(h, 36, r.ExpDataSN)
	put32(h, 44, r.Residual.Count)
	return dst
}
