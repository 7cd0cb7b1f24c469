package pdu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vectors are written out from the figures of NVMe TCP 1.0 §3.6.2; the
// digests are CRC32C computed by hand-checked code (RFC 3720 §B.4 values).
func TestGoldenVectors(t *testing.T) {
	sqe := CapsuleCmd{}
	for i := range sqe.SQE {
		sqe.SQE[i] = byte(i)
	}
	plain := &Layout{}
	for name, tc := range map[string]struct {
		got  []byte
		want string
	}{
		"ICReq, digests, HPDA 3, MAXR2T 2": {
			(&IC{PDA: 3, HeaderDigest: true, DataDigest: true, Limit: 2}).Append(nil),
			"00 00 80 00 80000000 0000 03 03 02000000" + strings.Repeat("00", 112)},
		"ICResp, MAXH2CDATA 128 KiB": {
			(&IC{Resp: true, Limit: 131072}).Append(nil),
			"01 00 80 00 80000000 0000 00 00 00000200" + strings.Repeat("00", 112)},
		"C2HTermReq for an H2CData": {
			(&TermReq{FatalError: *Fatal(InvalidHeaderField, 10), Culprit: []byte{6, 0, 24, 0}}).Append(nil),
			"03 00 18 00 1c000000 0100 0a000000" + strings.Repeat("00", 10) + "06001800"},
		"CapsuleCmd with 4096 bytes in it": {
			sqe.Append(nil, plain, 4096),
			"04 00 48 48 48100000" + hex.EncodeToString(sqe.SQE[:])},
		"CapsuleResp": {
			(&CapsuleResp{CQE: [16]byte{0: 1, 12: 7}}).Append(nil, plain),
			"05 00 18 00 18000000 01000000 00000000 00000000 07000000"},
		"H2CData, last": {
			(&Data{FromHost: true, Last: true, CID: 0x1234, TTag: 5, Offset: 8192, Length: 512}).Append(nil, plain),
			"06 04 18 18 18020000 3412 0500 00200000 00020000 00000000"},
		"C2HData, last and success": {
			(&Data{Last: true, Success: true, CID: 2, Length: 4096}).Append(nil, plain),
			"07 0c 18 18 18100000 0200 0000 00000000 00100000 00000000"},
		"R2T": {
			(&R2T{CID: 9, TTag: 3, Offset: 4096, Length: 65536}).Append(nil, plain),
			"09 00 18 00 18000000 0900 0300 00100000 00000100 00000000"},
	} {
		if want := unhex(t, tc.want); !bytes.Equal(tc.got, want) {
			t.Errorf("%s:\n%x, want\n%x", name, tc.got, want)
		}
	}
}

// CRC32C of 32 zero bytes and of 0 to 31 (RFC 3720 §B.4).
func TestDigestVectors(t *testing.T) {
	up := make([]byte, 32)
	for i := range up {
		up[i] = byte(i)
	}
	if d := Digest(0, make([]byte, 32)); d != 0x8a9136aa {
		t.Errorf("%08x", d)
	}
	if d := Digest(Digest(0, up[:7]), up[7:]); d != 0x46dd794e {
		t.Errorf("%08x", d)
	}
	if b := AppendDigest(nil, 0x8a9136aa); DigestAt(b) != 0x8a9136aa || b[0] != 0xaa {
		t.Errorf("%x", b)
	}
}

// whole makes a PDU with n bytes of data as the layout wants it.
func whole(l *Layout, head []byte, data []byte) []byte {
	out := append(bytes.Clone(head), data...)
	if l.DataDigest && len(data) > 0 {
		out = AppendDigest(out, Digest(0, data))
	}
	return out
}

var layouts = []Layout{{}, {HeaderDigest: true}, {DataDigest: true}, {HeaderDigest: true, DataDigest: true, Align: 128}, {Align: 32}}

