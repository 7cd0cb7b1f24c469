package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"blockd.dev/blockdev/disk"
)

// Sizes that the format fixes. docs/ONDISK.md draws every structure.
const (
	// BlockBytes is the unit of checksums and of atomicity.
	BlockBytes = 4096
	// ChunkBytes is the unit of space: one region of an extent lives in one
	// chunk of the data area, or in none.
	ChunkBytes = 64 << 10
	// SpanBytes is what one metadata page describes, and the most that one Op
	// may touch: an Op never crosses a multiple of it.
	SpanBytes = 2 << 20
	// ExtentBytes is the unit of the directory.
	ExtentBytes = 64 << 20

	blocksPerChunk   = ChunkBytes / BlockBytes // 16
	regionsPerPage   = SpanBytes / ChunkBytes  // 32
	blocksPerPage    = SpanBytes / BlockBytes  // 512
	pagesPerExtent   = ExtentBytes / SpanBytes // 32
	chunksPerRun     = ExtentBytes / ChunkBytes
	superBytes       = 32 << 10
	superSelectorOff = 512
	superSelectors   = (superBytes - superSelectorOff) * 8

	formatVersion = 1
	superMagic    = "BLKDSTOR"

	// maxVolumeBytes keeps extent indices within 32 bits.
	maxVolumeBytes = int64(ExtentBytes) << 31
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// zeroCRC stands for the checksum field; an array on the stack would escape.
var zeroCRC = make([]byte, 4)

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// checksumHole is the CRC32C of p with the four bytes at off taken as zero,
// which is where the sum itself is kept.
func checksumHole(p []byte, off int) uint32 {
	c := crc32.Update(0, castagnoli, p[:off])
	c = crc32.Update(c, castagnoli, zeroCRC)
	return crc32.Update(c, castagnoli, p[off+4:])
}

// The ways in which a disk can be refused.
var (
	// ErrNotAStore means that no superblock was found: the disk was never
	// formatted, or both copies are lost.
	ErrNotAStore = errors.New("not a blockd store")
	// ErrUnsupported means that a newer blockd made the store.
	ErrUnsupported = errors.New("store format is not supported by this version")
	// ErrCorrupt means that metadata or log fail their checks. Nothing is
	// served from such a store; `blockctl store check` says where it is broken.
	ErrCorrupt = errors.New("store is corrupt")
	// ErrFailed means that a write that durability depends on has failed: the
	// store is read-only until it is opened again.
	ErrFailed = errors.New("store has failed and is read-only; see the first error and replace or reopen the disk")
	// ErrClosed means that Close was called.
	ErrClosed = errors.New("store is closed")
	// ErrBusy means that the extent or volume still has operations in flight.
	ErrBusy = errors.New("volume is in use")
)

// FormatOptions say how Format lays a disk out. The zero value is right for
// real disks; tests use small numbers so that every limit is reached.
type FormatOptions struct {
	// UUID names the store; random when zero.
	UUID [16]byte
	// LogBytes is the size of the write-ahead log: a multiple of 4 KiB, at
	// least 256 KiB. 0 means 1/16 of the disk within 1 MiB to 256 MiB.
	LogBytes int64
	// MaxExtents bounds how many 64 MiB extents may have data at the same time,
	// over all thin volumes. 0 means twice what the disk holds plus 4096.
	MaxExtents int
	// MaxPages bounds how many 2 MiB spans may have data. 0 means one per 8
	// chunks (so 1.6 % of the disk is metadata), at least 64.
	MaxPages int
	// Force formats over an existing store.
	Force bool
}

// superblock is the root of everything: it is rewritten at every checkpoint,
// first copy A and then copy B, so that one of them is always whole.
type superblock struct {
	incompat    uint64 // feature bits that a reader must know
	compat      uint64 // feature bits that a reader may ignore
	uuid        [16]byte
	diskBytes   int64
	generation  uint64 // of the checkpoint
	incarnation uint64 // grows at each Open; log batches of older ones are void
	logTail     int64  // bytes from logOff
	logSeq      uint64 // of the first batch to replay, expected at logTail
	lastSeq     uint64 // highest region sequence at the checkpoint
	clean       bool   // written by Close: the log is empty
	boot        Boot   // of the machine, when the store was opened

	dirOff     int64
	dirBlocks  uint32
	maxExtents uint32
	bitmapOff  int64
	bmBlocks   uint32
	chunks     uint32
	pageOff    int64
	pageSlots  uint32
	logOff     int64
	logBytes   int64
	dataOff    int64
	superBOff  int64

	selectors []byte // one bit per directory block, then per bitmap block
}

const (
	superOffMagic   = 0
	superOffVersion = 8
	superOffCRC     = 12
	superOffFields  = 16
)

func (sb *superblock) encode(p []byte) {
	clear(p)
	le := binary.LittleEndian
	copy(p[superOffMagic:], superMagic)
	le.PutUint32(p[superOffVersion:], formatVersion)
	q := p[superOffFields:]
	le.PutUint64(q[0:], sb.incompat)
	le.PutUint64(q[8:], sb.compat)
	copy(q[16:32], sb.uuid[:])
	le.PutUint64(q[32:], uint64(sb.diskBytes))
	le.PutUint64(q[40:], sb.generation)
	le.PutUint64(q[48:], sb.incarnation)
	le.PutUint64(q[56:], uint64(sb.logTail))
	le.PutUint64(q[64:], sb.logSeq)
	le.PutUint64(q[72:], sb.lastSeq)
	if sb.clean {
		q[80] = 1
	}
	le.PutUint64(q[88:], uint64(sb.dirOff))
	le.PutUint32(q[96:], sb.dirBlocks)
	le.PutUint32(q[100:], sb.maxExtents)
	le.PutUint64(q[104:], uint64(sb.bitmapOff))
	le.PutUint32(q[112:], sb.bmBlocks)
	le.PutUint32(q[116:], sb.chunks)
	le.PutUint64(q[120:], uint64(sb.pageOff))
	le.PutUint32(q[128:], sb.pageSlots)
	le.PutUint64(q[136:], uint64(sb.logOff))
	le.PutUint64(q[144:], uint64(sb.logBytes))
	le.PutUint64(q[152:], uint64(sb.dataOff))
	le.PutUint64(q[160:], uint64(sb.superBOff))
	copy(q[168:184], sb.boot[:])
	copy(p[superSelectorOff:], sb.selectors)
	le.PutUint32(p[superOffCRC:], checksumHole(p, superOffCRC))
}

// decodeSuper reads one copy. The error is ErrNotAStore when the magic or the
// checksum is wrong, ErrUnsupported or ErrCorrupt when the copy is whole but
// can't be used.
func decodeSuper(p []byte, diskBytes int64) (*superblock, error) {
	le := binary.LittleEndian
	if string(p[:8]) != superMagic {
		return nil, fmt.Errorf("%w: magic %q, want %q", ErrNotAStore, p[:8], superMagic)
	}
	if v := le.Uint32(p[superOffVersion:]); v != formatVersion {
		return nil, fmt.Errorf("%w: format version %d, this program reads version %d", ErrUnsupported, v, formatVersion)
	}
	if got, want := le.Uint32(p[superOffCRC:]), checksumHole(p, superOffCRC); got != want {
		return nil, fmt.Errorf("%w: superblock checksum %08x, computed %08x", ErrNotAStore, got, want)
	}
	q := p[superOffFields:]
	sb := &superblock{
		incompat: le.Uint64(q[0:]), compat: le.Uint64(q[8:]),
		diskBytes: int64(le.Uint64(q[32:])), generation: le.Uint64(q[40:]), incarnation: le.Uint64(q[48:]),
		logTail: int64(le.Uint64(q[56:])), logSeq: le.Uint64(q[64:]), lastSeq: le.Uint64(q[72:]), clean: q[80] == 1,
		dirOff: int64(le.Uint64(q[88:])), dirBlocks: le.Uint32(q[96:]), maxExtents: le.Uint32(q[100:]),
		bitmapOff: int64(le.Uint64(q[104:])), bmBlocks: le.Uint32(q[112:]), chunks: le.Uint32(q[116:]),
		pageOff: int64(le.Uint64(q[120:])), pageSlots: le.Uint32(q[128:]),
		logOff: int64(le.Uint64(q[136:])), logBytes: int64(le.Uint64(q[144:])),
		dataOff: int64(le.Uint64(q[152:])), superBOff: int64(le.Uint64(q[160:])),
	}
	copy(sb.uuid[:], q[16:32])
	copy(sb.boot[:], q[168:184])
	if unknown := sb.incompat &^ (featPoison | featNotes | featUnproven); unknown != 0 {
		return nil, fmt.Errorf("%w: feature bits %#x are unknown to this program", ErrUnsupported, unknown)
	}
	if err := sb.validate(diskBytes); err != nil {
		return nil, err
	}
	sb.selectors = append([]byte(nil), p[superSelectorOff:superSelectorOff+(int(sb.dirBlocks)+int(sb.bmBlocks)+7)/8]...)
	return sb, nil
}

// validate checks that the areas follow each other inside the disk, so that no
// later arithmetic on them can leave it.
func (sb *superblock) validate(diskBytes int64) error {
	bad := func(what string, args ...any) error {
		return fmt.Errorf("%w: superblock: "+what, append([]any{ErrCorrupt}, args...)...)
	}
	if sb.diskBytes > diskBytes {
		return fmt.Errorf("%w: made on a disk of %d bytes, this one has %d: it was cut short", ErrCorrupt, sb.diskBytes, diskBytes)
	}
	want := *sb
	if sb.diskBytes < 0 || sb.diskBytes%BlockBytes != 0 {
		return bad("disk size %d", sb.diskBytes)
	}
	if sb.logBytes < minLogBytes || sb.logBytes%BlockBytes != 0 || sb.logBytes > sb.diskBytes {
		return bad("log size %d", sb.logBytes)
	}
	if sb.maxExtents == 0 || sb.pageSlots == 0 || sb.chunks == 0 ||
		int64(sb.chunks) > sb.diskBytes/ChunkBytes || int64(sb.pageSlots) > sb.diskBytes/BlockBytes ||
		int64(sb.maxExtents) > sb.diskBytes/dirEntryBytes {
		return bad("%d extents, %d pages, %d chunks on a disk of %d bytes", sb.maxExtents, sb.pageSlots, sb.chunks, sb.diskBytes)
	}
	want.place()
	if want.dirOff != sb.dirOff || want.dirBlocks != sb.dirBlocks || want.bitmapOff != sb.bitmapOff ||
		want.bmBlocks != sb.bmBlocks || want.pageOff != sb.pageOff || want.logOff != sb.logOff ||
		want.dataOff != sb.dataOff || want.superBOff != sb.superBOff {
		return bad("areas are not where their sizes put them")
	}
	if int(sb.dirBlocks)+int(sb.bmBlocks) > superSelectors {
		return bad("too many metadata blocks")
	}
	if sb.dataOff+int64(sb.chunks)*ChunkBytes > sb.superBOff {
		return bad("data area passes the end of the disk")
	}
	if sb.logTail < 0 || sb.logTail >= sb.logBytes || sb.logTail%BlockBytes != 0 {
		return bad("log tail %d", sb.logTail)
	}
	return nil
}

// place computes the position of each area from the sizes:
//
//	super A | directory pairs | bitmap pairs | page pairs | log | data | super B
func (sb *superblock) place() {
	sb.dirBlocks = (sb.maxExtents + dirEntriesPerBlock - 1) / dirEntriesPerBlock
	sb.bmBlocks = (sb.chunks + bitsPerBitmapBlock - 1) / bitsPerBitmapBlock
	sb.dirOff = 2 * superBytes
	sb.bitmapOff = sb.dirOff + 2*BlockBytes*int64(sb.dirBlocks)
	sb.pageOff = sb.bitmapOff + 2*BlockBytes*int64(sb.bmBlocks)
	sb.logOff = sb.pageOff + 2*BlockBytes*int64(sb.pageSlots)
	sb.dataOff = roundUp(sb.logOff+sb.logBytes, ChunkBytes)
	sb.superBOff = sb.diskBytes - superBytes
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// minLogBytes holds the largest single record twice: once where it is put and
// once where it does not fit before the end.
const minLogBytes = 256 << 10

// Format writes an empty store on d. It refuses a disk that holds one already
// unless o.Force is set, and one that is too small.
func Format(d disk.Disk, o FormatOptions) error {
	size := d.SizeBytes() / BlockBytes * BlockBytes
	if !o.Force {
		if sb, err := readSuper(d); err == nil {
			return fmt.Errorf("disk %s already holds store %x; format it with force to lose that data", d.Info().Path, sb.uuid)
		} else if errors.Is(err, ErrUnsupported) || errors.Is(err, ErrCorrupt) {
			return fmt.Errorf("disk %s: %w; format it with force to lose that data", d.Info().Path, err)
		}
	}
	sb := &superblock{uuid: o.UUID, diskBytes: size, generation: 1, incarnation: 1, logSeq: 1, clean: true}
	if sb.uuid == [16]byte{} {
		if _, err := rand.Read(sb.uuid[:]); err != nil {
			return fmt.Errorf("no random bytes for the store's identity: %w", err)
		}
	}
	sb.logBytes = o.LogBytes
	if sb.logBytes == 0 {
		sb.logBytes = min(max(size/16, 1<<20), 256<<20) / BlockBytes * BlockBytes
	}
	if sb.logBytes < minLogBytes || sb.logBytes%BlockBytes != 0 {
		return fmt.Errorf("log of %d bytes: want a multiple of %d, at least %d", sb.logBytes, BlockBytes, minLogBytes)
	}
	maxExtents, maxPages := int64(o.MaxExtents), int64(o.MaxPages)
	chunks := size / ChunkBytes
	if maxExtents == 0 {
		maxExtents = 2*size/ExtentBytes + 4096
		if size < 256<<20 { // a small disk: the directory must not eat it
			maxExtents = max(64, size/(256<<10))
		}
	}
	if maxPages == 0 {
		maxPages = max(chunks/8, 64)
	}
	if maxExtents < 1 || maxExtents > 1<<30 || maxPages < 1 || maxPages > 1<<30 {
		return fmt.Errorf("%d extents and %d pages: want 1 to 2^30", maxExtents, maxPages)
	}
	sb.maxExtents, sb.pageSlots = uint32(maxExtents), uint32(maxPages)
	// The bitmap's size depends on the number of chunks, and that on the space
	// the bitmap leaves: start from the most and take away what does not fit.
	for sb.chunks = uint32(min(chunks, 1<<31)); ; {
		sb.place()
		fit := (sb.superBOff - sb.dataOff) / ChunkBytes
		if fit < 1 {
			return fmt.Errorf("disk of %d bytes is too small: log and metadata leave no room for data", size)
		}
		if int64(sb.chunks) <= fit {
			break
		}
		sb.chunks = uint32(fit)
	}
	if int(sb.dirBlocks)+int(sb.bmBlocks) > superSelectors {
		return fmt.Errorf("disk of %d bytes is too large for format version %d: %d metadata blocks, at most %d",
			size, formatVersion, int(sb.dirBlocks)+int(sb.bmBlocks), superSelectors)
	}
	sb.selectors = make([]byte, (int(sb.dirBlocks)+int(sb.bmBlocks)+7)/8)

	// The superblocks go last: a disk is a store only when all else is there.
	// An old store's superblocks are wiped first for the same reason.
	io := newSyncIO(d)
	zero := disk.NewAligned(superBytes)
	if err := errors.Join(io.write(zero, 0), io.write(zero, sb.superBOff), io.sync()); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	write := func(kind byte, off int64, n uint32) error {
		p := disk.NewAligned(BlockBytes)
		for i := range n {
			b := metaBlock(p)
			b.init(kind, i, sb.uuid)
			b.seal(sb.generation)
			if err := io.write(p, off+2*BlockBytes*int64(i)); err != nil {
				return fmt.Errorf("format: %w", err)
			}
		}
		return nil
	}
	if err := write(kindDir, sb.dirOff, sb.dirBlocks); err != nil {
		return err
	}
	if err := write(kindBitmap, sb.bitmapOff, sb.bmBlocks); err != nil {
		return err
	}
	// Zeroes in the log make its blocks allocated and written in the file below,
	// so that a durable write there changes no metadata of the file system.
	zero = disk.NewAligned(int(min(sb.logBytes, 1<<20)))
	for off := int64(0); off < sb.logBytes; off += int64(len(zero)) {
		if err := io.write(zero[:min(int64(len(zero)), sb.logBytes-off)], sb.logOff+off); err != nil {
			return fmt.Errorf("format: %w", err)
		}
	}
	p := disk.NewAligned(superBytes)
	sb.encode(p)
	if err := errors.Join(io.sync(), io.write(p, 0), io.sync(), io.write(p, sb.superBOff), io.sync()); err != nil {
		return fmt.Errorf("format: %w", err)
	}
	return nil
}

// readSuper returns the newest usable superblock of d. Copy A is always written
// and synced before copy B, so B is never newer.
func readSuper(d disk.Disk) (*superblock, error) {
	size := d.SizeBytes() / BlockBytes * BlockBytes
	if size < 4*superBytes {
		return nil, fmt.Errorf("%w: disk of %d bytes is too small", ErrNotAStore, size)
	}
	io := newSyncIO(d)
	p := disk.NewAligned(superBytes)
	var a, b *superblock
	errA := io.read(p, 0)
	if errA == nil {
		a, errA = decodeSuper(p, size)
	}
	if errors.Is(errA, ErrUnsupported) || errors.Is(errA, ErrCorrupt) {
		return nil, fmt.Errorf("superblock A: %w", errA)
	}
	// B stands at the end of the disk that was formatted, which is this one
	// unless it has grown since; then A knows.
	offB := size - superBytes
	if a != nil {
		offB = a.superBOff
	}
	errB := io.read(p, offB)
	if errB == nil {
		b, errB = decodeSuper(p, size)
	}
	switch {
	case a != nil && b != nil && b.uuid == a.uuid && b.generation > a.generation:
		return nil, fmt.Errorf("%w: superblock B has generation %d, A only %d", ErrCorrupt, b.generation, a.generation)
	case a != nil:
		return a, nil
	case b != nil:
		return b, nil
	case errors.Is(errB, ErrUnsupported) || errors.Is(errB, ErrCorrupt):
		return nil, fmt.Errorf("superblock B: %w", errB)
	case errors.Is(errA, ErrNotAStore):
		return nil, errA
	}
	return nil, fmt.Errorf("superblock A: %w; superblock B: %w", errA, errB)
}
