package store

import (
	"encoding/binary"
	"fmt"
)

// A log batch is one write to the log: a header with records, padded to whole
// blocks, and the data blocks of its write records in order.
//
//	 0 magic u32      4 crc u32 (CRC32C of the header blocks, this field zero)
//	 8 version u16   10 header blocks u16   12 records u32
//	16 uuid 8 B      24 incarnation u64
//	32 sequence u64  40 data blocks u32     44 record bytes u32
//	48 generation u64 (of the newest checkpoint)   56 reserved u64
//	64 records
//
// Record, little endian:
//
//	 0 type u8   1 edges and flags u8   2 length u16 (all bytes)   4 extent u32
//	 8 volume 16 B
//	24 first block u32 (in the extent)   28 blocks u32
//	32 epoch u64   40 sequence u64
//	48 payload
//
// Payloads: write: CRC32C u32 per block, the data is in the batch. remap: per
// region { chunk u32, CRC32C u32 x 16 }, the data is in the chunk and durable.
// clear, zero, drop and poison have none. note: extent notesExtent, no blocks.
//
// Edges, of write, remap and poison: how many sectors at the start of the first
// block (bits 2:0) and at the end of the last (bits 5:3) the poison of which stays
// as it is. Flags: bit 6, of write, remap, clear and zero: regions whose version
// is higher keep it. Bit 7, of the same and note: a note follows the payload (see
// putNote); of several records of one op the last one has it. See docs/ONDISK.md.
const (
	batchMagic    = 0x676c4442 // "BDlg"
	batchVersion  = 1
	batchHeader   = 64
	recordHeader  = 48
	remapBytes    = 4 + 4*blocksPerChunk
	maxHeadBlocks = 16
	// maxRecordBytes is the most that one Op logs: a remap of all regions of a
	// span but the two at its ends, and two writes at those.
	maxRecordBytes = 3*recordHeader + regionsPerPage*remapBytes + 4*2*blocksPerChunk

	recWrite  = 1 // blocks whose data is in the batch
	recRemap  = 2 // whole regions whose data is in new chunks
	recClear  = 3 // blocks become holes
	recZero   = 4 // blocks read as zeroes and keep their space
	recDrop   = 5 // the extent is gone; it was empty
	recPoison = 6 // sectors become unreadable
	recNote   = 7 // nothing but a note

	flagHigher edges = 1 << 6
	flagNote   edges = 1 << 7
)

const (
	maxNoteBytes = noteHeader + 8 + 8 + noteTailBytes + 8*VoidMax

	_ = uint(maxHeadBlocks*BlockBytes - batchHeader - maxRecordBytes - maxNoteBytes)
	_ = uint(1<<16 - 1 - maxRecordBytes - maxNoteBytes) // the length field
	// Any op fits half of the smallest log, and so finds room wherever the ring
	// ends: its records, and the blocks of the regions at its two ends.
	_ = uint(minLogBytes/2/BlockBytes - 2*(blocksPerChunk-1) - (batchHeader+maxRecordBytes+maxNoteBytes+BlockBytes-1)/BlockBytes)
)

// record is a decoded record. payload aliases the batch.
type record struct {
	typ     byte
	edges   edges
	exact   bool // the regions take ver, whatever they have
	noted   bool
	note    noteRecord
	vol     VolumeID
	extent  uint32
	block   int // in the extent
	count   int
	ver     Version
	payload []byte
	data    int // write: index of its first data block in the batch
}

// putRecord writes the header of a record at p and returns its payload.
func putRecord(p []byte, typ byte, e edges, vol VolumeID, extent uint32, block, count int, ver Version, payload int) []byte {
	le := binary.LittleEndian
	p[0], p[1] = typ, byte(e)
	le.PutUint16(p[2:], uint16(recordHeader+payload))
	le.PutUint32(p[4:], extent)
	copy(p[8:24], vol[:])
	le.PutUint32(p[24:], uint32(block))
	le.PutUint32(p[28:], uint32(count))
	le.PutUint64(p[32:], ver.Epoch)
	le.PutUint64(p[40:], ver.Seq)
	return p[recordHeader : recordHeader+payload]
}

// batchInfo is the decoded header of a batch.
type batchInfo struct {
	headBlocks  int
	records     int
	recordBytes int
	dataBlocks  int
	incarnation uint64
	seq         uint64
	generation  uint64
}

func (b batchInfo) bytes() int64 { return int64(b.headBlocks+b.dataBlocks) * BlockBytes }

func sealBatch(p []byte, uuid [16]byte, b batchInfo) {
	le := binary.LittleEndian
	clear(p[:batchHeader])
	le.PutUint32(p[0:], batchMagic)
	le.PutUint16(p[8:], batchVersion)
	le.PutUint16(p[10:], uint16(b.headBlocks))
	le.PutUint32(p[12:], uint32(b.records))
	copy(p[16:24], uuid[:8])
	le.PutUint64(p[24:], b.incarnation)
	le.PutUint64(p[32:], b.seq)
	le.PutUint32(p[40:], uint32(b.dataBlocks))
	le.PutUint32(p[44:], uint32(b.recordBytes))
	le.PutUint64(p[48:], b.generation)
	head := p[:b.headBlocks*BlockBytes]
	clear(head[batchHeader+b.recordBytes:])
	le.PutUint32(p[4:], checksumHole(head, 4))
}

