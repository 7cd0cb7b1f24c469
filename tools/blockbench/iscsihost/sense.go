package iscsihost

import (
	"encoding/binary"
	"fmt"

	"blockd.dev/blockdev"
)

// SCSI status codes (SAM-5 §5.3.1).
const (
	statusGood                = 0x00
	statusCheckCondition      = 0x02
	statusBusy                = 0x08
	statusReservationConflict = 0x18
	statusTaskSetFull         = 0x28
	statusTaskAborted         = 0x40
)

// Sense keys (SPC-5 §4.5.6).
const (
	keyNotReady       = 0x2
	keyMediumError    = 0x3
	keyHardwareError  = 0x4
	keyIllegalRequest = 0x5
	keyUnitAttention  = 0x6
	keyDataProtect    = 0x7
	keyAborted        = 0xb
	keyMiscompare     = 0xe
)

// Additional sense codes with their qualifiers.
const (
	ascManualIntervention = 0x0403
	ascTransition         = 0x040a
	ascStandby            = 0x040b
	ascUnavailable        = 0x040c
	ascLBAOutOfRange      = 0x2100
	ascNoUnit             = 0x2500
	ascSpaceAllocation    = 0x2707
	ascAccessChanged      = 0x2a06
	ascCapacityChanged    = 0x2a09
)

// Sense is what a target says about a command that failed (SPC-5 §4.5).
type Sense struct {
	Key     uint8
	ASC     uint16 // additional sense code, qualifier in the lower byte
	HasInfo bool
	Info    uint64 // valid with HasInfo
}

// String gives the numbers as the SCSI standards write them.
func (s Sense) String() string {
	return fmt.Sprintf("sense %x/%02x/%02x", s.Key, s.ASC>>8, s.ASC&0xff)
}

// IsAccessChange tells the unit attention ASYMMETRIC ACCESS STATE CHANGED.
func (s Sense) IsAccessChange() bool { return s.Key == keyUnitAttention && s.ASC == ascAccessChanged }

// parseSense reads fixed and descriptor format sense data. What is too short
// to say anything is the zero Sense.
func parseSense(b []byte) Sense {
	var s Sense
	if len(b) < 8 {
		return s
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		s.Key = b[2] & 0xf
		if b[0]&0x80 != 0 {
			s.HasInfo, s.Info = true, uint64(binary.BigEndian.Uint32(b[3:]))
		}
		if len(b) >= 14 {
			s.ASC = binary.BigEndian.Uint16(b[12:])
		}
	case 0x72, 0x73:
		s.Key, s.ASC = b[1]&0xf, binary.BigEndian.Uint16(b[2:])
		const informationLen = 12
		for d := b[8:]; len(d) >= 2; {
			n := 2 + int(d[1])
			if n > len(d) {
				break
			}
			if d[0] == 0 && n == informationLen && d[2]&0x80 != 0 {
				s.HasInfo, s.Info = true, binary.BigEndian.Uint64(d[4:])
			}
			d = d[n:]
		}
	}
	return s
}

// StatusError is a SCSI status other than GOOD.
type StatusError struct {
	Status uint8
	Sense  Sense // with CHECK CONDITION
}

// Error names the status.
func (e *StatusError) Error() string {
	switch e.Status {
	case statusCheckCondition:
		return "CHECK CONDITION, " + e.Sense.String()
	case statusBusy:
		return "BUSY"
	case statusReservationConflict:
		return "RESERVATION CONFLICT"
	case statusTaskSetFull:
		return "TASK SET FULL"
	case statusTaskAborted:
		return "TASK ABORTED"
	}
	return fmt.Sprintf("status %#02x", e.Status)
}

// PathRelated tells a refusal of the port's and not of the unit's: its target port group is in a
// state in which it does not do the command, and another may (SPC-5 "Asymmetric logical unit access").
func (e *StatusError) PathRelated() bool {
	if e.Status != statusCheckCondition || e.Sense.Key != keyNotReady {
		return false
	}
	return e.Sense.ASC == ascTransition || e.Sense.ASC == ascStandby || e.Sense.ASC == ascUnavailable
}

// requestError says what a status means for r.
func requestError(r *blockdev.Request, status uint8, s Sense, blockSize int) error {
	offset := int64(-1)
	kind := blockdev.ErrIO
	switch status {
	case statusBusy, statusTaskSetFull, statusTaskAborted:
		kind = blockdev.ErrBusy
	case statusReservationConflict:
		kind = blockdev.ErrFenced
	case statusCheckCondition:
		kind = senseKind(s)
		switch {
		case !s.HasInfo || s.Info > 1<<50:
		case kind == blockdev.ErrMedium:
			offset = int64(s.Info) * int64(blockSize)
		case kind == blockdev.ErrMiscompare:
			offset = r.Offset + int64(s.Info)
		}
	}
	return blockdev.NewError(kind, r, offset, &StatusError{status, s})
}

func senseKind(s Sense) error {
	switch s.Key {
	case keyNotReady:
		switch s.ASC {
		case ascManualIntervention:
			return blockdev.ErrGone
		case ascStandby, ascUnavailable:
			return blockdev.ErrFenced
		}
		return blockdev.ErrBusy
	case keyMediumError:
		return blockdev.ErrMedium
	case keyIllegalRequest:
		switch s.ASC {
		case ascLBAOutOfRange:
			return blockdev.ErrOutOfRange
		case ascNoUnit:
			return blockdev.ErrGone
		}
		return blockdev.ErrInvalid
	case keyUnitAttention, keyAborted:
		return blockdev.ErrBusy
	case keyDataProtect:
		if s.ASC == ascSpaceAllocation {
			return blockdev.ErrNoSpace
		}
		return blockdev.ErrReadOnly
	case keyMiscompare:
		return blockdev.ErrMiscompare
	}
	return blockdev.ErrIO
}
