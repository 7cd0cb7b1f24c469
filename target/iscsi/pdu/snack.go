package pdu

// SNACK asks to send PDUs again (RFC 7143 §11.16). Error recovery level 0 has
// no use for it; it is decoded to be refused.
type SNACK struct {
	Type      uint8
	LUN       uint64
	ITT       uint32
	TTT       uint32
	ExpStatSN uint32
	BegRun    uint32
	RunLength uint32
}

// Decode reads the PDU in b.
func (s *SNACK) Decode(b []byte) (int, error) {
	if err := check(b, OpSNACK); err != nil {
		return 0, err
	}
	s.Type = b[1] & 0xf
	s.LUN = lun(b)
	s.ITT = u32(b, 16)
	s.TTT = u32(b, 20)
	s.ExpStatSN = u32(b, 28)
	s.BegRun = u32(b, 40)
	s.RunLength = u32(b, 44)
	return BHSLen, nil
}

// Append encodes the PDU.
func (s *SNACK) Append(dst []byte) []byte {
	dst, h := grow(dst, OpSNACK)
	h[1] = finalFlag | s.Type&0xf
	put64(h, 8, s.LUN)
	put32(h, 16, s.ITT)
	put32(h, 20, s.TTT)
	put32(h, 28, s.ExpStatSN)
	put32(h, 40, s.BegRun)
	put32(h, 44, s.RunLength)
	return dst
}
