//go:build !linux || race

package ram

// regionBytes is how much is allocated at a time. Race builds use the Go heap
// so that the race detector watches the device's memory; it can't see other
// mappings.
const regionBytes = 2 << 20

func mapRegion(bool) ([]byte, error) { return make([]byte, regionBytes), nil }

func unmapRegion([]byte) error { return nil }

// discard zeroes mem.
func discard(mem []byte) { clear(mem) }
