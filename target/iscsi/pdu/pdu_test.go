package pdu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// codec is what every PDU type has.
type codec interface {
	Decode([]byte) (int, error)
	Append([]byte) []byte
}

// samples has one of each PDU with every field set, so that a field that one
// direction forgets is found.
func samples() map[string]codec {
	cmd := &SCSICommand{Immediate: true, Final: true, Read: true, Attr: 1, LUN: 0x4001 << 48, ITT: 0x01020304,
		Expected: 4096, CmdSN: 7, ExpStatSN: 9, CDBLen: 16}
	copy(cmd.CDB[:], "\x88\x00\x00\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00")
	long := &SCSICommand{Final: false, Write: true, Attr: 2, LUN: 1 << 48, ITT: 5, Expected: 512, CmdSN: 8, ExpStatSN: 10,
		BidiRead: 77, DataLen: 512, CDBLen: 33, AHSLen: 28 + 0}
	for i := range long.CDB[:33] {
		long.CDB[i] = byte(i + 1)
	}
	long.AHSLen = 4 + 17 + 3 + 8
	return map[string]codec{
		"SCSI Command":          cmd,
		"SCSI Command with AHS": long,
		"SCSI Response": &SCSIResponse{Response: 1, Status: 2, Residual: Residual{Underflow: true, Count: 12}, ITT: 1,
			StatSN: 2, ExpCmdSN: 3, MaxCmdSN: 4, ExpDataSN: 5, DataLen: 20},
		"Data-Out": &DataOut{Final: true, LUN: 3 << 48, ITT: 1, TTT: 2, ExpStatSN: 3, DataSN: 4, Offset: 8192, DataLen: 4096},
		"Data-In": &DataIn{Final: true, HasStatus: true, Status: 0, Residual: Residual{Overflow: true, Count: 5}, LUN: 1 << 48,
			ITT: 1, StatSN: 2, ExpCmdSN: 3, MaxCmdSN: 4, DataSN: 5, Offset: 6, DataLen: 7},
		"R2T":            &R2T{LUN: 1, ITT: 2, TTT: 3, StatSN: 4, ExpCmdSN: 5, MaxCmdSN: 6, R2TSN: 7, Offset: 8, Length: 9},
		"NOP-Out":        &NOPOut{Immediate: true, LUN: 1, ITT: 2, TTT: NoTag, CmdSN: 3, ExpStatSN: 4, DataLen: 5},
		"NOP-In":         &NOPIn{LUN: 1, ITT: NoTag, TTT: 2, StatSN: 3, ExpCmdSN: 4, MaxCmdSN: 5, DataLen: 6},
		"TMF Request":    &TMFRequest{Immediate: true, Function: 5, LUN: 1, ITT: 2, RefITT: 3, CmdSN: 4, ExpStatSN: 5, RefCmdSN: 6, ExpDataSN: 7},
		"TMF Response":   &TMFResponse{Response: 255, ITT: 2, StatSN: 3, ExpCmdSN: 4, MaxCmdSN: 5},
		"Login Request":  &LoginRequest{Transit: true, CSG: StageOperational, NSG: StageFullFeature, VersionMax: 1, ISID: [6]byte{1, 2, 3, 4, 5, 6}, TSIH: 7, ITT: 8, CID: 9, CmdSN: 10, ExpStatSN: 11, DataLen: 12},
		"Login Response": &LoginResponse{Continue: true, CSG: StageSecurity, VersionMax: 1, VersionActive: 2, ISID: [6]byte{6, 5, 4, 3, 2, 1}, TSIH: 7, ITT: 8, StatSN: 9, ExpCmdSN: 10, MaxCmdSN: 11, Status: LoginForbidden, DataLen: 12},
		"Text Request":   &TextRequest{Immediate: true, Final: true, LUN: 1, ITT: 2, TTT: NoTag, CmdSN: 3, ExpStatSN: 4, DataLen: 5},
		"Text Response":  &TextResponse{Continue: true, LUN: 1, ITT: 2, TTT: 6, StatSN: 3, ExpCmdSN: 4, MaxCmdSN: 5, DataLen: 6},
		"Logout Request": &LogoutRequest{Immediate: true, Reason: LogoutConnection, ITT: 2, CID: 3, CmdSN: 4, ExpStatSN: 5},
		"Logout Response": &LogoutResponse{Response: LogoutNoCID, ITT: 2, StatSN: 3, ExpCmdSN: 4, MaxCmdSN: 5, Time2Wait: 6,
			Time2Retain: 7},
		"SNACK":  &SNACK{Type: 1, LUN: 2, ITT: 3, TTT: 4, ExpStatSN: 5, BegRun: 6, RunLength: 7},
		"Reject": &Reject{Reason: RejectProtocol, StatSN: 1, ExpCmdSN: 2, MaxCmdSN: 3, DataSN: 4, DataLen: 48},
		"Async":  &Async{LUN: 1, StatSN: 2, ExpCmdSN: 3, MaxCmdSN: 4, Event: AsyncLogout, VCode: 5, Parameter1: 6, Parameter2: 7, Parameter3: 8, DataLen: 9},
	}
}

