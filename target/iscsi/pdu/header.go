package pdu

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of the parts of a PDU, in bytes (RFC 7143 §11.2).
const (
	BHSLen     = 48         // basic header segment
	AHSMax     = 255 * 4    // all additional header segments
	DataMax    = 1<<24 - 1  // data segment
	DigestLen  = 4          // CRC32C
	NoTag      = 0xffffffff // reserved Initiator or Target Transfer Tag
	cdbLen     = 16         // CDB in the BHS
	finalFlag  = 0x80       // F bit of byte 1
	contFlag   = 0x40       // C bit of byte 1 of text and login
	immediate  = 0x40       // I bit of byte 0
	opcodeMask = 0x3f       // opcode in byte 0
)

// Opcode says what a PDU is (RFC 7143 §11.2.1.2).
type Opcode uint8

// The opcodes of initiators and targets.
const (
	OpNOPOut      Opcode = 0x00
	OpSCSICommand Opcode = 0x01
	OpTMFRequest  Opcode = 0x02
	OpLogin       Opcode = 0x03
	OpText        Opcode = 0x04
	OpDataOut     Opcode = 0x05
	OpLogout      Opcode = 0x06
	OpSNACK       Opcode = 0x10

	OpNOPIn        Opcode = 0x20
	OpSCSIResponse Opcode = 0x21
	OpTMFResponse  Opcode = 0x22
	OpLoginResp    Opcode = 0x23
	OpTextResp     Opcode = 0x24
	OpDataIn       Opcode = 0x25
	OpLogoutResp   Opcode = 0x26
	OpR2T          Opcode = 0x31
	OpAsync        Opcode = 0x32
	OpReject       Opcode = 0x3f
)

// String returns the opcode's name.
func (o Opcode) String() string {
	switch o {
	case OpNOPOut:
		return "NOP-Out"
	case OpSCSICommand:
		return "SCSI Command"
	case OpTMFRequest:
		return "Task Management Request"
	case OpLogin:
		return "Login Request"
	case OpText:
		return "Text Request"
	case OpDataOut:
		return "Data-Out"
	case OpLogout:
		return "Logout Request"
	case OpSNACK:
		return "SNACK"
	case OpNOPIn:
		return "NOP-In"
	case OpSCSIResponse:
		return "SCSI Response"
	case OpTMFResponse:
		return "Task Management Response"
	case OpLoginResp:
		return "Login Response"
	case OpTextResp:
		return "Text Response"
	case OpDataIn:
		return "Data-In"
	case OpLogoutResp:
		return "Logout Response"
	case OpR2T:
		return "R2T"
	case OpAsync:
		return "Asynchronous Message"
	case OpReject:
		return "Reject"
	}
	return fmt.Sprintf("opcode %#02x", uint8(o))
}

// The ways that decoding fails. Test with errors.Is.
var (
	// ErrShort means that b ends before the header does.
	ErrShort = errors.New("iscsi pdu: truncated header")
	// ErrOpcode means that the header is another PDU's.
	ErrOpcode = errors.New("iscsi pdu: wrong opcode")
	// ErrField means that a field has a value that RFC 7143 does not allow.
	ErrField = errors.New("iscsi pdu: invalid field")
)

// Header is what all PDUs share: enough to frame one (RFC 7143 §11.2.1).
type Header struct {
	Opcode    Opcode
	Immediate bool   // I bit: deliver without regard to CmdSN
	Final     bool   // F bit, T bit in login
	AHSLen    int    // bytes of additional header segments, a multiple of 4
	DataLen   int    // bytes of data without padding
	ITT       uint32 // Initiator Task Tag
}

// Decode reads the shared fields of the basic header segment in b. It accepts
// any opcode.
func (h *Header) Decode(b []byte) (int, error) {
	if len(b) < BHSLen {
		return 0, ErrShort
	}
	h.Opcode = Opcode(b[0] & opcodeMask)
	h.Immediate = b[0]&immediate != 0
	h.Final = b[1]&finalFlag != 0
	h.AHSLen = int(b[4]) * 4
	h.DataLen = dataLen(b)
	h.ITT = binary.BigEndian.Uint32(b[16:])
	return BHSLen, nil
}

// Pad is how many bytes of padding follow n bytes of data: 0 to 3.
func Pad(n int) int { return -n & 3 }

// LUN is the eight-byte field of a header, big-endian.
func lun(b []byte) uint64 { return binary.BigEndian.Uint64(b[8:]) }

func dataLen(b []byte) int { return int(b[5])<<16 | int(b[6])<<8 | int(b[7]) }

func putDataLen(b []byte, n int) { b[5], b[6], b[7] = byte(n>>16), byte(n>>8), byte(n) }

func u32(b []byte, off int) uint32 { return binary.BigEndian.Uint32(b[off:]) }

func put32(b []byte, off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }

func put64(b []byte, off int, v uint64) { binary.BigEndian.PutUint64(b[off:], v) }

func u16(b []byte, off int) uint16 { return binary.BigEndian.Uint16(b[off:]) }

func put16(b []byte, off int, v uint16) { binary.BigEndian.PutUint16(b[off:], v) }

// check is the start of every Decode.
func check(b []byte, op Opcode) error {
	if len(b) < BHSLen {
		return ErrShort
	}
	if Opcode(b[0]&opcodeMask) != op {
		return ErrOpcode
	}
	return nil
}

// grow appends a zeroed basic header segment and returns it beside dst.
func grow(dst []byte, op Opcode) (all, h []byte) {
	n := len(dst)
	dst = append(dst, zero[:]...)
	h = dst[n : n+BHSLen]
	h[0] = byte(op)
	return dst, h
}

var zero [BHSLen]byte

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}
