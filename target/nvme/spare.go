package nvme

import (
	"maps"
	"slices"
)

// spare is the space that thin volumes can still take, as Available Spare of the
// SMART log page tells it.
type spare struct{ percent, threshold uint8 }

func (s *spare) low() bool { return s.percent < s.threshold }

// SetSpare says how much space is left to thin volumes and below how much hosts
// are to be warned, in percent. Those that have asked for it (Asynchronous Event
// Configuration bit 0) get the event Spare Below Threshold when it falls below
// (NVMe Base 2.0 §5.2.1); all see it in the SMART log page.
func (s *Subsystem) SetSpare(percent, threshold uint8) {
	next := &spare{min(percent, 100), min(threshold, 100)}
	if was := s.spare.Swap(next); !next.low() || was.low() {
		return
	}
	s.mu.Lock()
	controllers := slices.Collect(maps.Values(s.mu.controllers))
	s.mu.Unlock()
	for _, c := range controllers {
		if !c.discovery {
			c.raise(eventSpare)
		}
	}
}