// What Plan lays out, Frame finds again, for every type and shape; and every
// flip of a bit of the common header is refused or read as another PDU whose
// parts lie within its length.
func TestFrameFindsWhatPlanLaidOut(t *testing.T) {
	data := make([]byte, 512)
	for _, l := range layouts {
		for name, tc := range map[string]struct {
			head     []byte
			n        int
			fromHost bool
		}{
			"command":           {(&CapsuleCmd{}).Append(nil, &l, 0), 0, true},
			"command with data": {(&CapsuleCmd{}).Append(nil, &l, 512), 512, true},
			"response":          {(&CapsuleResp{}).Append(nil, &l), 0, false},
			"h2c":               {(&Data{FromHost: true, Last: true, Length: 512}).Append(nil, &l), 512, true},
			"c2h":               {(&Data{Last: true, Length: 512}).Append(nil, &l), 512, false},
			"r2t":               {(&R2T{Length: 4}).Append(nil, &l), 0, false},
			"icreq":             {(&IC{}).Append(nil), 0, true},
			"icresp":            {(&IC{Resp: true, Limit: 4096}).Append(nil), 0, false},
		} {
			r := Rules{FromHost: tc.fromHost, HeaderDigest: l.HeaderDigest, DataDigest: l.DataDigest, Align: l.Align, CapsuleMax: 512, DataMax: 512}
			b := whole(&l, tc.head, data[:tc.n])
			var h Header
			if _, err := h.Decode(b); err != nil {
				t.Fatal(err)
			}
			f, fe := r.Frame(&h)
			if fe != nil || f.Total != len(b) || f.DataLen != tc.n {
				t.Fatalf("%s in %+v: %+v of %d bytes: %v", name, l, f, len(b), fe)
			}
			if f.HDigest && Digest(0, b[:f.HLen]) != DigestAt(b[f.HLen:]) {
				t.Errorf("%s in %+v: header digest", name, l)
			}
			if l.Align > 0 && tc.n > 0 && f.DataOff%l.Align != 0 {
				t.Errorf("%s in %+v: data at %d", name, l, f.DataOff)
			}
			for bit := range CommonLen * 8 {
				b[bit/8] ^= 1 << (bit % 8)
				_, _ = h.Decode(b)
				if f, fe := r.Frame(&h); fe == nil && (f.DataOff < f.HAll || f.DataLen < 0 || f.DataOff+f.DataLen > f.Total || f.Total != int(h.PLen)) {
					t.Errorf("%s in %+v with bit %d flipped: %+v", name, l, bit, f)
				}
				b[bit/8] ^= 1 << (bit % 8)
			}
		}
	}
}

