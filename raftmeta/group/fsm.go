package group

import "io"

// HashSize is the size of a state's hash in bytes.
const HashSize = 32

// FSM is the state machine that a Group replicates. Apply, Snapshot and
// Restore are never called at the same time; MaxVersion and Check may be
// called at any time.
type FSM interface {
	// MaxVersion is the newest version of commands that this binary
	// understands, 1 or more. It does not change while a Group is open.
	MaxVersion() uint32
	// Check returns an error when command, of a version up to MaxVersion,
	// is not one that this binary understands. It looks at nothing but its
	// arguments, and does not keep command.
	Check(version uint32, command []byte) error
	// Apply carries out a command that a majority has on disk. The result
	// depends on the state and the arguments alone: no clock, no random
	// source, no order of a map. A command that can't be carried out is a
	// result as well. The result has at most ResultMax bytes and belongs to
	// the Group; command is the FSM's.
	Apply(index, term uint64, version uint32, command []byte) (result []byte)
	// Snapshot returns the present state as a value that later calls to Apply
	// don't change. It should take microseconds.
	Snapshot() Snapshot
	// Restore replaces the state by what a Snapshot's WriteTo wrote, perhaps
	// on another machine, by a binary of another release. On error the state
	// is not used any more.
	Restore(r io.Reader) error
}

// Snapshot is the state at one index, immutable, and safe for concurrent use.
type Snapshot interface {
	// WriteTo writes the state; the same state gives the same bytes.
	io.WriterTo
	// Hash is a cryptographic hash of the state.
	Hash() [HashSize]byte
}

// ResultMax is the longest result of a command in bytes.
const ResultMax = 64 << 10

// CommandMax is the longest command in bytes.
const CommandMax = 1 << 20
