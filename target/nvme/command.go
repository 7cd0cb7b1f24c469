package nvme

import (
	"encoding/binary"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/turn"
)

// Direction says which way a command's data goes.
type Direction uint8

// The directions.
const (
	DirNone Direction = iota
	DirIn             // controller to host (C2HData)
	DirOut            // host to controller (in-capsule or H2CData)
)

// Command is one submission queue entry on its way through a controller. The
// transport owns the struct, pools it, and drives it through these steps:
//
//  1. Set SQE, Done and Gone; call Queue.Prepare, in the order in which commands
//     arrived on the queue. It either ends the command at once (returns false,
//     with Status and Result set; Done is not called) or sets Dir and Length
//     and returns true.
//  2. Give Data a list of exactly Length bytes (DirIn, DirOut; none for 0). With
//     Lends it may stay nil: the command borrows the device's memory then. For DirOut receive Length bytes into it and set OutLen. A command that
//     is given up before step 3 goes to Queue.Cancel.
//  3. Call Queue.Execute. Done is called exactly once, from any goroutine,
//     possibly before Execute returns, with Status, Result and InLen set.
//  4. Send the response, with Segments; release Data; call Reset, which returns what
//     was borrowed; reuse.
//
// Fabrics commands are commands like others, but for Connect, which goes to
// Subsystem.Connect, and Authentication Send and Receive, which are the
// transport's: see Fabrics.
type Command struct {
	// SQE is the submission queue entry as it came from the wire.
	SQE [64]byte

	// Dir and Length are set by Prepare: which way data goes and how many
	// bytes. Length is what the SGL in the SQE announces, and at most
	// MaxTransferBytes.
	Dir    Direction
	Length int
	// Lends is set by Prepare when the command can do without Data.
	Lends bool

	// Data is the transport's buffer of Length bytes.
	Data *arena.SG
	// OutLen is how many bytes of the host's data arrived. Fewer than Length
	// end the command with Data Transfer Error and without effect.
	OutLen int
	// InLen is how many bytes of Segments are to be sent: Length for a DirIn
	// command that succeeded, else 0.
	InLen int

	// Status is the end of the command; Result is Dword 0 and 1 of the CQE.
	Status Status
	Result uint64

	// Done is set once by the transport (a bound method, no closure per command).
	Done func(*Command)
	// Gone is set once by the transport too: see blockdev.Request. The flag is set
	// before the host can know of the end of its connection by this side.
	Gone *atomic.Bool
	// Soon is set once by the transport too, or nil: see blockdev.Request.
	Soon turn.Soon
	// Owner is the transport's own.
	Owner any

	// state is the command set's.
	state commandState
}

// Opcode is byte 0 of the entry.
func (c *Command) Opcode() uint8 { return c.SQE[0] }

// CID is the Command Identifier.
func (c *Command) CID() uint16 { return binary.LittleEndian.Uint16(c.SQE[2:]) }

// NSID is the Namespace Identifier.
func (c *Command) NSID() uint32 { return binary.LittleEndian.Uint32(c.SQE[4:]) }

// Fabrics gives the Fabrics command type of a Fabrics command (opcode 7Fh).
func (c *Command) Fabrics() (fctype uint8, ok bool) { return c.SQE[4], c.SQE[0] == OpFabrics }

// cdw reads Command Dword n.
func (c *Command) cdw(n int) uint32 { return binary.LittleEndian.Uint32(c.SQE[4*n:]) }

// cdq reads Command Dwords n and n+1.
func (c *Command) cdq(n int) uint64 { return binary.LittleEndian.Uint64(c.SQE[4*n:]) }

// SGLKind says where a command's data is.
type SGLKind uint8

// The kinds of SGL descriptor that NVMe/TCP has (NVMe Base 2.0 §4.1.2, TCP
// Transport 1.0 §3.3.2.1): type in bits 7:4 and subtype in 3:0.
const (
	SGLInCapsule SGLKind = 0x01 // Data Block with an offset into the capsule
	SGLTransport SGLKind = 0x5a // Transport SGL Data Block
)

// SGL is the one descriptor in a command (SGL1).
type SGL struct {
	Offset uint64 // SGLInCapsule: from ICDOFF on
	Length uint32 // bytes
	Kind   SGLKind
}

// SGL decodes SGL1, bytes 24 to 39 of the entry.
func (c *Command) SGL() SGL {
	return SGL{
		Offset: binary.LittleEndian.Uint64(c.SQE[24:]),
		Length: binary.LittleEndian.Uint32(c.SQE[32:]),
		Kind:   SGLKind(c.SQE[39]),
	}
}

// Attended is what a prepared Read waits for; nil for other commands, and where the device
// has nothing to attend.
func (c *Command) Attended() blockdev.Attended {
	if st := &c.state; c.SQE[0] == OpRead && st.att != nil && st.queue.id != 0 {
		return blockdev.AttendedOf(st.att.ns.device)
	}
	return nil
}

// MaxTransferBytes is the longest data of a command, and what MDTS says.
const MaxTransferBytes = 1 << mdtsShift

const mdtsShift = 20
