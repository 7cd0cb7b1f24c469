package blockdev

import (
	"sync/atomic"

	"blockd.dev/internal/clock"
	"blockd.dev/internal/turn"
)

// Device is a linear array of logical blocks.
//
// Submit takes requests and returns without waiting for storage; each request
// is completed exactly once by a call of its Done, from any goroutine and
// possibly before Submit returns. Neither Submit nor Done may block on the
// other: a Done must not wait for another request of the same device.
//
// Durability. A completed write may sit in a volatile cache until a flush
// that was submitted after it completes, or at once when the write carried
// FUA. After a power cut each logical block written since holds its old or a
// new content, never a mixture, and a durable block holds what was
// acknowledged last.
//
// Order. Requests in flight together have no order among them; where they
// overlap, each logical block ends as one of them wrote it. A request
// submitted after another's Done sees its effect.
type Device interface {
	// Geometry returns the device's current shape. It is cheap, never blocks,
	// and the size in it only changes together with a Change notice.
	Geometry() Geometry

	// Submit starts every request of the batch. The slice may be reused by the
	// caller when Submit returns; the requests and their buffers belong to the
	// device until Done.
	Submit(batch []*Request)

	// Watch calls fn after every change of size, read-only state or health,
	// from any goroutine, until stop is called. fn must not block.
	Watch(fn func(Change)) (stop func())
}

// Geometry describes a device. Sizes and offsets are in bytes.
type Geometry struct {
	SizeBytes         int64 // a multiple of BlockSize
	BlockSize         int   // logical block: 512 or 4096; the unit of every request
	PhysicalBlockSize int   // the unit written without read-modify-write; at least BlockSize
	OptimalIOBytes    int   // preferred transfer; 0 means no preference
	UnmapGranularity  int   // bytes that Unmap can free; 0 means Unmap only zeroes
	Thin              bool  // holes take no space and read as zeroes
	ReadOnly          bool
	Poisons           bool // OpPoison works; it does not change
	Lends             bool // reads may Borrow; it does not change
}

// Withdrawer is implemented by devices that hold requests back before they begin them.
type Withdrawer interface {
	// Withdraw takes back a request of Submit that has not begun: it reports true, and
	// the request is the submitter's, without a call of Done. Otherwise, also when it was
	// never submitted, nothing changes.
	Withdraw(r *Request) bool
}

// Change tells what a Watch callback is about.
type Change uint8

// The kinds of Change.
const (
	ChangeSize     Change = iota + 1 // Geometry().SizeBytes differs
	ChangeReadOnly                   // Geometry().ReadOnly differs
	ChangeGone                       // the device fails every request from now on
)

// Op says what a Request does.
type Op uint8

// The operations. Offset and Length are multiples of BlockSize for all but
// OpFlush, which has neither.
const (
	// OpRead fills Data from [Offset, Offset+Length). Holes read as zeroes. With
	// Borrow set it gives the device's own memory instead; see Request.
	OpRead Op = iota + 1
	// OpWrite stores Data at [Offset, Offset+Length).
	OpWrite
	// OpFlush makes every write durable that was done before it was submitted.
	OpFlush
	// OpUnmap frees the range: it reads as zeroes afterwards.
	OpUnmap
	// OpWriteZeroes makes the range read as zeroes. With NoUnmap set it keeps
	// the space allocated where the device can.
	OpWriteZeroes
	// OpCompareAndWrite compares the first Length bytes of Data with the range
	// and, when equal, stores the second Length bytes, atomically against
	// every other request. Data holds 2*Length bytes. A difference is
	// ErrMiscompare with the offset of the first differing byte.
	OpCompareAndWrite
	// OpPoison marks the range as unreadable: whatever would look at a block
	// of it ends with ErrMedium, caused by ErrPoisoned, until the block is
	// written, unmapped or zeroed (NVMe Write Uncorrectable, SCSI WRITE LONG with
	// WR_UNCOR). Devices without Geometry.Poisons answer ErrInvalid.
	OpPoison
)

