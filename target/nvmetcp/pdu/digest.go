package pdu

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest extends crc, 0 at first, by p: CRC32C as header and data digests use
// it (§3.3.1).
func Digest(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }

// AppendDigest appends a digest as the wire has it: least significant byte
// first.
func AppendDigest(dst []byte, crc uint32) []byte {
	return binary.LittleEndian.AppendUint32(dst, crc)
}

// DigestAt reads the digest at the start of b, which must have DigestLen bytes.
func DigestAt(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
