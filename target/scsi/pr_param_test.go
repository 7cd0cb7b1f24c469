package scsi

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"blockd.dev/target/reservation"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// prOutBasic builds a parameter list without TransportIDs.
func prOutBasic(key, saKey uint64, flags byte) []byte {
	b := make([]byte, prOutBasicLen)
	for i := range 8 {
		b[i] = byte(key >> (56 - 8*i))
		b[8+i] = byte(saKey >> (56 - 8*i))
	}
	b[20] = flags
	return b
}

// TestTransportIDVectors pins the two formats of SPC-5 "TransportIDs for
// initiator ports using SCSI over iSCSI", and what is not one.
func TestTransportIDVectors(t *testing.T) {
	port := unhex(t, `45 00 00 28`+hex.EncodeToString([]byte("iqn.2026-01.ex:a,i,0x80000000012f"))+`00 000000 00000000`)[:44]
	for _, tc := range []struct {
		name string
		b    []byte
		want transportID
		n    int
		ok   bool
	}{
		{"port", port, transportID{"iqn.2026-01.ex:a", [6]byte{0x80, 0, 0, 0, 1, 0x2f}, true}, 44, true},
		{"more after it", append(slices.Clone(port), 1, 2, 3), transportID{"iqn.2026-01.ex:a", [6]byte{0x80, 0, 0, 0, 1, 0x2f}, true}, 44, true},
		{"name", append([]byte{5, 0, 0, 20}, "iqn.2026-01.EX:b\x00\x00\x00\x00"...), transportID{name: "iqn.2026-01.ex:b"}, 24, true},
		{"short isid", append([]byte{0x45, 0, 0, 20}, "iqn.a,i,0x12F\x00......"...), transportID{"iqn.a", [6]byte{4: 1, 5: 0x2f}, true}, 24, true},
		{"not terminated", append([]byte{5, 0, 0, 20}, "iqn.2026-01.ex:bbbbb"...), transportID{}, 0, false},
		{"no name", append([]byte{5, 0, 0, 20}, make([]byte, 20)...), transportID{}, 0, false},
		{"no isid", append([]byte{0x45, 0, 0, 20}, "iqn.a,i,0x\x00........."...), transportID{}, 0, false},
		{"isid too long", append([]byte{0x45, 0, 0, 24}, "iqn.a,i,0x1234567890abc\x00"...), transportID{}, 0, false},
		{"isid not hex", append([]byte{0x45, 0, 0, 20}, "iqn.a,i,0x12g\x00......"...), transportID{}, 0, false},
		{"name where a port must be", append([]byte{0x45, 0, 0, 20}, "iqn.2026-01.ex:b\x00\x00\x00\x00"...), transportID{}, 0, false},
		{"port where a name must be", append([]byte{5, 0, 0, 20}, "iqn.a,i,0x12\x00......."...), transportID{}, 0, false},
		{"another protocol", append([]byte{6, 0, 0, 20}, "iqn.2026-01.ex:b\x00\x00\x00\x00"...), transportID{}, 0, false},
		{"reserved format", append([]byte{0x85, 0, 0, 20}, "iqn.2026-01.ex:b\x00\x00\x00\x00"...), transportID{}, 0, false},
		{"too short", append([]byte{5, 0, 0, 16}, "iqn.2026-01.ex\x00\x00......"...), transportID{}, 0, false},
		{"not a multiple of 4", append([]byte{5, 0, 0, 21}, "iqn.2026-01.ex:b\x00\x00\x00\x00\x00"...), transportID{}, 0, false},
		{"beyond the end", append([]byte{5, 0, 0, 24}, "iqn.2026-01.ex:b\x00\x00\x00\x00"...), transportID{}, 0, false},
		{"name too long", append(append([]byte{5, 0, 0, 228}, strings.Repeat("n", 224)...), 0, 0, 0, 0), transportID{}, 0, false},
	} {
		id, n, ok := decodeTransportID(tc.b)
		if ok != tc.ok || ok && (id != tc.want || n != tc.n) {
			t.Errorf("%s: %+v, %d, %v", tc.name, id, n, ok)
		}
	}
}

// TestPRInVectors pins the parameter data of every service action.
func TestPRInVectors(t *testing.T) {
	a := reservation.ISCSI("iqn.a", [6]byte{0x80, 0, 0, 0, 0, 1}, 1)
	n := reservation.NVMe("nqn.b", [16]byte{0: 0xaa, 15: 0xbb})
	reserved := &reservation.State{
		Generation: 7, Persist: true, Type: reservation.TypeExclusiveAccess, Holder: n,
		Registrants: []reservation.Registrant{{ID: a, Key: 1}, {ID: n, Key: 0x0102030405060708}},
	}
	shared := *reserved
	shared.Type, shared.Holder = reservation.TypeWriteExclusiveAllRegistrants, reservation.Identity{}
	for _, tc := range []struct {
		name string
		sa   prInAction
		s    *reservation.State
		want string
	}{
		{"no keys", prInReadKeys, &reservation.State{Generation: 3}, "00000003 00000000"},
		{"keys", prInReadKeys, reserved, "00000007 00000010 0000000000000001 0102030405060708"},
		{"no reservation", prInReadReservation, &reservation.State{}, "00000000 00000000"},
		{"reservation", prInReadReservation, reserved, "00000007 00000010 0102030405060708 00000000 00 03 0000"},
		{"all registrants", prInReadReservation, &shared, "00000007 00000010 0000000000000000 00000000 00 07 0000"},
		{"capabilities", prInReportCapabilities, &reservation.State{}, "0008 1d 90 ea 01 0000"},
		{"capabilities, APTPL on", prInReportCapabilities, reserved, "0008 1d 91 ea 01 0000"},
		{"full status", prInReadFullStatus, reserved, `00000007 00000064
			0000000000000001 00000000 00 00 00000000 0001 0000001c
				45 00 0018 69716e2e61 2c692c3078 383030303030303030303031 0000
			0102030405060708 00000000 01 03 00000000 0000 00000018
				0f 00 0014 00000000 aa0000000000000000000000000000bb`},
	} {
		got, ok := appendPRIn(nil, tc.sa, tc.s)
		if !ok || !bytes.Equal(got, unhex(t, tc.want)) {
			t.Errorf("%s: %x", tc.name, got)
		}
	}
	for sa := prInReadFullStatus + 1; sa < 0x20; sa++ {
		if _, ok := appendPRIn(nil, sa, reserved); ok {
			t.Errorf("service action %#x was taken", sa)
		}
	}
}

