package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"blockd.dev/target/reservation"
)

// TransportIDs of iSCSI initiators (SPC-5 "TransportIDs for initiator ports
// using SCSI over iSCSI"):
//
//	0    1 FORMAT CODE (bits 7-6), PROTOCOL IDENTIFIER 5h (bits 3-0)
//	1    1 reserved
//	2    2 ADDITIONAL LENGTH: what follows, at least 20, a multiple of 4
//	4    . the name, NUL-terminated and NUL-padded:
//	       format 00b: the iSCSI name, "iqn.2026-01.example:a"
//	       format 01b: the initiator port, "iqn.2026-01.example:a,i,0x80123456789a"
const (
	protocolISCSI     = 0x5
	protocolNone      = 0xf // no specific protocol
	transportFormat   = 0xc0
	transportName     = 0x00 // format 00b: an initiator device
	transportPort     = 0x40 // format 01b: an initiator port
	transportIDHeader = 4
	transportIDMin    = 24
	isidSeparator     = ",i,0x"
)

// transportID is what a TransportID names: an initiator port, or, without
// hasISID, all ports of an initiator that the device server knows.
type transportID struct {
	name    string
	isid    [6]byte
	hasISID bool
}

// decodeTransportID reads the TransportID at the start of b and its length in
// bytes. ok is false for anything but a well-formed one of iSCSI.
func decodeTransportID(b []byte) (id transportID, n int, ok bool) {
	if len(b) < transportIDMin {
		return id, 0, false
	}
	n = transportIDHeader + int(binary.BigEndian.Uint16(b[2:]))
	if n < transportIDMin || n%4 != 0 || n > len(b) || b[0]&0x0f != protocolISCSI || b[0]&0x30 != 0 {
		return id, 0, false
	}
	text, _, terminated := strings.Cut(string(b[transportIDHeader:n]), "\x00")
	if !terminated {
		return id, 0, false
	}
	switch b[0] & transportFormat {
	case transportName:
	case transportPort:
		at := strings.LastIndex(text, isidSeparator)
		if at < 0 {
			return id, 0, false
		}
		if id.isid, ok = parseISID(text[at+len(isidSeparator):]); !ok {
			return id, 0, false
		}
		text, id.hasISID = text[:at], true
	default:
		return id, 0, false
	}
	// Names compare as they were normalised at login (RFC 3722): in lower case.
	id.name = strings.ToLower(text)
	if len(id.name) == 0 || len(id.name) > reservation.MaxNameBytes || strings.Contains(id.name, ",") {
		return transportID{}, 0, false
	}
	return id, n, true
}

// parseISID reads 1 to 12 hexadecimal digits; leading zeroes may be missing.
func parseISID(s string) (isid [6]byte, ok bool) {
	if len(s) == 0 || len(s) > 12 {
		return isid, false
	}
	b, err := hex.DecodeString(strings.Repeat("0", 12-len(s)) + s)
	if err != nil {
		return isid, false
	}
	return [6]byte(b), true
}

// appendTransportID appends the TransportID of a registrant. An NVMe host has
// none: it is shown as 24 bytes of no specific protocol with its Host
// Identifier in the last 16.
func appendTransportID(b []byte, id reservation.Identity) []byte {
	if id.Protocol != reservation.ProtocolISCSI {
		b = append(b, protocolNone, 0, 0, transportIDMin-transportIDHeader, 0, 0, 0, 0)
		return append(b, id.HostID[:]...)
	}
	start := len(b)
	b = append(b, transportPort|protocolISCSI, 0, 0, 0)
	b = append(b, id.Name...)
	b = append(b, isidSeparator...)
	b = hex.AppendEncode(b, id.ISID[:])
	b = append(b, 0)
	for n := len(b) - start; n < transportIDMin || n%4 != 0; n++ {
		b = append(b, 0)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start-transportIDHeader))
	return b
}