// §3.6.2.4: each breach has its status and the offset of the field.
func TestFrameRefusals(t *testing.T) {
	r := Rules{FromHost: true, CapsuleMax: 8192, DataMax: 4096}
	digests := Rules{FromHost: true, HeaderDigest: true, DataDigest: true, CapsuleMax: 8192, DataMax: 4096, Align: 16}
	for name, tc := range map[string]struct {
		r    *Rules
		h    Header
		want FatalError
	}{
		"unknown type":             {&r, Header{Type: 8, HLen: 24, PLen: 24}, FatalError{InvalidHeaderField, 0}},
		"controller's type":        {&r, Header{Type: TypeR2T, HLen: 24, PLen: 24}, FatalError{InvalidHeaderField, 0}},
		"HLEN":                     {&r, Header{Type: TypeCapsuleCmd, HLen: 71, PLen: 72}, FatalError{InvalidHeaderField, 2}},
		"PLEN below the header":    {&r, Header{Type: TypeCapsuleCmd, HLen: 72, PLen: 71}, FatalError{InvalidHeaderField, 4}},
		"PLEN of nearly 4 GiB":     {&r, Header{Type: TypeH2CData, HLen: 24, PDO: 24, PLen: 0xffffffff}, FatalError{TransferLimit, 0}},
		"PDO within the header":    {&r, Header{Type: TypeCapsuleCmd, HLen: 72, PDO: 8, PLen: 100}, FatalError{InvalidHeaderField, 3}},
		"PDO not aligned":          {&digests, Header{Type: TypeCapsuleCmd, Flags: 3, HLen: 72, PDO: 76, PLen: 200}, FatalError{InvalidHeaderField, 3}},
		"PDO beyond PLEN":          {&r, Header{Type: TypeCapsuleCmd, HLen: 72, PDO: 128, PLen: 100}, FatalError{InvalidHeaderField, 4}},
		"header digest not agreed": {&r, Header{Type: TypeCapsuleCmd, Flags: FlagHDGST, HLen: 72, PLen: 76}, FatalError{InvalidHeaderField, 1}},
		"header digest missing":    {&digests, Header{Type: TypeCapsuleCmd, HLen: 72, PLen: 72}, FatalError{InvalidHeaderField, 1}},
		"data digest missing":      {&digests, Header{Type: TypeH2CData, Flags: 1, HLen: 24, PDO: 32, PLen: 100}, FatalError{InvalidHeaderField, 1}},
		"H2CData without data":     {&r, Header{Type: TypeH2CData, HLen: 24, PLen: 24}, FatalError{InvalidHeaderField, 4}},
		"capsule too long":         {&r, Header{Type: TypeCapsuleCmd, HLen: 72, PDO: 72, PLen: 72 + 8193}, FatalError{TransferLimit, 0}},
		"H2CData above MAXH2CDATA": {&r, Header{Type: TypeH2CData, HLen: 24, PDO: 24, PLen: 24 + 4097}, FatalError{TransferLimit, 0}},
		"TermReq too long":         {&r, Header{Type: TypeH2CTermReq, HLen: 24, PLen: 24 + 129}, FatalError{InvalidHeaderField, 4}},
		"data behind an ICReq":     {&r, Header{Type: TypeICReq, HLen: 128, PLen: 132}, FatalError{InvalidHeaderField, 4}},
	} {
		_, fe := tc.r.Frame(&tc.h)
		if fe == nil || *fe != tc.want {
			t.Errorf("%s: %v, want %v", name, fe, &tc.want)
		}
	}
}

func TestICRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b []byte)
		want   FatalError
	}{
		"PFV":             {func(b []byte) { b[8] = 1 }, FatalError{UnsupportedParameter, 8}},
		"HPDA":            {func(b []byte) { b[10] = 32 }, FatalError{InvalidHeaderField, 10}},
		"unknown digests": {func(b []byte) { b[11] = 4 }, FatalError{UnsupportedParameter, 11}},
		"MAXH2CDATA":      {func(b []byte) { b[0] = 1; b[13] = 8 }, FatalError{InvalidHeaderField, 12}},
	} {
		b := (&IC{}).Append(nil)
		tc.change(b)
		var p IC
		_, err := p.Decode(b)
		var fe *FatalError
		if !errors.As(err, &fe) || *fe != tc.want {
			t.Errorf("%s: %v, want %v", name, err, &tc.want)
		}
	}
}