// TestPROutParameterErrors: the additional sense codes and field pointers of
// SPC-5 "PERSISTENT RESERVE OUT parameter list".
func TestPROutParameterErrors(t *testing.T) {
	tid := appendTransportID(nil, reservation.ISCSI("iqn.b", [6]byte{1}, 0))
	spec := func(n int, ids ...byte) []byte {
		return append(append(prOutBasic(0, 1, 0x08), 0, 0, byte(n>>8), byte(n)), ids...)
	}
	move := func(n int, ids ...byte) []byte {
		b := prOutBasic(1, 2, 0)
		b[22], b[23] = byte(n>>8), byte(n)
		return append(b, ids...)
	}
	for _, tc := range []struct {
		name string
		sa   prOutAction
		b    []byte
		asc  additional
		ptr  uint16
	}{
		{"register", prOutRegister, prOutBasic(0, 1, 0x05), ascNone, 0},
		{"empty", prOutRegister, nil, ascParameterListLength, 0},
		{"23 bytes", prOutReserve, make([]byte, 23), ascParameterListLength, 0},
		{"25 bytes", prOutReserve, make([]byte, 25), ascParameterListLength, 0},
		{"SPEC_I_PT with RESERVE", prOutReserve, spec(len(tid), tid...), ascInvalidFieldParam, 20},
		{"SPEC_I_PT with REGISTER AND IGNORE", prOutRegisterIgnore, spec(len(tid), tid...), ascInvalidFieldParam, 20},
		{"SPEC_I_PT", prOutRegister, spec(len(tid), tid...), ascNone, 0},
		{"SPEC_I_PT, none", prOutRegister, spec(0), ascNone, 0},
		{"SPEC_I_PT, 24 bytes", prOutRegister, prOutBasic(0, 1, 8), ascParameterListLength, 0},
		{"SPEC_I_PT, list too long", prOutRegister, spec(len(tid)+4, tid...), ascParameterListLength, 0},
		{"SPEC_I_PT, list too short", prOutRegister, spec(len(tid)-4, tid...), ascParameterListLength, 0},
		{"SPEC_I_PT, second bad", prOutRegister, spec(len(tid)+24, append(slices.Clone(tid), make([]byte, 24)...)...), ascInvalidFieldParam, uint16(28 + len(tid))},
		{"move", prOutRegisterAndMove, move(len(tid), tid...), ascNone, 0},
		{"move, none", prOutRegisterAndMove, move(0), ascInvalidFieldParam, 24},
		{"move, length differs", prOutRegisterAndMove, move(len(tid)+1, tid...), ascParameterListLength, 0},
		{"move, two", prOutRegisterAndMove, move(2*len(tid), append(slices.Clone(tid), tid...)...), ascInvalidFieldParam, 24},
	} {
		_, s := decodePROut(tc.sa, tc.b)
		if s.asc != tc.asc || s.ptr != tc.ptr || s.asc != ascNone && s.key != keyIllegalRequest {
			t.Errorf("%s: %04x at %d", tc.name, uint16(s.asc), s.ptr)
		}
	}
	b := move(len(tid), tid...)
	b[17], b[18], b[19] = 3, 0x12, 0x34
	p, s := decodePROut(prOutRegisterAndMove, b)
	if !s.ok() || !p.unreg || !p.aptpl || p.port != 0x1234 || p.key != 1 || p.saKey != 2 || p.transportIDs[0].name != "iqn.b" {
		t.Errorf("move: %+v", p)
	}
}

// FuzzPROut: no parameter list crashes the decoder, and every TransportID that
// it takes is written back to one that reads the same.
func FuzzPROut(f *testing.F) {
	tid := appendTransportID(nil, reservation.ISCSI("iqn.2026-01.ex:a", [6]byte{0x80, 5: 1}, 0))
	f.Add(byte(prOutRegister), prOutBasic(0, 1, 5))
	f.Add(byte(prOutRegister), append(append(prOutBasic(0, 1, 8), 0, 0, 0, byte(2*len(tid))), append(slices.Clone(tid), tid...)...))
	move := append(prOutBasic(1, 2, 0), tid...)
	move[23] = byte(len(tid))
	f.Add(byte(prOutRegisterAndMove), move)
	f.Fuzz(func(t *testing.T, sa byte, b []byte) {
		p, s := decodePROut(prOutAction(sa&0x1f), b)
		if !s.ok() {
			if s.key != keyIllegalRequest {
				t.Fatalf("sense key %d", s.key)
			}
			return
		}
		if len(p.at) != len(p.transportIDs) {
			t.Fatal("positions are missing")
		}
		for _, id := range p.transportIDs {
			if !id.hasISID {
				continue
			}
			again := appendTransportID(nil, reservation.ISCSI(id.name, id.isid, 1))
			back, n, ok := decodeTransportID(again)
			if !ok || back != id || n != len(again) {
				t.Fatalf("%+v reads back as %+v", id, back)
			}
		}
	})
}
