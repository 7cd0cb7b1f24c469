// Package disk is the raw disk below the extent store: a file or a block
// device of a fixed size, read and written in whole sectors.
//
// It has a fast implementation (io_uring, O_DIRECT), a portable one
// (pread/pwrite on a bounded set of goroutines), and a simulated one that
// records every write and flush so that tests can cut the power between any
// two of them.
package disk

// SectorBytes is the unit of I/O, and of tearing: when power fails during a
// write each sector of it ends old or new.
const SectorBytes = 512

// BlockBytes is the alignment of offsets, lengths and buffers that every
// Disk accepts without copying.
const BlockBytes = 4096

// Disk is a linear array of sectors.
//
// Durability: a completed write may sit in a volatile cache until a Sync that
// was submitted after its completion is itself complete, or at once when the
// write carried Dsync. Until then a power cut may leave each sector of it old
// or new, independently of every other write.
//
// After a failed Sync or Dsync nothing is known about the writes before it:
// the caller must stop trusting them, never retry (the kernel may drop the
// dirty pages and report the error once).
type Disk interface {
	// SizeBytes is fixed for the life of the Disk; a multiple of BlockBytes.
	SizeBytes() int64

	// Submit starts every IO of the batch and does not wait. Each IO's Done is
	// called exactly once, from any goroutine. The slice may be reused when
	// Submit returns; IOs and buffers belong to the disk until Done.
	Submit(batch []*IO)

	// Info says how the disk is driven, for `blockctl doctor` and logs.
	Info() Info

	// Close waits for all I/O in flight and releases the descriptor.
	Close() error
}

// Info describes how a Disk is driven.
type Info struct {
	Path    string
	Driver  string // "io_uring", "pread" or "sim"
	Direct  bool   // O_DIRECT is in use
	Reason  string // why not the best driver, in words; empty when it is
	IsBlock bool   // a block device rather than a file
}

// Op says what an IO does.
type Op uint8

// The operations.
const (
	Read    Op = iota + 1
	Write      // with Dsync: durable before Done
	Sync       // every write done before it was submitted is durable
	Discard    // [Off, Off+Len) holds nothing worth keeping; contents undefined after
)

// IO is one operation on a Disk.
type IO struct {
	Op    Op
	Dsync bool  // Write only
	Off   int64 // bytes, a multiple of BlockBytes
	Len   int64 // bytes, Discard only; reads and writes move the total of Bufs
	// Bufs is the scatter-gather list. Each segment's address and length are
	// multiples of BlockBytes (arena memory and NewAligned give such).
	Bufs [][]byte

	// Done is called exactly once with Err set; it must not block.
	Done func(*IO)
	// Err is nil or an error that wraps the errno: a short transfer never
	// counts as success.
	Err error

	// Tag is the submitter's own.
	Tag any

	// Internal is the disk's scratch, kept across reuse of the struct.
	Internal any
}
