package store

import (
	"encoding/binary"
	"fmt"
)

// metaBlock is the image of one 4 KiB metadata block: a directory block, a
// bitmap block or a page. The store works on the images directly, so that a
// checkpoint writes what is in memory and a read needs no decoding.
//
// Common header, little endian:
//
//	 0 magic   u32    4 crc    u32 (CRC32C of the block with this field zero)
//	 8 kind    u8     9 version u8    10 reserved u16   12 index u32
//	16 uuid    8 B (first half of the store's)
//	24 generation u64 (of the checkpoint that wrote it)
//	32 volume 16 B   48 extent u32   52 page u32   56 reserved 8 B  (pages and notes only)
type metaBlock []byte

const (
	metaMagic   = 0x646d4442 // "BDmd"
	metaVersion = 1
	metaHeader  = 64

	kindDir    = 1
	kindBitmap = 2
	kindPage   = 3
	kindNotes  = 4
)

func kindName(k byte) string {
	switch k {
	case kindDir:
		return "directory block"
	case kindBitmap:
		return "bitmap block"
	case kindNotes:
		return "notes page"
	}
	return "page"
}

func (m metaBlock) init(kind byte, index uint32, uuid [16]byte) {
	clear(m)
	le := binary.LittleEndian
	le.PutUint32(m[0:], metaMagic)
	m[8], m[9] = kind, metaVersion
	le.PutUint32(m[12:], index)
	copy(m[16:24], uuid[:8])
}

// seal stamps generation and checksum: the image is ready for the disk.
func (m metaBlock) seal(generation uint64) uint32 {
	binary.LittleEndian.PutUint64(m[24:], generation)
	crc := checksumHole(m, 4)
	binary.LittleEndian.PutUint32(m[4:], crc)
	return crc
}

func (m metaBlock) generation() uint64 { return binary.LittleEndian.Uint64(m[24:]) }
func (m metaBlock) crc() uint32        { return binary.LittleEndian.Uint32(m[4:]) }

// check tells why the image read from disk is not the block it should be.
func (m metaBlock) check(kind byte, index uint32, uuid [16]byte, generation uint64) error {
	le := binary.LittleEndian
	if got, want := le.Uint32(m[4:]), checksumHole(m, 4); got != want {
		return fmt.Errorf("%w: %s %d: checksum %08x, computed %08x", ErrCorrupt, kindName(kind), index, got, want)
	}
	switch {
	case le.Uint32(m[0:]) != metaMagic:
		return fmt.Errorf("%w: %s %d: magic %08x", ErrCorrupt, kindName(kind), index, le.Uint32(m[0:]))
	case m[9] != metaVersion:
		return fmt.Errorf("%w: %s %d: version %d", ErrUnsupported, kindName(kind), index, m[9])
	case m[8] != kind || le.Uint32(m[12:]) != index || string(m[16:24]) != string(uuid[:8]):
		return fmt.Errorf("%w: %s %d: found kind %d index %d of store %x: misplaced", ErrCorrupt, kindName(kind), index, m[8], le.Uint32(m[12:]), m[16:24])
	case m.generation() > generation:
		return fmt.Errorf("%w: %s %d: generation %d is newer than the superblock's %d", ErrCorrupt, kindName(kind), index, m.generation(), generation)
	}
	return nil
}

// Page body: per block a CRC32C, a present bit and a zero bit; per region the
// chunk and the version of its last write.
//
//	  64 crc     512 x u32
//	2112 present 64 B       block exists
//	2176 zero    64 B       block exists and reads as zeroes; nothing on disk
//	2240 region  32 x { chunk+1 u32, epoch u64, sequence u64 }
//	2880 poison  512 x u8   bit s: a host made sector s of the block unreadable
//	3392 reserved, zero
const (
	pageOffCRC     = metaHeader
	pageOffPresent = pageOffCRC + 4*blocksPerPage
	pageOffZero    = pageOffPresent + blocksPerPage/8
	pageOffRegion  = pageOffZero + blocksPerPage/8
	regionBytes    = 20
	pageOffPoison  = pageOffRegion + regionsPerPage*regionBytes
	pageEnd        = pageOffPoison + blocksPerPage
)

// The page must fit its block.
const _ = uint(BlockBytes - pageEnd)

func (m metaBlock) setPageID(vol VolumeID, extent uint32, no int) {
	copy(m[32:48], vol[:])
	binary.LittleEndian.PutUint32(m[48:], extent)
	binary.LittleEndian.PutUint32(m[52:], uint32(no))
}

func (m metaBlock) isPage(vol VolumeID, extent uint32, no int) bool {
	return string(m[32:48]) == string(vol[:]) && binary.LittleEndian.Uint32(m[48:]) == extent &&
		binary.LittleEndian.Uint32(m[52:]) == uint32(no)
}

func (m metaBlock) blockCRC(b int) uint32 { return binary.LittleEndian.Uint32(m[pageOffCRC+4*b:]) }
func (m metaBlock) setBlockCRC(b int, crc uint32) {
	binary.LittleEndian.PutUint32(m[pageOffCRC+4*b:], crc)
}

