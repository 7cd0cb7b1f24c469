// Package load drives a blockdev.Device with a defined mix of requests and
// measures what it does: the core of blockbench, the same for a local store
// and for an initiator's session, since both are Devices.
package load

import (
	"fmt"
	"time"
)

// Spec is one measurement.
type Spec struct {
	ReadPercent int           // 0 writes only, 100 reads only
	Sequential  bool          // consecutive offsets, wrapping; else uniformly random
	BlockBytes  int           // bytes per request, a multiple of the device's block size
	Depth       int           // requests in flight
	Runtime     time.Duration // how long to measure
	FUA         bool          // writes are durable before they count as done
	RangeBytes  int64         // use only the first bytes of the device; 0 means all
	Seed        uint64        // of the offsets and the data
}

// Name is the spec in the words of fio's --rw and --iodepth.
func (s Spec) Name() string {
	order, op := "rand", "rw"
	if s.Sequential {
		order = "seq"
	}
	switch s.ReadPercent {
	case 0:
		op = "write"
	case 100:
		op = "read"
	}
	return fmt.Sprintf("%s%s %s qd%d", order, op, size(s.BlockBytes), s.Depth)
}

func size(n int) string {
	switch {
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n%(1<<10) == 0:
		return fmt.Sprintf("%dk", n>>10)
	}
	return fmt.Sprint(n)
}

// validate names the first field that can't be served by a device of the
// given block and total size.
func (s Spec) validate(blockSize int, sizeBytes int64) error {
	switch {
	case s.ReadPercent < 0 || s.ReadPercent > 100:
		return fmt.Errorf("read percentage %d: give 0 to 100", s.ReadPercent)
	case s.BlockBytes <= 0 || s.BlockBytes%blockSize != 0:
		return fmt.Errorf("request size %d bytes: give a positive multiple of the device's block size %d", s.BlockBytes, blockSize)
	case s.Depth <= 0 || s.Depth > 4096:
		return fmt.Errorf("depth %d: give 1 to 4096", s.Depth)
	case s.Runtime <= 0:
		return fmt.Errorf("runtime %v: give a positive duration", s.Runtime)
	case s.RangeBytes < 0 || s.RangeBytes > sizeBytes:
		return fmt.Errorf("range %d bytes: the device has %d", s.RangeBytes, sizeBytes)
	case s.rangeBytes(sizeBytes) < int64(s.BlockBytes):
		return fmt.Errorf("range %d bytes is less than one request of %d", s.rangeBytes(sizeBytes), s.BlockBytes)
	}
	return nil
}

func (s Spec) rangeBytes(sizeBytes int64) int64 {
	if s.RangeBytes > 0 {
		return s.RangeBytes
	}
	return sizeBytes
}
