package iscsi

import (
	"fmt"

	"blockd.dev/target/iscsi/pdu"
)

// LoginError is why a login was refused.
type LoginError struct {
	Status    pdu.LoginStatus
	Initiator string // as far as it is known
	Reason    string
}

// Error says which host was refused and why.
func (e *LoginError) Error() string {
	who := e.Initiator
	if who == "" {
		who = "an unnamed initiator"
	}
	return fmt.Sprintf("iscsi: login of %s refused with status %04x: %s", who, uint16(e.Status), e.Reason)
}

// ProtocolError is why a connection was dropped that did what RFC 7143 does
// not allow.
type ProtocolError struct {
	Opcode pdu.Opcode
	Reason string
}

// Error says what was wrong with which PDU.
func (e *ProtocolError) Error() string {
	return fmt.Sprintf("iscsi: %v: %s", e.Opcode, e.Reason)
}
