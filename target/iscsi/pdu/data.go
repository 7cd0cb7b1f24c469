package pdu

// DataOut carries write data (RFC 7143 §11.7).
type DataOut struct {
	Final     bool // last of the sequence that an R2T or the command started
	LUN       uint64
	ITT       uint32
	TTT       uint32 // of the R2T, or NoTag for unsolicited data
	ExpStatSN uint32
	DataSN    uint32 // counts from 0 within the sequence
	Offset    uint32 // of the data within the command's, in bytes
	DataLen   int
}

// Decode reads the PDU in b.
func (d *DataOut) Decode(b []byte) (int, error) {
	if err := check(b, OpDataOut); err != nil {
		return 0, err
	}
	d.Final = b[1]&finalFlag != 0
	d.DataLen = dataLen(b)
	d.LUN = lun(b)
	d.ITT = u32(b, 16)
	d.TTT = u32(b, 20)
	d.ExpStatSN = u32(b, 28)
	d.DataSN = u32(b, 36)
	d.Offset = u32(b, 40)
	return BHSLen, nil
}

// Append encodes the PDU.
func (d *DataOut) Append(dst []byte) []byte {
	dst, h := grow(dst, OpDataOut)
	h[1] = flag(d.Final, finalFlag)
	putDataLen(h, d.DataLen)
	put64(h, 8, d.LUN)
	put32(h, 16, d.ITT)
	put32(h, 20, d.TTT)
	put32(h, 28, d.ExpStatSN)
	put32(h, 36, d.DataSN)
	put32(h, 40, d.Offset)
	return dst
}

// DataIn carries read data, and on the last one of a command that went well
// its status too (RFC 7143 §11.7).
type DataIn struct {
	Final     bool // last of a sequence of MaxBurstLength
	HasStatus bool // S bit: Status, StatSN and Residual are valid
	Status    uint8
	Residual  Residual
	LUN       uint64
	ITT       uint32
	StatSN    uint32
	ExpCmdSN  uint32
	MaxCmdSN  uint32
	DataSN    uint32 // counts from 0 within the command
	Offset    uint32 // bytes
	DataLen   int
}

// Decode reads the PDU in b.
func (d *DataIn) Decode(b []byte) (int, error) {
	if err := check(b, OpDataIn); err != nil {
		return 0, err
	}
	d.Final = b[1]&finalFlag != 0
	d.HasStatus = b[1]&1 != 0
	d.Status, d.StatSN, d.Residual = 0, 0, Residual{}
	d.DataLen = dataLen(b)
	d.LUN = lun(b)
	d.ITT = u32(b, 16)
	d.ExpCmdSN = u32(b, 28)
	d.MaxCmdSN = u32(b, 32)
	d.DataSN = u32(b, 36)
	d.Offset = u32(b, 40)
	if d.HasStatus {
		d.Status, d.StatSN = b[3], u32(b, 24)
		d.Residual.decode(b[1], u32(b, 44))
	}
	if d.HasStatus && !d.Final {
		return 0, ErrField
	}
	return BHSLen, nil
}

// Append encodes the PDU. The target transfer tag is the reserved one, since
// no acknowledgement is asked for at error recovery level 0.
func (d *DataIn) Append(dst []byte) []byte {
	dst, h := grow(dst, OpDataIn)
	h[1] = flag(d.Final, finalFlag)
	if d.HasStatus {
		h[1] |= 1 | d.Residual.flags()
		h[3] = d.Status
		put32(h, 24, d.StatSN)
		put32(h, 44, d.Residual.Count)
	}
	putDataLen(h, d.DataLen)
	put64(h, 8, d.LUN)
	put32(h, 16, d.ITT)
	put32(h, 20, NoTag)
	put32(h, 28, d.ExpCmdSN)
	put32(h, 32, d.MaxCmdSN)
	put32(h, 36, d.DataSN)
	put32(h, 40, d.Offset)
	return dst
}

// R2T asks for write data (RFC 7143 §11.8).
type R2T struct {
	LUN      uint64
	ITT      uint32
	TTT      uint32
	StatSN   uint32 // the next one; an R2T does not use it up
	ExpCmdSN uint32
	MaxCmdSN uint32
	R2TSN    uint32 // counts from 0 within the command
	Offset   uint32 // bytes
	Length   uint32 // bytes, at most MaxBurstLength, never 0
}

// Decode reads the PDU in b.
func (r *R2T) Decode(b []byte) (int, error) {
	if err := check(b, OpR2T); err != nil {
		return 0, err
	}
	if dataLen(b) != 0 {
		return 0, ErrField
	}
	r.LUN = lun(b)
	r.ITT = u32(b, 16)
	r.TTT = u32(b, 20)
	r.StatSN = u32(b, 24)
	r.ExpCmdSN = u32(b, 28)
	r.MaxCmdSN = u32(b, 32)
	r.R2TSN = u32(b, 36)
	r.Offset = u32(b, 40)
	r.Length = u32(b, 44)
	if r.Length == 0 || r.TTT == NoTag {
		return 0, ErrField
	}
	return BHSLen, nil
}

// Append encodes the PDU.
func (r *R2T) Append(dst []byte) []byte {
	dst, h := grow(dst, OpR2T)
	h[1] = finalFlag
	put64(h, 8, r.LUN)
	put32(h, 16, r.ITT)
	put32(h, 20, r.TTT)
	put32(h, 24, r.StatSN)
	put32(h, 28, r.ExpCmdSN)
	put32(h, 32, r.MaxCmdSN)
	put32(h, 36, r.R2TSN)
	put32(h, 40, r.Offset)
	put32(h, 44, r.Length)
	return dst
}