// String returns the operation's name as logs and fault rules spell it.
func (o Op) String() string {
	switch o {
	case OpRead:
		return "read"
	case OpWrite:
		return "write"
	case OpFlush:
		return "flush"
	case OpUnmap:
		return "unmap"
	case OpWriteZeroes:
		return "write-zeroes"
	case OpCompareAndWrite:
		return "compare-and-write"
	case OpPoison:
		return "poison"
	}
	return "invalid-op"
}

// Request is one operation on a Device. The submitter owns the struct and
// every buffer in it again once Done has been called; a device keeps no
// reference past that.
type Request struct {
	Op      Op
	FUA     bool // the effect is durable before Done
	NoUnmap bool // OpWriteZeroes: keep the space allocated

	Offset int64 // bytes from the start of the device
	Length int64 // bytes

	// Data is the scatter-gather list: Length bytes in total for OpRead and
	// OpWrite, 2*Length for OpCompareAndWrite, unused otherwise. Segments have
	// any length and alignment; 4 KiB-aligned ones avoid a copy.
	Data [][]byte

	// Borrow spares an OpRead the copy, on devices with Geometry.Lends. Data is
	// nil when it is submitted; with success the device sets it to Length bytes
	// of its own memory and Lender to itself. Nobody may change that list or that
	// memory, and whatever is written, unmapped, resized or closed meanwhile, it
	// keeps its content until Return, which belongs to every such request.
	Borrow bool
	// Lender is whom Return tells; devices set it.
	Lender Lender

	// Gone, when not nil, is set once nobody waits for the request any more: the
	// connection that it came by has ended, so its host may have sent it by another,
	// and newer ones since. A device that has a request wait before it begins to
	// change anything looks at it again right before it does, and ends what is
	// gone with ErrBusy. Wrappers pass it on.
	Gone *atomic.Bool
	// Soon, when not nil, is the turn of the connection that the request came by, in which
	// it hands over all that came together: a device may leave it the work that it
	// can do once for several requests. Wrappers pass it on.
	Soon turn.Soon
	// Since is when the request came, by clock.Boot, if it was held back since then to
	// keep to the limits of its volume; 0 means now. It was held in the order in which
	// the volume's requests came.
	Since clock.Mono

	// Done is called exactly once, with Err set. It must not block.
	Done func(*Request)
	// Err is the result, nil for success; see Error. Valid in Done and after.
	Err error

	// Tag is the submitter's own; devices do not touch it.
	Tag any

	// Internal is the device's own scratch, for state that should not cost an
	// allocation per request. It is kept across requests that reuse the struct.
	Internal any
}

// Lender is a device as a request that borrowed knows it.
type Lender interface {
	// TakeBack ends the loan of r, which was not taken back yet. Any goroutine
	// may call it, also after the device was closed.
	TakeBack(r *Request)
}

// Return ends the loan of a request with Borrow: nobody may look at Data any
// more. Where nothing is lent, to a request that failed or that has returned
// it, it does nothing.
func (r *Request) Return() {
	if l := r.Lender; l != nil {
		r.Lender = nil
		l.TakeBack(r)
		r.Data = nil
	}
}

// Mapper is implemented by thin devices that can say which ranges exist
// (GET LBA STATUS, base:allocation).
type Mapper interface {
	// NextMapped reports whether the block at offset is backed by data and how
	// many bytes from offset on share that state, at most limit. It does I/O
	// only for metadata. Offset and limit are multiples of the block size.
	NextMapped(offset, limit int64) (mapped bool, runBytes int64, err error)
}

// Provisioner is implemented by thin devices that can say how much space they
// use and how much is left to them, in bytes.
type Provisioner interface {
	// Provisioning returns the bytes that the device's data takes, and those
	// that it can still take. It is cheap and never blocks.
	Provisioning() (usedBytes, availableBytes int64)
}
