package scsi

import (
	"sync/atomic"

	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/turn"
)

// Direction says which way a command's data goes, seen from the initiator.
type Direction uint8

// The directions.
const (
	DirNone Direction = iota
	DirIn             // target to initiator (Data-In)
	DirOut            // initiator to target (Data-Out)
)

// TaskAttr is the task attribute (SAM-5 §8.6); the values are those of the
// iSCSI ATTR field (RFC 7143 §11.3.1).
type TaskAttr uint8

// The task attributes.
const (
	AttrUntagged TaskAttr = iota
	AttrSimple
	AttrOrdered
	AttrHeadOfQueue
	AttrACA
)

// SenseMax is the most sense data a Task carries: SPC allows 252 bytes.
const SenseMax = 252

// Task is one SCSI command on its way through a device server. The transport
// owns the struct, pools it, and drives it through these steps:
//
//  1. Set LUN, CDB, Attr, Done and Gone; call Nexus.Prepare. It parses the CDB and
//     either ends the task at once (returns false, with Status and sense set;
//     Done is not called) or sets Dir and Length and returns true.
//  2. Give Data a buffer of at least Length bytes (DirIn, DirOut). With Lends it may
//     stay nil: the task borrows the device's memory then. For DirOut
//     receive min(EDTL, Length) bytes into it and set OutLen. A task that is
//     given up before step 3 goes to Nexus.Cancel.
//  3. Call Nexus.Execute. Done is called exactly once, from any goroutine,
//     possibly before Execute returns, with Status, InLen and sense set.
//  4. Send the response, with Segments, unless Silent; release Data; call Reset,
//     which returns what was borrowed; reuse.
type Task struct {
	// LUN is the eight-byte field as it came from the wire, big-endian.
	LUN uint64
	// CDB is the command; longer ones (variable length, 7Fh) continue in it.
	// Valid until Done; it may alias the transport's buffer only until Prepare
	// returns, so Prepare copies what it needs.
	CDB  []byte
	Attr TaskAttr

	// Dir and Length are set by Prepare: which way data goes and how many
	// bytes the CDB asks to move. At most the transfer limits that the Block
	// Limits VPD page advertises.
	Dir    Direction
	Length int
	// Lends is set by Prepare when the task can do without Data.
	Lends bool

	// Data is the transport's buffer, at least Length bytes (rounded up to a
	// 4 KiB multiple by the arena); its segments cover exactly Length bytes.
	Data *arena.SG
	// Expected is how many bytes of Data-Out the initiator announced (iSCSI's
	// ExpectedDataTransferLength of a write), for commands that must refuse
	// more than they ask for. 0 when the transport has no such number.
	Expected int
	// OutLen is how many bytes of Data-Out arrived, at most Length. Commands
	// whose data is short end with the right sense.
	OutLen int
	// InLen is how many bytes of Segments the command filled, at most Length.
	InLen int

	Status   Status
	Sense    [SenseMax]byte
	SenseLen int

	// Silent means the task was aborted with no response due (SAM-5 §5.6,
	// TAS=0): free it and send nothing.
	Silent bool

	// Done is set once by the transport (a bound method, no closure per task).
	Done func(*Task)
	// Gone is set once by the transport too: see blockdev.Request. The flag is set
	// before the initiator can know of the end of its connection by this side.
	Gone *atomic.Bool
	// Soon is set once by the transport too, or nil: see blockdev.Request.
	Soon turn.Soon
	// Owner is the transport's own (the connection, the PDU state).
	Owner any

	// state is the device server's.
	state taskState
}

// Status is a SCSI status code (SAM-5 §5.3).
type Status uint8

// The status codes.
const (
	StatusGood                Status = 0x00
	StatusCheckCondition      Status = 0x02
	StatusConditionMet        Status = 0x04
	StatusBusy                Status = 0x08
	StatusReservationConflict Status = 0x18
	StatusTaskSetFull         Status = 0x28
	StatusACAActive           Status = 0x30
	StatusTaskAborted         Status = 0x40
)
