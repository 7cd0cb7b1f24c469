package packet

import "encoding/binary"

// Integers of variable length, as in RFC 9000 §16: the two upper bits of the
// first byte are the logarithm of the length.

// varintMax is the largest value that has an encoding.
const varintMax = 1<<62 - 1

// appendVarint appends v, which is at most varintMax.
func appendVarint(dst []byte, v uint64) []byte {
	switch {
	case v < 1<<6:
		return append(dst, byte(v))
	case v < 1<<14:
		return append(dst, byte(v>>8)|0x40, byte(v))
	case v < 1<<30:
		return binary.BigEndian.AppendUint32(dst, uint32(v)|0x80000000)
	default:
		return binary.BigEndian.AppendUint64(dst, v|0xc000000000000000)
	}
}

// varint returns the integer that b starts with, and how many bytes it takes:
// 0 if b is too short.
func varint(b []byte) (v uint64, n int) {
	if len(b) == 0 {
		return 0, 0
	}
	n = 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, 0
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, n
}

// reader takes integers and bytes off the front of b; after a failure it
// gives zeros.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) varint() uint64 {
	v, n := varint(r.b)
	if n == 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// limited reads an integer that must not be above high.
func (r *reader) limited(high uint64) uint64 {
	v := r.varint()
	if v > high {
		r.fail()
		return 0
	}
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) uint64() uint64 {
	if p := r.bytes(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

func (r *reader) fail() {
	r.failed = true
	r.b = nil
}
