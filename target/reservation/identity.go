package reservation

import (
	"encoding/hex"
	"fmt"
)

// Protocol says how a host speaks to the volume.
type Protocol uint8

// The protocols.
const (
	ProtocolISCSI Protocol = 1
	ProtocolNVMe  Protocol = 2
)

// MaxNameBytes is the longest host name that an Identity carries: 223 bytes
// is the limit of iSCSI names (RFC 7143 §4.2.7.1) and of NQNs (NVMe Base 2.0
// "NVMe Qualified Names").
const MaxNameBytes = 223

// Identity names one party to reservations: what registers, holds, and is
// fenced. It is comparable, and two equal values are the same party.
//
// For iSCSI the party is an I_T nexus: Name and ISID are the initiator port,
// Port the relative target port identifier. A session that logs in again with
// the same name and ISID through the same target port is the same party.
//
// For NVMe it is a host: Name is its NQN and HostID its 128-bit Host
// Identifier. The NQN belongs to the identity because it is what
// authentication proves: a host can't take another's registration over by
// stating its Host Identifier.
type Identity struct {
	Protocol Protocol
	Port     uint16   // relative target port identifier; 0 for NVMe
	ISID     [6]byte  // zero for NVMe
	HostID   [16]byte // zero for iSCSI
	Name     string   // at most MaxNameBytes
}

// ISCSI returns the identity of an iSCSI I_T nexus.
func ISCSI(initiatorName string, isid [6]byte, targetPort uint16) Identity {
	return Identity{Protocol: ProtocolISCSI, Name: initiatorName, ISID: isid, Port: targetPort}
}

// NVMe returns the identity of an NVMe host.
func NVMe(hostNQN string, hostID [16]byte) Identity {
	return Identity{Protocol: ProtocolNVMe, Name: hostNQN, HostID: hostID}
}

// IsZero reports whether i names nobody.
func (i Identity) IsZero() bool { return i == Identity{} }

// Valid reports whether i is well formed: a known protocol, a name of 1 to
// MaxNameBytes bytes, and no field of the other protocol.
func (i Identity) Valid() bool {
	if len(i.Name) == 0 || len(i.Name) > MaxNameBytes {
		return false
	}
	switch i.Protocol {
	case ProtocolISCSI:
		return i.HostID == [16]byte{}
	case ProtocolNVMe:
		return i.ISID == [6]byte{} && i.Port == 0
	}
	return false
}

// String writes the identity as logs show it.
func (i Identity) String() string {
	switch i.Protocol {
	case ProtocolISCSI:
		return fmt.Sprintf("%s,i,0x%s port %d", i.Name, hex.EncodeToString(i.ISID[:]), i.Port)
	case ProtocolNVMe:
		return fmt.Sprintf("%s host %s", i.Name, hex.EncodeToString(i.HostID[:]))
	}
	return "nobody"
}
