package scsi

import (
	"encoding/binary"

	"blockd.dev/target/reservation"
)

// prInAction is a service action of PERSISTENT RESERVE IN.
type prInAction uint8

// The service actions.
const (
	prInReadKeys           prInAction = 0x00
	prInReadReservation    prInAction = 0x01
	prInReportCapabilities prInAction = 0x02
	prInReadFullStatus     prInAction = 0x03
)

// prCapabilities is REPORT CAPABILITIES parameter data (SPC-5 of that name)
// but for PTPL_A.
var prCapabilities = [8]byte{
	0, 8, // LENGTH
	1<<4 | // CRH: RESERVE and RELEASE from holders do nothing
		1<<3 | // SIP_C: SPEC_I_PT
		1<<2 | // ATP_C: ALL_TG_PT
		1<<0, // PTPL_C: APTPL
	1<<7 | // TMV: the type mask is valid
		1<<4, // ALLOW COMMANDS 001b: TEST UNIT READY passes every type
	1<<7 | 1<<6 | 1<<5 | 1<<3 | 1<<1, // WR_EX_AR, EX_AC_RO, WR_EX_RO, EX_AC, WR_EX
	1 << 0,                           // EX_AC_AR
}

// appendPRIn appends the parameter data of a service action, whole; the caller
// cuts it to the allocation length. ok is false for an unknown action.
func appendPRIn(b []byte, sa prInAction, s *reservation.State) (_ []byte, ok bool) {
	if sa == prInReportCapabilities {
		at := len(b)
		b = append(b, prCapabilities[:]...)
		if s.Persist {
			b[at+3] |= 1 << 0 // PTPL_A
		}
		return b, true
	}
	b = binary.BigEndian.AppendUint32(b, s.Generation)
	length := len(b)
	b = append(b, 0, 0, 0, 0) // ADDITIONAL LENGTH, which truncation does not change
	switch sa {
	case prInReadKeys:
		for _, r := range s.Registrants {
			b = binary.BigEndian.AppendUint64(b, r.Key)
		}
	case prInReadReservation:
		if s.Type != reservation.TypeNone {
			b = binary.BigEndian.AppendUint64(b, s.HolderKey())
			b = append(b, 0, 0, 0, 0, 0, byte(s.Type), 0, 0) // SCOPE 0h: logical unit
		}
	case prInReadFullStatus:
		for _, r := range s.Registrants {
			b = appendFullStatus(b, r, s)
		}
	default:
		return b, false
	}
	binary.BigEndian.PutUint32(b[length:], uint32(len(b)-length-4))
	return b, true
}

// appendFullStatus appends one descriptor (SPC-5 "Full status descriptor").
// ALL_TG_PT is zero: each registration is listed with its own target port.
func appendFullStatus(b []byte, r reservation.Registrant, s *reservation.State) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Key)
	b = append(b, 0, 0, 0, 0)
	if s.Holds(r.ID) {
		b = append(b, 1, byte(s.Type)) // R_HOLDER, SCOPE and TYPE
	} else {
		b = append(b, 0, 0)
	}
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.ID.Port)
	length := len(b)
	b = append(b, 0, 0, 0, 0)
	b = appendTransportID(b, r.ID)
	binary.BigEndian.PutUint32(b[length:], uint32(len(b)-length-4))
	return b
}
