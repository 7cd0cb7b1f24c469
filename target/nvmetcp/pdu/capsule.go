package pdu

// CapsuleCmd is a Command Capsule (§3.6.2.5): a submission queue entry and
// perhaps data.
type CapsuleCmd struct {
	SQE [SQELen]byte
}

// Decode reads the header of a command capsule.
func (p *CapsuleCmd) Decode(b []byte) (int, error) {
	if len(b) < CapsuleCmdLen {
		return 0, errShort
	}
	copy(p.SQE[:], b[CommonLen:])
	return CapsuleCmdLen, nil
}

// Append writes the header of a command capsule that carries n bytes of data,
// with digest and padding: the data comes next.
func (p *CapsuleCmd) Append(dst []byte, l *Layout, n int) []byte {
	start := len(dst)
	h, pad := l.Plan(TypeCapsuleCmd, 0, n)
	dst = h.Append(dst)
	dst = append(dst, p.SQE[:]...)
	return l.Seal(dst, start, pad)
}

// CapsuleResp is a Response Capsule (§3.6.2.6): a completion queue entry.
type CapsuleResp struct {
	CQE [CQELen]byte
}

// Decode reads a response capsule.
func (p *CapsuleResp) Decode(b []byte) (int, error) {
	if len(b) < CapsuleRespLen {
		return 0, errShort
	}
	copy(p.CQE[:], b[CommonLen:])
	return CapsuleRespLen, nil
}

// Append writes a response capsule with its digest.
func (p *CapsuleResp) Append(dst []byte, l *Layout) []byte {
	start := len(dst)
	h, _ := l.Plan(TypeCapsuleResp, 0, 0)
	dst = h.Append(dst)
	dst = append(dst, p.CQE[:]...)
	return l.Seal(dst, start, 0)
}
