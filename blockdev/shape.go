package blockdev

import (
	"sync"
	"sync/atomic"
)

// Shape is the Geometry of a device at hand, for those who look at it for every
// request. Devices, and what is wrapped around them, copy theirs each time.
type Shape struct {
	mu sync.Mutex // one Refresh at a time, or an older geometry could win
	at atomic.Pointer[Geometry]
}

// Refresh takes the device's geometry: at first, and whenever a Watch tells of a
// Change.
func (s *Shape) Refresh(d Device) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := d.Geometry()
	s.at.Store(&g)
}

// Get is the geometry of the last Refresh, which nobody may change.
func (s *Shape) Get() *Geometry { return s.at.Load() }
