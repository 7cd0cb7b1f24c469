package packet

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// Version is the version of the wire that this code speaks.
const Version = 1

// Lengths in bytes.
const (
	DatagramMin   = 1200  // every path carries this much
	DatagramMax   = 65000 // no path carries more
	HeaderLen     = 16    // of every packet
	HintLen       = 8     // behind the header of a Data packet that has one
	ResetTokenLen = 16
	TokenMax      = 256
	checksumLen   = 4
	helloHeadLen  = HeaderLen + 4 + 8 + 2 // version, source, token length
	resetLen      = HeaderLen + ResetTokenLen
)

// ConnID names a connection at the node that chose it; zero names none.
type ConnID uint64

// Type is what kind of packet it is: the upper four bits of its first byte.
// No Type is zero, so that zeroed memory is not a packet.
type Type uint8

// The types of packet.
const (
	TypeInitial   Type = 4 // a hello or its answer: checksum, no keys
	TypeHandshake Type = 5 // handshake keys
	TypeData      Type = 6 // traffic keys
	TypeRetry     Type = 7 // come back with this token
	TypeRefusal   Type = 8 // this version is not spoken here
	TypeReset     Type = 9 // this connection is not known here
)

// phaseBit in the first byte of a Data packet says which of two successive keys sealed it.
const phaseBit = 1

// hintBit in the first byte of a Data packet says that a hint follows the header.
const hintBit = 8

// NumberMax is the largest packet number; a connection ends before it.
const NumberMax = 1<<56 - 1

var (
	errShort    = errors.New("packet too short")
	errType     = errors.New("unknown packet type")
	errChecksum = errors.New("wrong checksum")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is what stands in front of every packet:
//
//	0        1                          8                         16              24
//	+--------+--------------------------+-------------------------+- - - - - - - - +
//	|type|hp | number (56 bits)         | destination (64 bits)   | hint (64 bits) |
//	+--------+--------------------------+-------------------------+- - - - - - - - +
//
// All integers on the wire are big-endian.
type Header struct {
	Type   Type
	Phase  bool // Data only
	Number uint64
	Dest   ConnID
	// Hint is what the packet is about, for who counts packets without being
	// able to read them (package bpf); there if Hinted, Data only.
	Hint   uint64
	Hinted bool
}

// Len is how many bytes h takes.
func (h *Header) Len() int {
	if h.Hinted {
		return HeaderLen + HintLen
	}
	return HeaderLen
}

// Append appends the Len bytes of h.
func (h *Header) Append(dst []byte) []byte {
	first := uint64(h.Type) << 60
	if h.Phase {
		first |= phaseBit << 56
	}
	if h.Hinted {
		first |= hintBit << 56
	}
	dst = binary.BigEndian.AppendUint64(dst, first|h.Number&NumberMax)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Dest))
	if h.Hinted {
		dst = binary.BigEndian.AppendUint64(dst, h.Hint)
	}
	return dst
}

// DecodeHeader reads the header that b starts with.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, errShort
	}
	first := binary.BigEndian.Uint64(b)
	h := Header{
		Type:   Type(first >> 60),
		Phase:  first>>56&phaseBit != 0,
		Number: first & NumberMax,
		Dest:   ConnID(binary.BigEndian.Uint64(b[8:])),
	}
	if h.Type < TypeInitial || h.Type > TypeReset {
		return Header{}, errType
	}
	if flags := b[0] & 0xf; flags&^(phaseBit|hintBit) != 0 || flags != 0 && h.Type != TypeData {
		return Header{}, errType
	}
	if h.Hinted = b[0]&hintBit != 0; h.Hinted {
		if len(b) < HeaderLen+HintLen {
			return Header{}, errShort
		}
		h.Hint = binary.BigEndian.Uint64(b[HeaderLen:])
	}
	return h, nil
}

// InitialHead is the rest of an Initial packet's header. Dest of a client's first is zero.
type InitialHead struct {
	Version uint32
	Source  ConnID
	Token   []byte // aliases what was decoded
}

// Append appends the encoding of h, which follows a Header.
func (h *InitialHead) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, h.Version)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.Source))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Token)))
	return append(dst, h.Token...)
}

// DecodeInitial reads what follows the Header of an Initial packet, and
// returns also the frames behind it. It checks the checksum, which are the
// packet's last four bytes.
func DecodeInitial(b []byte) (h InitialHead, frames []byte, err error) {
	if len(b) < helloHeadLen+checksumLen {
		return h, nil, errShort
	}
	body, sum := b[:len(b)-checksumLen], binary.BigEndian.Uint32(b[len(b)-checksumLen:])
	if crc32.Checksum(body, castagnoli) != sum {
		return h, nil, errChecksum
	}
	h.Version = binary.BigEndian.Uint32(b[HeaderLen:])
	h.Source = ConnID(binary.BigEndian.Uint64(b[HeaderLen+4:]))
	n := int(binary.BigEndian.Uint16(b[HeaderLen+12:]))
	if n > TokenMax || len(body) < helloHeadLen+n {
		return h, nil, errShort
	}
	h.Token = body[helloHeadLen : helloHeadLen+n]
	return h, body[helloHeadLen+n:], nil
}