func fresh(c codec) codec { return reflect.New(reflect.TypeOf(c).Elem()).Interface().(codec) }

func TestEveryPDURoundTripsAndRefusesTruncation(t *testing.T) {
	for name, c := range samples() {
		b := c.Append(nil)
		got := fresh(c)
		n, err := got.Decode(b)
		if err != nil || n != len(b) {
			t.Fatalf("%s: decoded %d of %d bytes: %v", name, n, len(b), err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("%s: decoded\n%+v, want\n%+v", name, got, c)
		}
		var h Header
		if _, err := h.Decode(b); err != nil || h.AHSLen != len(b)-BHSLen {
			t.Errorf("%s: header says %d bytes of AHS: %v", name, h.AHSLen, err)
		}
		for i := range b {
			if _, err := fresh(c).Decode(b[:i]); !errors.Is(err, ErrShort) {
				t.Errorf("%s cut to %d bytes: %v, want ErrShort", name, i, err)
			}
		}
		b[0] ^= 0x3f
		if _, err := fresh(c).Decode(b); !errors.Is(err, ErrOpcode) {
			t.Errorf("%s with another opcode: %v", name, err)
		}
	}
}

// Every single-bit change either fails or decodes to something that encodes
// and decodes to itself.
func TestBitFlipsFailOrRoundTrip(t *testing.T) {
	for name, c := range samples() {
		b := c.Append(nil)
		for bit := range len(b) * 8 {
			m := bytes.Clone(b)
			m[bit/8] ^= 1 << (bit % 8)
			checkRoundTrip(t, name, fresh(c), m)
		}
	}
}

func checkRoundTrip(t *testing.T, name string, c codec, b []byte) {
	t.Helper()
	n, err := c.Decode(b)
	if err != nil {
		return
	}
	if n < BHSLen || n > len(b) {
		t.Fatalf("%s: used %d of %d bytes", name, n, len(b))
	}
	again := fresh(c)
	out := c.Append(nil)
	if _, err := again.Decode(out); err != nil {
		t.Fatalf("%s: own encoding %x refused: %v", name, out, err)
	}
	if cmd, ok := c.(*SCSICommand); ok {
		cmd.AHSLen = again.(*SCSICommand).AHSLen // unknown padding is not kept
	}
	if !reflect.DeepEqual(c, again) {
		t.Fatalf("%s: %+v became %+v", name, c, again)
	}
}

// Captured between iscsi-inq of libiscsi 1.19 and this target: the login
// request, the standard INQUIRY, and its data with the status.
func TestGoldenHeaders(t *testing.T) {
	for _, tc := range []struct {
		hex  string
		want codec
	}{
		{"43870000000001b780ff84ff0000000035ba2454000000005e80904c00000001" + strings.Repeat("00", 16),
			&LoginRequest{Transit: true, CSG: StageOperational, NSG: StageFullFeature, DataLen: 439,
				ISID: [6]byte{0x80, 0xff, 0x84, 0xff}, ITT: 0x35ba2454, CmdSN: 0x5e80904c, ExpStatSN: 1}},
		{"01c1000000000000000000000000000035ba2457000000405e80904e00000004" + "12000000400000000000000000000000",
			&SCSICommand{Final: true, Read: true, Attr: 1, ITT: 0x35ba2457, Expected: 64, CmdSN: 0x5e80904e, ExpStatSN: 4,
				CDBLen: 16, CDB: [CDBMax]byte{0x12, 0, 0, 0, 0x40}}},
		{"2581000000000040000000000000000035ba2457ffffffff000000045e80904f5e8090ce000000000000000000000000",
			&DataIn{Final: true, HasStatus: true, DataLen: 64, ITT: 0x35ba2457, StatSN: 4, ExpCmdSN: 0x5e80904f,
				MaxCmdSN: 0x5e8090ce}},
	} {
		b, err := hex.DecodeString(tc.hex)
		if err != nil {
			t.Fatal(err)
		}
		got := fresh(tc.want)
		if _, err := got.Decode(b); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("decoded %+v, want %+v", got, tc.want)
		}
		if enc := tc.want.Append(nil); !bytes.Equal(enc, b) {
			t.Errorf("encoded\n%x, want\n%x", enc, b)
		}
	}
}

