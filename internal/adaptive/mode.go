package adaptive

import "fmt"

// Mode is how a source is waited for.
type Mode uint8

// The modes.
const (
	Adaptive  Mode = iota // poll for as long as it pays, then sleep
	Busy                  // poll and never sleep
	Interrupt             // sleep and never poll
)

// String returns the mode as ParseMode reads it.
func (m Mode) String() string {
	switch m {
	case Adaptive:
		return "adaptive"
	case Busy:
		return "busy"
	case Interrupt:
		return "interrupt"
	}
	return fmt.Sprintf("mode(%d)", uint8(m))
}

// ParseMode reads a mode from a configuration.
func ParseMode(s string) (Mode, error) {
	for m := Adaptive; m <= Interrupt; m++ {
		if s == m.String() {
			return m, nil
		}
	}
	return 0, fmt.Errorf("poll mode %q: give adaptive, busy or interrupt", s)
}
