package pdu

import (
	"encoding/binary"
	"fmt"
)

// Type is the PDU-Type field (§3.6.1).
type Type uint8

// The PDU types.
const (
	TypeICReq       Type = 0x00
	TypeICResp      Type = 0x01
	TypeH2CTermReq  Type = 0x02
	TypeC2HTermReq  Type = 0x03
	TypeCapsuleCmd  Type = 0x04
	TypeCapsuleResp Type = 0x05
	TypeH2CData     Type = 0x06
	TypeC2HData     Type = 0x07
	TypeR2T         Type = 0x09
)

// String returns the name that the specification gives the type.
func (t Type) String() string {
	switch t {
	case TypeICReq:
		return "ICReq"
	case TypeICResp:
		return "ICResp"
	case TypeH2CTermReq:
		return "H2CTermReq"
	case TypeC2HTermReq:
		return "C2HTermReq"
	case TypeCapsuleCmd:
		return "CapsuleCmd"
	case TypeCapsuleResp:
		return "CapsuleResp"
	case TypeH2CData:
		return "H2CData"
	case TypeC2HData:
		return "C2HData"
	case TypeR2T:
		return "R2T"
	}
	return fmt.Sprintf("PDU type %#02x", uint8(t))
}

// FromHost reports whether a host sends PDUs of this type.
func (t Type) FromHost() bool {
	switch t {
	case TypeICReq, TypeH2CTermReq, TypeCapsuleCmd, TypeH2CData:
		return true
	}
	return false
}

// FromController reports whether a controller sends PDUs of this type.
func (t Type) FromController() bool {
	switch t {
	case TypeICResp, TypeC2HTermReq, TypeCapsuleResp, TypeC2HData, TypeR2T:
		return true
	}
	return false
}

// The lengths of headers in bytes, common header included (§3.6.2).
const (
	CommonLen      = 8
	ICLen          = 128 // ICReq, ICResp
	CapsuleCmdLen  = 72
	CapsuleRespLen = 24
	DataLen        = 24 // H2CData, C2HData
	R2TLen         = 24
	TermLen        = 24
	TermDataMax    = 128 // of the PDU in error, behind a TermReq's header
	DigestLen      = 4
	SQELen         = 64
	CQELen         = 16
	HeaderMax      = ICLen
	AlignMax       = 128 // PDO at HPDA or CPDA = 31
)

// HeaderLen is the HLEN of the type, 0 for an unknown one.
func (t Type) HeaderLen() int {
	switch t {
	case TypeICReq, TypeICResp:
		return ICLen
	case TypeCapsuleCmd:
		return CapsuleCmdLen
	case TypeCapsuleResp:
		return CapsuleRespLen
	case TypeH2CData, TypeC2HData:
		return DataLen
	case TypeR2T:
		return R2TLen
	case TypeH2CTermReq, TypeC2HTermReq:
		return TermLen
	}
	return 0
}

// hasDigest reports whether the header of the type is covered by a digest
// when header digests are on.
func (t Type) hasDigest() bool {
	switch t {
	case TypeCapsuleCmd, TypeCapsuleResp, TypeH2CData, TypeC2HData, TypeR2T:
		return true
	}
	return false
}

// Flags is the FLAGS field of the common header.
type Flags uint8

// The flags.
const (
	FlagHDGST   Flags = 1 << 0 // a header digest follows the header
	FlagDDGST   Flags = 1 << 1 // a data digest follows the data
	FlagLast    Flags = 1 << 2 // H2CData, C2HData: last of its sequence
	FlagSuccess Flags = 1 << 3 // C2HData: no response capsule follows, the command succeeded
)

// Header is the common header (§3.6.1).
type Header struct {
	Type  Type
	Flags Flags
	HLen  uint8  // length of the header without digest, in bytes
	PDO   uint8  // offset of the data from the start of the PDU, in bytes
	PLen  uint32 // length of the whole PDU, in bytes
}

// Decode reads the common header from the front of b. It checks nothing but
// the length of b; Rules.Frame judges the rest.
func (h *Header) Decode(b []byte) (int, error) {
	if len(b) < CommonLen {
		return 0, errShort
	}
	h.Type, h.Flags, h.HLen, h.PDO = Type(b[0]), Flags(b[1]), b[2], b[3]
	h.PLen = binary.LittleEndian.Uint32(b[4:])
	return CommonLen, nil
}

// Append writes the common header.
func (h *Header) Append(dst []byte) []byte {
	dst = append(dst, byte(h.Type), byte(h.Flags), h.HLen, h.PDO)
	return binary.LittleEndian.AppendUint32(dst, h.PLen)
}
