package verify

import (
	"encoding/binary"
	"hash/crc32"
)

// A block as it is written, little-endian:
//
//	 0        8        16       24       32     36    40
//	+--------+--------+--------+--------+------+-----+--------- - -
//	| magic  | volume | offset | write  | run  | crc | filling
//	+--------+--------+--------+--------+------+-----+--------- - -
//
// volume is the journal's random id; offset counts bytes from the start of the
// device; write is the number of the write, from 1; run counts the processes
// that used the journal. crc is the CRC32C of the block with zeroes in its
// place. The filling follows from volume, offset and write.
const (
	blockMagic  = 0x31594652_45564b42 // "BKVERFY1"
	volumeAt    = 8
	offsetAt    = 16
	writeAt     = 24
	runAt       = 32
	crcAt       = 36
	fillingAt   = 40
	sectorBytes = 512 // what a disk writes in one piece at least
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// stamp is what a block says of itself.
type stamp struct {
	volume uint64
	offset int64
	write  uint64
	run    uint32
}

// fill makes the block of s in b.
func (s stamp) fill(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, blockMagic)
	le.PutUint64(b[volumeAt:], s.volume)
	le.PutUint64(b[offsetAt:], uint64(s.offset))
	le.PutUint64(b[writeAt:], s.write)
	le.PutUint32(b[runAt:], s.run)
	le.PutUint32(b[crcAt:], 0)
	x := mix(s.volume ^ mix(uint64(s.offset)^mix(s.write)))
	for at := fillingAt; at < len(b); at += 8 {
		x += 0x9e3779b97f4a7c15
		le.PutUint64(b[at:], x^x>>29*0xbf58476d1ce4e5b9)
	}
	le.PutUint32(b[crcAt:], crc32.Checksum(b, castagnoli))
}

// readStamp reads what b says of itself. ours is false for what is no pattern,
// whole for one whose CRC is right.
func readStamp(b []byte) (s stamp, ours, whole bool) {
	le := binary.LittleEndian
	if le.Uint64(b) != blockMagic {
		return s, false, false
	}
	s = stamp{le.Uint64(b[volumeAt:]), int64(le.Uint64(b[offsetAt:])), le.Uint64(b[writeAt:]), le.Uint32(b[runAt:])}
	var none [4]byte
	crc := crc32.Update(0, castagnoli, b[:crcAt])
	crc = crc32.Update(crc, castagnoli, none[:])
	crc = crc32.Update(crc, castagnoli, b[crcAt+4:])
	return s, true, crc == le.Uint32(b[crcAt:])
}

// mix is the finaliser of splitmix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
