package packet

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b to acc in ones' complement, as little-endian 64-bit words: RFC 1071
// §2 shows that neither the width of the words nor their byte order matters, as
// long as the result is stored in the same order. An odd last byte counts as if
// a zero followed it, so only the last piece of several may be odd.
func sum(b []byte, acc uint64) uint64 {
	var carry uint64
	for len(b) >= 64 {
		// One chain of additions with carry, which the compiler makes ADCs of.
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[0:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(tail[:]), carry)
	acc, carry = bits.Add64(acc, 0, carry)
	return acc + carry
}

// fold brings a sum to 16 bits, to be stored little-endian.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xFFFFFFFF
	acc = acc>>32 + acc&0xFFFFFFFF
	acc = acc>>16 + acc&0xFFFF
	acc = acc>>16 + acc&0xFFFF
	return uint16(acc)
}

// swap16 is a big-endian field's value as a little-endian load would see it.
func swap16(v uint16) uint16 { return bits.ReverseBytes16(v) }
