// Package sethash hashes a set so that adding or removing one element costs
// the same however large the set is. The hash is the sum, modulo 2^256, of the
// SHA-256 hashes of the elements: the order in which they came and went leaves
// no trace.
//
// It finds states that differ by a fault. It is no defence against somebody
// who may choose elements in order to make two sets collide.
package sethash

import (
	"encoding/binary"
	"math/bits"
)

// Sum is the hash of a set. The zero Sum is that of the empty set.
type Sum [4]uint64 // least significant first

// Add returns the hash of the set with the element whose SHA-256 is h.
func (s Sum) Add(h [32]byte) Sum { return s.Plus(fromBytes(h)) }

// Sub returns the hash of the set without the element whose SHA-256 is h.
func (s Sum) Sub(h [32]byte) Sum { return s.Minus(fromBytes(h)) }

// Plus returns the hash of the union of two sets that have no element in common.
func (s Sum) Plus(o Sum) Sum {
	var carry uint64
	for i := range s {
		s[i], carry = bits.Add64(s[i], o[i], carry)
	}
	return s
}

// Minus returns the hash of the set without the elements of o, all of which it has.
func (s Sum) Minus(o Sum) Sum {
	var borrow uint64
	for i := range s {
		s[i], borrow = bits.Sub64(s[i], o[i], borrow)
	}
	return s
}

func fromBytes(h [32]byte) (s Sum) {
	for i := range s {
		s[i] = binary.LittleEndian.Uint64(h[8*i:])
	}
	return s
}

// Bytes returns the hash as 32 bytes.
func (s Sum) Bytes() (b [32]byte) {
	for i, w := range s {
		binary.LittleEndian.PutUint64(b[8*i:], w)
	}
	return b
}