func (m metaBlock) present(b int) bool { return m[pageOffPresent+b>>3]&(1<<(b&7)) != 0 }
func (m metaBlock) zero(b int) bool    { return m[pageOffZero+b>>3]&(1<<(b&7)) != 0 }
func (m metaBlock) setBits(b int, present, zero bool) {
	mask := byte(1) << (b & 7)
	p, z := &m[pageOffPresent+b>>3], &m[pageOffZero+b>>3]
	*p &^= mask
	*z &^= mask
	if present {
		*p |= mask
	}
	if zero {
		*z |= mask
	}
}

// poison is which sectors of block b a host made unreadable. A hole may have
// such too: they take no space.
func (m metaBlock) poison(b int) byte           { return m[pageOffPoison+b] }
func (m metaBlock) setPoison(b int, sects byte) { m[pageOffPoison+b] = sects }

// exists tells whether block b is more than a hole.
func (m metaBlock) exists(b int) bool { return m.present(b) || m.poison(b) != 0 }

// anyPresent tells whether region r has a block.
func (m metaBlock) anyPresent(r int) bool {
	return binary.LittleEndian.Uint16(m[pageOffPresent+2*r:]) != 0
}

// chunk returns the chunk of region r, or noChunk.
func (m metaBlock) chunk(r int) uint32 {
	return binary.LittleEndian.Uint32(m[pageOffRegion+r*regionBytes:]) - 1
}

const noChunk = ^uint32(0)

func (m metaBlock) setChunk(r int, chunk uint32) {
	binary.LittleEndian.PutUint32(m[pageOffRegion+r*regionBytes:], chunk+1)
}

func (m metaBlock) version(r int) Version {
	o := pageOffRegion + r*regionBytes
	return Version{Epoch: binary.LittleEndian.Uint64(m[o+4:]), Seq: binary.LittleEndian.Uint64(m[o+12:])}
}

func (m metaBlock) setVersion(r int, v Version) {
	o := pageOffRegion + r*regionBytes
	binary.LittleEndian.PutUint64(m[o+4:], v.Epoch)
	binary.LittleEndian.PutUint64(m[o+12:], v.Seq)
}

// takeVersion is what a write of version v does to region r: without exact, the
// higher one counts.
func (m metaBlock) takeVersion(r int, v Version, exact bool) {
	if exact || v.compare(m.version(r)) > 0 {
		m.setVersion(r, v)
	}
}

// Directory entry: one extent, or a volume's notes (extent notesExtent).
//
//	 0 volume 16 B  16 extent u32  20 flags u32 (1: in use)
//	24 base chunk+1 u32 (where the allocator tries first)   28 chunks u32 (owned)
//	32 page  32 x { ref u32 (slot+1, top bit: copy B), crc u32 of the page image }
const (
	dirEntryBytes      = 32 + pagesPerExtent*8
	dirEntriesPerBlock = (BlockBytes - metaHeader) / dirEntryBytes
	dirUsed            = 1
	refCopyB           = 1 << 31
)

type dirEntry []byte

func (m metaBlock) entry(i int) dirEntry {
	o := metaHeader + i*dirEntryBytes
	return dirEntry(m[o : o+dirEntryBytes])
}

func (e dirEntry) used() bool        { return binary.LittleEndian.Uint32(e[20:])&dirUsed != 0 }
func (e dirEntry) vol() (v VolumeID) { copy(v[:], e[:16]); return v }
func (e dirEntry) extent() uint32    { return binary.LittleEndian.Uint32(e[16:]) }
func (e dirEntry) base() uint32      { return binary.LittleEndian.Uint32(e[24:]) - 1 }
func (e dirEntry) chunks() uint32    { return binary.LittleEndian.Uint32(e[28:]) }
func (e dirEntry) setChunks(n uint32) {
	binary.LittleEndian.PutUint32(e[28:], n)
}
func (e dirEntry) setBase(chunk uint32) { binary.LittleEndian.PutUint32(e[24:], chunk+1) }
func (e dirEntry) set(vol VolumeID, extent uint32) {
	clear(e)
	copy(e[:16], vol[:])
	binary.LittleEndian.PutUint32(e[16:], extent)
	binary.LittleEndian.PutUint32(e[20:], dirUsed)
}
func (e dirEntry) ref(page int) uint32 { return binary.LittleEndian.Uint32(e[32+8*page:]) }
func (e dirEntry) refCRC(page int) uint32 {
	return binary.LittleEndian.Uint32(e[36+8*page:])
}
func (e dirEntry) setRef(page int, ref, crc uint32) {
	binary.LittleEndian.PutUint32(e[32+8*page:], ref)
	binary.LittleEndian.PutUint32(e[36+8*page:], crc)
}

// Bitmap block: one bit per chunk, set while a region owns it.
const bitsPerBitmapBlock = (BlockBytes - metaHeader) * 8

func (m metaBlock) bit(i uint32) bool { return m[metaHeader+i>>3]&(1<<(i&7)) != 0 }
func (m metaBlock) setBit(i uint32, on bool) {
	if on {
		m[metaHeader+i>>3] |= 1 << (i & 7)
	} else {
		m[metaHeader+i>>3] &^= 1 << (i & 7)
	}
}
