package verify

import "fmt"

// Kind says what is wrong with a block.
type Kind uint8

// The kinds of violation.
const (
	// LostWrite: an older version than the acknowledged one, which has not
	// been read since it was written.
	LostWrite Kind = iota + 1
	// StaleData: an older version than one that has been read before.
	StaleData
	// TornBlock: sectors of more than one version.
	TornBlock
	// FlippedBits: one version but for some bits.
	FlippedBits
	// MisplacedBlock: a block that was written to another offset.
	MisplacedBlock
	// UnknownData: what the journal knows nothing of.
	UnknownData
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case LostWrite:
		return "lost write"
	case StaleData:
		return "stale data"
	case TornBlock:
		return "torn block"
	case FlippedBits:
		return "flipped bits"
	case MisplacedBlock:
		return "misplaced block"
	case UnknownData:
		return "unknown data"
	}
	return fmt.Sprintf("violation %d", uint8(k))
}

// Violation is a block that holds what it may not. It is an error.
type Violation struct {
	Kind   Kind
	Offset int64  // of the block, in bytes
	Holds  string // in words
	May    string // what it may hold, in words
}

// Error is one sentence.
func (v *Violation) Error() string {
	return fmt.Sprintf("%s: the block at %d holds %s, and must hold %s", v.Kind, v.Offset, v.Holds, v.May)
}
