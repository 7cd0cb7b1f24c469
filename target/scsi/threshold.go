package scsi

import (
	"maps"
	"slices"
)

// warnsOfSpace reports whether the unit has a provisioning threshold.
func (lu *LU) warnsOfSpace() bool {
	return lu.thin() && lu.provisioner() != nil && lu.conf.Load().SoftThreshold > 0
}

// CheckSpace looks at the available space of every thin unit with a soft threshold,
// and warns hosts of those that have reached it (SBC-3 §4.7.3.8): by a unit
// attention, THIN PROVISIONING SOFT THRESHOLD REACHED, once until an eighth more
// than the threshold is available again. The owner calls it now and then, and
// whenever it likes: it does no I/O.
func (t *Target) CheckSpace() {
	t.mu.Lock()
	units := slices.Collect(maps.Values(t.mu.units))
	t.mu.Unlock()
	for _, lu := range units {
		if !lu.warnsOfSpace() {
			continue
		}
		_, available := lu.provisioner().Provisioning()
		threshold := lu.conf.Load().SoftThreshold
		switch {
		case available <= threshold:
			if !lu.low.Swap(true) && lu.mode.tellsOfSpace() {
				lu.raise(uaSpaceLow, nil)
			}
		case available > threshold+threshold/8:
			lu.low.Store(false)
		}
	}
}