// AppendChecksum ends an Initial, Retry or Refusal packet.
func AppendChecksum(packet []byte) []byte {
	return binary.BigEndian.AppendUint32(packet, crc32.Checksum(packet, castagnoli))
}

// RouteKind says what to do with a datagram.
type RouteKind uint8

// The kinds of Route.
const (
	Hello RouteKind = iota + 1 // a client's first
	Known                      // for the connection called Dest; if there is none, a reset is due
	Reply                      // for the connection called Dest; if there is none, for nobody
	Reset                      // for the connection whose peer is called Dest; if there is none, for nobody
)

// Route is where a datagram wants to go.
type Route struct {
	Kind    RouteKind
	Dest    ConnID // Known, Reply, Reset
	Source  ConnID // Hello: the client's own ID
	Version uint32 // Hello: if it is not Version, a refusal is the only answer
	Token   []byte // Hello: from an earlier retry; aliases the datagram
}

// Inspect reads as much of a datagram as its way to a connection needs. A
// Hello is at least DatagramMin bytes long, so that answers don't amplify.
func Inspect(datagram []byte) (Route, error) {
	h, err := DecodeHeader(datagram)
	if err != nil {
		return Route{}, err
	}
	switch h.Type {
	case TypeInitial:
		if h.Dest != 0 {
			return Route{Kind: Reply, Dest: h.Dest}, nil
		}
		if len(datagram) < DatagramMin {
			return Route{}, errShort
		}
		in, _, err := DecodeInitial(datagram)
		if err != nil {
			return Route{}, err
		}
		return Route{Kind: Hello, Source: in.Source, Version: in.Version, Token: in.Token}, nil
	case TypeData, TypeHandshake:
		if len(datagram) <= resetLen {
			return Route{}, errShort
		}
		if h.Type == TypeHandshake {
			return Route{Kind: Reply, Dest: h.Dest}, nil
		}
		return Route{Kind: Known, Dest: h.Dest}, nil
	case TypeReset:
		return Route{Kind: Reset, Dest: h.Dest}, nil
	default:
		return Route{Kind: Reply, Dest: h.Dest}, nil
	}
}

// AppendRetry appends a Retry packet that answers hello with token.
func AppendRetry(dst []byte, hello Route, token []byte) []byte {
	start := len(dst)
	h := Header{Type: TypeRetry, Dest: hello.Source}
	dst = append(h.Append(dst), token...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// DecodeRetry returns the token of a Retry packet; it aliases b.
func DecodeRetry(b []byte) (token []byte, err error) {
	body, err := checked(b)
	if err != nil {
		return nil, err
	}
	if len(body) <= HeaderLen || len(body) > HeaderLen+TokenMax {
		return nil, errShort
	}
	return body[HeaderLen:], nil
}

// AppendRefusal appends a Refusal packet that answers hello with what this
// code speaks.
func AppendRefusal(dst []byte, hello Route) []byte {
	start := len(dst)
	h := Header{Type: TypeRefusal, Dest: hello.Source}
	dst = binary.BigEndian.AppendUint32(h.Append(dst), Version)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

// DecodeRefusal returns the lowest version that the peer speaks.
func DecodeRefusal(b []byte) (version uint32, err error) {
	body, err := checked(b)
	if err != nil {
		return 0, err
	}
	if len(body) < HeaderLen+4 {
		return 0, errShort
	}
	return binary.BigEndian.Uint32(body[HeaderLen:]), nil
}

// AppendReset appends a Reset packet for the connection that the peer calls id.
func AppendReset(dst []byte, id ConnID, token [ResetTokenLen]byte) []byte {
	h := Header{Type: TypeReset, Dest: id}
	return append(h.Append(dst), token[:]...)
}

// DecodeReset returns the token of a Reset packet.
func DecodeReset(b []byte) (token [ResetTokenLen]byte, err error) {
	if len(b) != resetLen {
		return token, errShort
	}
	return [ResetTokenLen]byte(b[HeaderLen:]), nil
}

func checked(b []byte) ([]byte, error) {
	if len(b) < HeaderLen+checksumLen {
		return nil, errShort
	}
	body, sum := b[:len(b)-checksumLen], binary.BigEndian.Uint32(b[len(b)-checksumLen:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, errChecksum
	}
	return body, nil
}
