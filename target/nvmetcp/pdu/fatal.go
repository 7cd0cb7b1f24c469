package pdu

import (
	"errors"
	"fmt"
)

var errShort = errors.New("nvmetcp: PDU header is cut short")

// FES is the Fatal Error Status of a TermReq (§3.6.2.3, §3.6.2.4).
type FES uint16

// The fatal error statuses.
const (
	InvalidHeaderField   FES = 1 // FEI: offset of the field
	SequenceError        FES = 2
	HeaderDigestError    FES = 3 // FEI: the digest that was received
	TransferRange        FES = 4 // data outside of what was asked for
	TransferLimit        FES = 5 // more data than allowed; in an H2CTermReq: too many R2Ts
	UnsupportedParameter FES = 6 // FEI: offset of the field
)

// String is the specification's wording.
func (s FES) String() string {
	switch s {
	case InvalidHeaderField:
		return "invalid PDU header field"
	case SequenceError:
		return "PDU sequence error"
	case HeaderDigestError:
		return "header digest error"
	case TransferRange:
		return "data transfer out of range"
	case TransferLimit:
		return "data transfer limit exceeded"
	case UnsupportedParameter:
		return "unsupported parameter"
	}
	return fmt.Sprintf("fatal error status %#x", uint16(s))
}

// FatalError is a violation that ends the connection, as a TermReq tells it
// to the peer.
type FatalError struct {
	Status FES
	Info   uint32 // FEI: what it means depends on Status
}

// Fatal makes a FatalError.
func Fatal(s FES, info uint32) *FatalError { return &FatalError{s, info} }

// Error names the status and its information.
func (e *FatalError) Error() string {
	switch e.Status {
	case InvalidHeaderField, UnsupportedParameter:
		return fmt.Sprintf("nvmetcp: %v at offset %d", e.Status, e.Info)
	case HeaderDigestError:
		return fmt.Sprintf("nvmetcp: %v: received %08x", e.Status, e.Info)
	}
	return "nvmetcp: " + e.Status.String()
}