// peekBatch decodes the fixed part of a header without its checksum, which may
// reach past p. ok is false when p can't be the start of a batch of this store.
func peekBatch(p []byte, uuid [16]byte) (b batchInfo, ok bool) {
	le := binary.LittleEndian
	if len(p) < batchHeader || le.Uint32(p) != batchMagic || string(p[16:24]) != string(uuid[:8]) {
		return b, false
	}
	b = batchInfo{
		headBlocks: int(le.Uint16(p[10:])), records: int(le.Uint32(p[12:])), recordBytes: int(le.Uint32(p[44:])),
		dataBlocks: int(le.Uint32(p[40:])), incarnation: le.Uint64(p[24:]), seq: le.Uint64(p[32:]), generation: le.Uint64(p[48:]),
	}
	ok = b.headBlocks >= 1 && b.headBlocks <= maxHeadBlocks && b.recordBytes <= b.headBlocks*BlockBytes-batchHeader &&
		b.dataBlocks <= maxBatchBlocks
	return b, ok
}

// checkBatch verifies the checksum of a whole header, and refuses versions it
// does not know.
func checkBatch(head []byte) (whole bool, err error) {
	if binary.LittleEndian.Uint32(head[4:]) != checksumHole(head, 4) {
		return false, nil
	}
	if v := binary.LittleEndian.Uint16(head[8:]); v != batchVersion {
		return true, fmt.Errorf("%w: log batch version %d, this program reads version %d", ErrUnsupported, v, batchVersion)
	}
	return true, nil
}

// mayHave says which edges and flags a record may have.
var mayHave = [...]edges{
	recWrite: edgesAll | flagHigher | flagNote, recRemap: edgesAll | flagHigher | flagNote,
	recClear: flagHigher | flagNote, recZero: flagHigher | flagNote,
	recDrop: 0, recPoison: edgesAll, recNote: flagNote,
}

// decodeRecords appends the records of a checked header to dst. Every number is
// checked against what the format allows, so that the caller may use it as an
// index.
func decodeRecords(head []byte, b batchInfo, dst []record) ([]record, error) {
	le := binary.LittleEndian
	p := head[batchHeader : batchHeader+b.recordBytes]
	data := 0
	for i := range b.records {
		bad := func(what string) error {
			return fmt.Errorf("%w: log batch %d, record %d: %s", ErrCorrupt, b.seq, i, what)
		}
		if len(p) < recordHeader {
			return nil, bad("cut short")
		}
		n := int(le.Uint16(p[2:]))
		if n < recordHeader || n > len(p) {
			return nil, bad("bad length")
		}
		r := record{
			typ: p[0], edges: edges(p[1]) & edgesAll, exact: edges(p[1])&flagHigher == 0, noted: edges(p[1])&flagNote != 0, extent: le.Uint32(p[4:]), block: int(le.Uint32(p[24:])), count: int(le.Uint32(p[28:])),
			ver: Version{Epoch: le.Uint64(p[32:]), Seq: le.Uint64(p[40:])}, payload: p[recordHeader:n], data: data,
		}
		copy(r.vol[:], p[8:24])
		if int(r.typ) < len(mayHave) && edges(p[1])&^mayHave[r.typ] != 0 {
			return nil, fmt.Errorf("%w: log batch %d, record %d of type %d: flags %#x", ErrUnsupported, b.seq, i, r.typ, p[1])
		}
		want := 0
		switch r.typ {
		case recWrite:
			want = 4 * r.count
			data += r.count
		case recRemap:
			if r.block%blocksPerChunk != 0 || r.count%blocksPerChunk != 0 {
				return nil, bad("remap of part of a region")
			}
			want = r.count / blocksPerChunk * remapBytes
		case recClear, recZero, recDrop, recPoison, recNote:
		default:
			return nil, fmt.Errorf("%w: log batch %d, record %d: type %d", ErrUnsupported, b.seq, i, r.typ)
		}
		if r.typ == recDrop || r.typ == recNote {
			if r.count != 0 || r.block != 0 || r.typ == recNote && !r.noted {
				return nil, bad("drop or note of a range")
			}
		} else if r.count < 1 || r.count > blocksPerPage || r.block < 0 || r.block >= blocksPerPage*pagesPerExtent ||
			r.block%blocksPerPage+r.count > blocksPerPage {
			return nil, bad("range crosses a span")
		}
		if len(r.payload) < want || len(r.payload) > want && !r.noted || data > b.dataBlocks {
			return nil, bad("payload does not match its range")
		}
		if r.noted {
			var err error
			if r.note, err = decodeNote(r.payload[want:], r.ver); err != nil {
				return nil, fmt.Errorf("log batch %d, record %d: %w", b.seq, i, err)
			}
			r.payload = r.payload[:want]
		}
		dst = append(dst, r)
		p = p[n:]
	}
	if len(p) != 0 || data != b.dataBlocks {
		return nil, fmt.Errorf("%w: log batch %d: %d record bytes and %d data blocks left over", ErrCorrupt, b.seq, len(p), b.dataBlocks-data)
	}
	return dst, nil
}

func leU32(p []byte) uint32 { return binary.LittleEndian.Uint32(p) }

// recordCRC is the checksum of block i of a write record.
func recordCRC(r record, i int) uint32 { return leU32(r.payload[4*i:]) }