// Every truncation of every header is refused.
func TestTruncations(t *testing.T) {
	l := &Layout{}
	for name, tc := range map[string]struct {
		b      []byte
		decode func([]byte) error
	}{
		"IC":     {(&IC{}).Append(nil), func(b []byte) error { var p IC; _, err := p.Decode(b); return err }},
		"term":   {(&TermReq{Culprit: make([]byte, 24)}).Append(nil), func(b []byte) error { var p TermReq; _, err := p.Decode(b); return err }},
		"cmd":    {(&CapsuleCmd{}).Append(nil, l, 0), func(b []byte) error { var p CapsuleCmd; _, err := p.Decode(b); return err }},
		"resp":   {(&CapsuleResp{}).Append(nil, l), func(b []byte) error { var p CapsuleResp; _, err := p.Decode(b); return err }},
		"data":   {(&Data{Last: true, Length: 1}).Append(nil, l), func(b []byte) error { var p Data; _, err := p.Decode(b); return err }},
		"r2t":    {(&R2T{}).Append(nil, l), func(b []byte) error { var p R2T; _, err := p.Decode(b); return err }},
		"common": {(&Header{}).Append(nil), func(b []byte) error { var p Header; _, err := p.Decode(b); return err }},
	} {
		if err := tc.decode(tc.b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range tc.b {
			if tc.decode(tc.b[:n]) == nil {
				t.Errorf("%s cut to %d bytes is accepted", name, n)
			}
		}
	}
}

// FuzzPDU: whatever Frame lets through has its parts in order, and every
// decoder re-encodes what it accepted to the same fields.
func FuzzPDU(f *testing.F) {
	for _, l := range layouts {
		f.Add((&CapsuleCmd{}).Append(nil, &l, 100), true, l.HeaderDigest, l.DataDigest)
		f.Add((&Data{Last: true, Length: 100}).Append(nil, &l), false, l.HeaderDigest, l.DataDigest)
		f.Add((&Data{FromHost: true, Last: true, Length: 100}).Append(nil, &l), true, l.HeaderDigest, l.DataDigest)
		f.Add((&R2T{CID: 1, Length: 9}).Append(nil, &l), false, l.HeaderDigest, l.DataDigest)
		f.Add((&CapsuleResp{}).Append(nil, &l), false, l.HeaderDigest, l.DataDigest)
	}
	f.Add((&IC{}).Append(nil), true, false, false)
	f.Add((&IC{Resp: true, Limit: 8192}).Append(nil), false, false, false)
	f.Add((&TermReq{FromHost: true, Culprit: []byte("culprit!")}).Append(nil), true, false, false)
	f.Fuzz(func(t *testing.T, b []byte, fromHost, hd, dd bool) {
		r := Rules{FromHost: fromHost, HeaderDigest: hd, DataDigest: dd, CapsuleMax: 8192, DataMax: 1 << 20}
		l := Layout{HeaderDigest: hd, DataDigest: dd}
		var h Header
		if _, err := h.Decode(b); err != nil {
			return
		}
		fr, fe := r.Frame(&h)
		if fe != nil {
			_ = fe.Error()
			return
		}
		if fr.HLen > fr.HAll || fr.HAll > fr.DataOff || fr.DataLen < 0 || fr.DataOff+fr.DataLen > fr.Total || fr.Total != int(h.PLen) {
			t.Fatalf("%+v of %+v", fr, h)
		}
		if len(b) < fr.HLen {
			return
		}
		switch h.Type {
		case TypeICReq, TypeICResp:
			var p, q IC
			if _, err := p.Decode(b); err == nil {
				if _, err := q.Decode(p.Append(nil)); err != nil || p != q {
					t.Fatalf("%+v, then %+v: %v", p, q, err)
				}
			}
		case TypeH2CData, TypeC2HData:
			var p, q Data
			if _, err := p.Decode(b); err == nil {
				if _, err := q.Decode(p.Append(nil, &l)); err != nil || p != q {
					t.Fatalf("%+v, then %+v: %v", p, q, err)
				}
			}
		case TypeR2T:
			var p, q R2T
			if _, err := p.Decode(b); err != nil {
				t.Fatal(err)
			}
			if _, err := q.Decode(p.Append(nil, &l)); err != nil || p != q {
				t.Fatalf("%+v, then %+v: %v", p, q, err)
			}
		case TypeH2CTermReq, TypeC2HTermReq:
			var p, q TermReq
			if _, err := p.Decode(b); err == nil {
				if _, err := q.Decode(p.Append(nil)); err != nil || p.FatalError != q.FatalError || !bytes.Equal(p.Culprit, q.Culprit) {
					t.Fatalf("%+v, then %+v: %v", p, q, err)
				}
			}
		}
	})
}

func TestCodecsDoNotAllocate(t *testing.T) {
	l := &Layout{HeaderDigest: true, DataDigest: true, Align: 128}
	r := Rules{FromHost: true, HeaderDigest: true, DataDigest: true, Align: 128, CapsuleMax: 8192}
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		b := (&CapsuleCmd{}).Append(buf, l, 512)
		var h Header
		_, _ = h.Decode(b)
		if _, fe := r.Frame(&h); fe != nil {
			t.Error(fe)
		}
		_ = (&Data{Last: true, Length: 512}).Append(buf, l)
		_ = (&CapsuleResp{}).Append(buf, l)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
