package scsi

// The limits that the Block Limits VPD page (B0h) advertises and the command
// handlers enforce, in bytes where a device's block size decides the blocks.
const (
	// compareMax bounds COMPARE AND WRITE in blocks: its field has one byte.
	compareMax = 255
	// writeSameMax bounds WRITE SAME in blocks, so that a pattern keeps a
	// device busy for a bounded time. UNMAP has no limit.
	writeSameMax = 1 << 15
	// unmapDescriptorsMax bounds the UNMAP block descriptors of one command.
	// The number of blocks has no limit.
	unmapDescriptorsMax = 256
	// chunkMax is how much a handler moves at a time on its own buffers
	// (VERIFY, ORWRITE, WRITE SAME with a pattern, EXTENDED COPY).
	chunkMax = 1 << 20
)

// atomicWriter is implemented by devices that write more than one logical
// block atomically, with respect to other requests and to power cuts. The
// number of bytes is a power of two and does not change.
type atomicWriter interface{ AtomicWriteBytes() int }

// atomicBlocks is the most blocks that WRITE ATOMIC (16) may write; 0 when the
// device promises nothing beyond single blocks.
func (lu *LU) atomicBlocks() uint32 {
	a, ok := lu.device.(atomicWriter)
	if !ok {
		return 0
	}
	return uint32(min(a.AtomicWriteBytes(), MaxTransferBytes) >> lu.shift)
}

// MaxTransferBytes is the longest buffer that Prepare asks a transport for,
// and the MAXIMUM TRANSFER LENGTH that hosts are told for READ, WRITE and the
// like.
const MaxTransferBytes = 8 << 20
