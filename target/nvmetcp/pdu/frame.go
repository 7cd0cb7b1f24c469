package pdu

// Rules are what the receiver of PDUs goes by: who sends them, and what the
// two agreed on with ICReq and ICResp.
type Rules struct {
	FromHost     bool // the peer is a host
	HeaderDigest bool
	DataDigest   bool
	// Align is what the offset of data must be a multiple of, in bytes: the
	// receiver's (CPDA or HPDA)+1 times 4. 0 means 4.
	Align int
	// CapsuleMax is the most data in a command capsule, in bytes.
	CapsuleMax int
	// DataMax is the most data in an H2CData or C2HData, in bytes; 0 means no
	// limit (which is what C2HData has).
	DataMax int
}

// Frame says where the parts of one PDU are, in bytes from its start.
type Frame struct {
	HLen    int // header without digest
	HAll    int // header with digest
	DataOff int // HAll to DataOff is padding; equal to HAll without data
	DataLen int
	Total   int
	HDigest bool // a digest lies at HLen
	DDigest bool // a digest lies at DataOff+DataLen
}

// Frame checks a common header and says where the PDU's parts are. The error
// is what ends the connection (§3.5).
func (r *Rules) Frame(h *Header) (Frame, *FatalError) {
	var f Frame
	if r.FromHost && !h.Type.FromHost() || !r.FromHost && !h.Type.FromController() {
		return f, Fatal(InvalidHeaderField, 0)
	}
	f.HLen = h.Type.HeaderLen()
	if int(h.HLen) != f.HLen {
		return f, Fatal(InvalidHeaderField, 2)
	}
	f.HAll = f.HLen
	digests := h.Type.hasDigest()
	if digests {
		if h.Flags&FlagHDGST != 0 != r.HeaderDigest {
			return f, Fatal(InvalidHeaderField, 1)
		}
		if r.HeaderDigest {
			f.HDigest = true
			f.HAll += DigestLen
		}
	}
	if uint64(h.PLen) < uint64(f.HAll) {
		return f, Fatal(InvalidHeaderField, 4)
	}
	f.DataOff = f.HAll
	if int64(h.PLen) == int64(f.HAll) {
		f.Total = f.HAll
		if h.Type == TypeH2CData || h.Type == TypeC2HData {
			return f, Fatal(InvalidHeaderField, 4) // a data PDU without data
		}
		return f, nil
	}
	switch h.Type {
	case TypeH2CTermReq, TypeC2HTermReq:
		// What follows is the header in error, without offset or digest.
		if h.PLen > TermLen+TermDataMax {
			return f, Fatal(InvalidHeaderField, 4)
		}
		f.DataLen = int(h.PLen) - f.HLen
		f.Total = int(h.PLen)
		return f, nil
	case TypeCapsuleCmd, TypeH2CData, TypeC2HData:
	default:
		return f, Fatal(InvalidHeaderField, 4)
	}
	if h.Flags&FlagDDGST != 0 != r.DataDigest {
		return f, Fatal(InvalidHeaderField, 1)
	}
	align := r.Align
	if align == 0 {
		align = 4
	}
	if int(h.PDO) < f.HAll || int(h.PDO)%align != 0 {
		return f, Fatal(InvalidHeaderField, 3)
	}
	f.DataOff = int(h.PDO)
	tail := 0
	if r.DataDigest {
		f.DDigest = true
		tail = DigestLen
	}
	n := int64(h.PLen) - int64(f.DataOff) - int64(tail)
	if n <= 0 {
		return f, Fatal(InvalidHeaderField, 4)
	}
	limit := r.DataMax
	if h.Type == TypeCapsuleCmd {
		limit = r.CapsuleMax
		if n > int64(limit) {
			return f, Fatal(TransferLimit, 0)
		}
	}
	if limit > 0 && n > int64(limit) {
		return f, Fatal(TransferLimit, 0)
	}
	f.DataLen = int(n)
	f.Total = int(h.PLen)
	return f, nil
}

// Layout is what the sender of PDUs goes by.
type Layout struct {
	HeaderDigest bool
	DataDigest   bool
	// Align is the receiver's wish for the offset of data, as in Rules.
	Align int
}

// Plan fills in the common header for a PDU of the given type with n bytes of
// data, and returns how much padding goes between the header, with its digest,
// and the data.
func (l *Layout) Plan(t Type, flags Flags, n int) (h Header, pad int) {
	h = Header{Type: t, Flags: flags, HLen: uint8(t.HeaderLen())}
	all := int(h.HLen)
	digests := t.hasDigest()
	if digests && l.HeaderDigest {
		h.Flags |= FlagHDGST
		all += DigestLen
	}
	if n == 0 {
		h.PLen = uint32(all)
		return h, 0
	}
	if digests {
		if l.Align > 4 {
			if rest := all % l.Align; rest > 0 {
				pad = l.Align - rest
			}
		}
		h.PDO = uint8(all + pad)
		if l.DataDigest {
			h.Flags |= FlagDDGST
			n += DigestLen
		}
	}
	h.PLen = uint32(all + pad + n)
	return h, pad
}

// Seal appends what belongs between the header that starts at dst[start:] and
// its data: the header digest, if on, and the padding.
func (l *Layout) Seal(dst []byte, start, pad int) []byte {
	if l.HeaderDigest && Type(dst[start]).hasDigest() {
		dst = AppendDigest(dst, Digest(0, dst[start:]))
	}
	return append(dst, zeros[:pad]...)
}

var zeros [AlignMax]byte
