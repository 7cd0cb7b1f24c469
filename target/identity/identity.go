// Package identity derives the names under which a volume is known to hosts
// from its 16-byte id, so that every protocol, node and restart gives the
// same volume the same names.
package identity

import (
	"crypto/sha256"
	"encoding/hex"
)

// ID is a volume's id: 16 random bytes, or the bytes of a UUID.
type ID = [16]byte

// oui stands where the names want an IEEE-assigned number. It has the
// locally-administered bit set: blockd has no assigned one, and this keeps its
// names out of the assigned space.
var oui = [3]byte{0xb2, 0x10, 0xcd}

// UUID is the id as an RFC 4122 UUID: version 4 (random) and the variant are
// forced on its bytes, so that strict readers take it.
func UUID(id ID) [16]byte {
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// UUIDString is UUID in the usual 8-4-4-4-12 form.
func UUIDString(id ID) string {
	u := UUID(id)
	b := make([]byte, 0, 36)
	for i, n := range [...]int{4, 2, 2, 2, 6} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[:n])
		copy(u[:], u[n:])
	}
	return string(b)
}

// NAA is the designator of SPC-5 §7.7.6.6.5 (IEEE Registered Extended, NAA
// 6h): 4 bits of type, 24 of OUI, 100 of a hash of the id.
func NAA(id ID) [16]byte {
	h := hash("naa", id)
	var n [16]byte
	n[0] = 0x60 | oui[0]>>4
	n[1] = oui[0]<<4 | oui[1]>>4
	n[2] = oui[1]<<4 | oui[2]>>4
	n[3] = oui[2]<<4 | h[0]&0x0f
	copy(n[4:], h[1:13])
	return n
}

// NGUID is the namespace globally unique identifier (NVMe base 2.0 §4.5.1): an
// EUI-64 based 16-byte designator, 8 bytes of extension before the OUI and 5
// after it, all of a hash of the id.
func NGUID(id ID) [16]byte {
	h := hash("nguid", id)
	var n [16]byte
	copy(n[:8], h[:8])
	copy(n[8:11], oui[:])
	copy(n[11:], h[8:13])
	return n
}

// Serial is the unit serial number: the id in hexadecimal, 32 characters.
func Serial(id ID) string { return hex.EncodeToString(id[:]) }

func hash(kind string, id ID) [32]byte {
	return sha256.Sum256(append([]byte("blockd "+kind+" "), id[:]...))
}