func TestFieldsThatTheRFCForbids(t *testing.T) {
	set := func(c codec, at int, v byte) []byte {
		b := c.Append(nil)
		b[at] = v
		return b
	}
	for name, tc := range map[string]struct {
		c codec
		b []byte
	}{
		"task attribute 5":          {&SCSICommand{}, set(&SCSICommand{Final: true, CDBLen: 16}, 1, 0x85)},
		"read with unsolicited":     {&SCSICommand{}, set(&SCSICommand{CDBLen: 16}, 1, 0x41)},
		"AHS of unknown type":       {&SCSICommand{}, append(set(&SCSICommand{Final: true, CDBLen: 16}, 4, 1), 0, 1, 9, 0)},
		"AHS longer than its space": {&SCSICommand{}, append(set(&SCSICommand{Final: true, CDBLen: 16}, 4, 1), 0, 9, 1, 0)},
		"CDB over 260 bytes": {&SCSICommand{}, append(append(set(&SCSICommand{Final: true, CDBLen: 16}, 4, 63), 0, 249, 1, 0),
			make([]byte, 248)...)},
		"login stage 2":         {&LoginRequest{}, set(&LoginRequest{}, 1, 0x08)},
		"login transit to self": {&LoginRequest{}, set(&LoginRequest{}, 1, 0x85)},
		"login T and C":         {&LoginRequest{}, set(&LoginRequest{}, 1, 0xc7)},
		"text F and C":          {&TextRequest{}, set(&TextRequest{}, 1, 0xc0)},
		"status without F":      {&DataIn{}, set(&DataIn{}, 1, 0x01)},
		"R2T for nothing":       {&R2T{}, set(&R2T{}, 1, 0x80)},
		"TMF with data":         {&TMFRequest{}, set(&TMFRequest{}, 7, 4)},
		"logout with data":      {&LogoutRequest{}, set(&LogoutRequest{}, 7, 4)},
	} {
		if _, err := tc.c.Decode(tc.b); !errors.Is(err, ErrField) {
			t.Errorf("%s: %v, want ErrField", name, err)
		}
	}
}

// RFC 7143 appendix A.4 has the CRC of 32 zero bytes and others.
func TestDigestVectors(t *testing.T) {
	up := make([]byte, 32)
	for i := range up {
		up[i] = byte(i)
	}
	for _, tc := range []struct {
		in   []byte
		want string
	}{
		{make([]byte, 32), "aa36918a"},
		{bytes.Repeat([]byte{0xff}, 32), "43aba862"},
		{up, "4e79dd46"},
	} {
		crc := Digest(Digest(0, tc.in[:7]), tc.in[7:])
		got := AppendDigest(nil, crc)
		if hex.EncodeToString(got) != tc.want || DigestAt(got) != crc {
			t.Errorf("digest of %x is %x, want %s", tc.in, got, tc.want)
		}
	}
}

func TestTextPairs(t *testing.T) {
	b := AppendPair(AppendPair(nil, "InitiatorName", "iqn.a"), "X-com.example#1", "")
	b = append(b, 0, 0)
	var got []string
	for rest := b; ; {
		k, v, next, err := NextPair(rest)
		if err != nil {
			t.Fatal(err)
		}
		if k == nil {
			break
		}
		got = append(got, string(k)+"="+string(v))
		rest = next
	}
	if strings.Join(got, " ") != "InitiatorName=iqn.a X-com.example#1=" {
		t.Fatalf("pairs %q", got)
	}
	for _, bad := range []string{"A=b", "=b\x00", "A\x00", "1A=b\x00", "A b=c\x00", strings.Repeat("A", 64) + "=b\x00",
		"A=" + strings.Repeat("b", 8193) + "\x00", "\xff=b\x00"} {
		if _, _, _, err := NextPair([]byte(bad)); !errors.Is(err, ErrText) {
			t.Errorf("%.20q: %v, want ErrText", bad, err)
		}
	}
}

func TestHotCodecsDoNotAllocate(t *testing.T) {
	buf := make([]byte, 0, 64)
	in := samples()["SCSI Command"].Append(nil)
	var c SCSICommand
	if n := testing.AllocsPerRun(100, func() {
		if _, err := c.Decode(in); err != nil {
			t.Fatal(err)
		}
		d := DataIn{Final: true, ITT: c.ITT}
		buf = d.Append(buf[:0])
		r := SCSIResponse{ITT: c.ITT}
		buf = r.Append(buf[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzDecode gives the same bytes to every decoder: none may panic, read past
// the end, or accept what it can't encode again.
func FuzzDecode(f *testing.F) {
	all := samples()
	for _, c := range all {
		f.Add(c.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, c := range all {
			checkRoundTrip(t, name, fresh(c), b)
		}
	})
}

// FuzzText walks arbitrary text segments: it must end, and pairs must encode
// to themselves.
func FuzzText(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.a\x00SessionType=Discovery\x00"))
	f.Add([]byte("\x00\x00A=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest := b; ; {
			k, v, next, err := NextPair(rest)
			if err != nil || k == nil {
				return
			}
			if len(next) >= len(rest) {
				t.Fatal("no progress")
			}
			k2, v2, _, err := NextPair(AppendPair(nil, string(k), string(v)))
			if err != nil || !bytes.Equal(k, k2) || !bytes.Equal(v, v2) {
				t.Fatalf("%q=%q became %q=%q: %v", k, v, k2, v2, err)
			}
			rest = next
		}
	})
}
