package message

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Version is the last byte of every message. A change of any field below
// needs another one; a node refuses what it does not know.
const Version = 1

// DataMax is how much data one message may carry, in bytes. The transport's
// limit of 1 MiB is for all of it, so half of it keeps pieces powers of two.
const DataMax = 512 << 10

// ErrMalformed says that a message is not one of this package, or of another
// version of it.
var ErrMalformed = errors.New("malformed message")

// Type says what a message is.
type Type uint8

// The types.
const (
	ReplicaRequest Type = iota + 1
	ReplicaResponse
	HostRequest
	HostResponse
)

// TypeOf returns the type of a message of this version, or 0.
func TypeOf(m []byte) Type {
	if len(m) < 2 || m[len(m)-1] != Version || m[len(m)-2] > uint8(HostResponse) {
		return 0
	}
	return Type(m[len(m)-2])
}

// seal ends a message.
func seal(dst []byte, t Type) []byte { return append(dst, uint8(t), Version) }

// open checks the end of a message, and splits off its fixed fields.
func open(m []byte, t Type, fixed int) (rest []byte, fields reader, err error) {
	if TypeOf(m) != t || len(m) < fixed+2 {
		return nil, nil, fmt.Errorf("%w: %d bytes, not of type %d and version %d", ErrMalformed, len(m), t, Version)
	}
	at := len(m) - fixed - 2
	return m[:at], reader(m[at : len(m)-2]), nil
}

// reader takes fixed fields, whose total open has checked.
type reader []byte

func (r *reader) u8() uint8 {
	v := (*r)[0]
	*r = (*r)[1:]
	return v
}

func (r *reader) u16() uint16 {
	v := binary.BigEndian.Uint16(*r)
	*r = (*r)[2:]
	return v
}

func (r *reader) u32() uint32 {
	v := binary.BigEndian.Uint32(*r)
	*r = (*r)[4:]
	return v
}

func (r *reader) u64() uint64 {
	v := binary.BigEndian.Uint64(*r)
	*r = (*r)[8:]
	return v
}

func (r *reader) i64() int64 { return int64(r.u64()) }

// cut takes n entries of size bytes off the end of m.
func cut(m []byte, n uint32, size int) (rest, list []byte, err error) {
	if bytes := int64(n) * int64(size); bytes <= int64(len(m)) {
		at := len(m) - int(bytes)
		return m[:at], m[at:], nil
	}
	return nil, nil, fmt.Errorf("%w: a list of %d entries in %d bytes", ErrMalformed, n, len(m))
}
