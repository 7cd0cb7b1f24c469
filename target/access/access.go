// Package access is what a node lets hosts do with a volume, whatever protocol
// they come by: through which paths they should reach it (ALUA of SCSI, ANA of
// NVMe), and whether they may write it. Whoever configures the targets sets both
// per volume; packages scsi and nvme translate.
package access

import "fmt"

// State says how well a volume is reached through this node.
type State uint8

// The states, best first. SCSI calls them (SPC-5 §5.16.2.4)
// active/optimized, active/non-optimized, unavailable and transitioning; NVMe
// (NVMe Base 2.0 §8.1.3) ANA Optimized, Non-Optimized, Inaccessible and Change.
const (
	// Optimized is the path to use.
	Optimized State = iota
	// NonOptimized works, and another node serves the volume faster.
	NonOptimized
	// Inaccessible refuses the medium: hosts must use another node.
	Inaccessible
	// Transition refuses the medium for a moment: hosts should wait.
	Transition
)

// String is the state as users see it.
func (s State) String() string {
	switch s {
	case Optimized:
		return "optimized"
	case NonOptimized:
		return "non-optimized"
	case Inaccessible:
		return "inaccessible"
	case Transition:
		return "transition"
	}
	return fmt.Sprintf("access state %d", uint8(s))
}

// Valid reports whether s is one of the states.
func (s State) Valid() bool { return s <= Transition }

// Protection says whether hosts may write a volume, and what ends it. The
// values are those of NVMe's write protection states (NVMe Base 2.0 §8.12).
type Protection uint8

// The write protection states.
const (
	// Unprotected volumes can be written.
	Unprotected Protection = iota
	// Protected volumes can't, until somebody takes the protection away.
	Protected
	// UntilPowerCycle ends with the next start of the node, and by nothing else.
	UntilPowerCycle
	// Permanent never ends.
	Permanent
)

// String is the protection as users see it.
func (p Protection) String() string {
	switch p {
	case Unprotected:
		return "none"
	case Protected:
		return "write-protect"
	case UntilPowerCycle:
		return "until-power-cycle"
	case Permanent:
		return "permanent"
	}
	return fmt.Sprintf("protection %d", uint8(p))
}

// Valid reports whether p is one of the write protection states.
func (p Protection) Valid() bool { return p <= Permanent }

// On reports whether writes are refused.
func (p Protection) On() bool { return p != Unprotected }
