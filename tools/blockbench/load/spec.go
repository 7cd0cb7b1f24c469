// Package load drives a blockdev.Device with a defined mix of requests and
// measures what it does: the core of blockbench, the same for a local store
// and for an initiator's session, since both are Devices.
package load

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/internal/units"
)

// Spec is one measurement. The same is done on every device of a run.
type Spec struct {
	ReadPercent int           // 0 writes only, 100 reads only; not used with Mix
	Mix         Mix           // shares of operations; nil means by ReadPercent
	Sequential  bool          // consecutive offsets, wrapping; else uniformly random
	BlockBytes  int           // bytes per request, a multiple of the device's block size; not used with Sizes
	Sizes       Sizes         // shares of request sizes; nil means BlockBytes
	Depth       int           // requests in flight on each device
	Runtime     time.Duration // how long to measure
	Warmup      time.Duration // how long to load before that, without counting
	FUA         bool          // writes are durable before they count as done
	OffsetBytes int64         // where the range begins
	RangeBytes  int64         // use only so many bytes from there; 0 means to the end
	Seed        uint64        // of the offsets and the data

	// Rate limits the requests per second, over all devices; 0 means as fast as
	// it goes. Latencies then count from when a request was due, so that a
	// device which stalls can't hide it by being asked less.
	Rate float64

	// Progress is called every second with what was measured so far; nil means
	// not at all. It must not block for long.
	Progress func(Result)
}

// Mix gives each operation its share. Compare-and-writes are always of the
// smallest size, since targets bound them to few blocks.
type Mix []Share[blockdev.Op]

// Sizes gives each request size, in bytes, its share.
type Sizes []Share[int]

// Share is one of several choices and its weight, 1 or more.
type Share[T any] struct {
	What   T
	Weight int
}

// ParseMix reads "read:70,write:30": operations as blockdev names them.
func ParseMix(s string) (Mix, error) {
	return parseShares(s, func(word string) (blockdev.Op, error) {
		for op := blockdev.OpRead; op <= blockdev.OpCompareAndWrite; op++ {
			if op.String() == word {
				return op, nil
			}
		}
		return 0, fmt.Errorf("unknown operation %q: want read, write, flush, unmap, write-zeroes or compare-and-write", word)
	})
}

// ParseSizes reads "4K" or "4K:70,64K:30".
func ParseSizes(s string) (Sizes, error) {
	return parseShares(s, func(word string) (int, error) {
		n, err := units.ParseBytes(word)
		if err == nil && (n <= 0 || n > 1<<30) {
			err = fmt.Errorf("request size %q: give 1 byte to 1GiB", word)
		}
		return int(n), err
	})
}

func parseShares[T any](s string, parse func(string) (T, error)) ([]Share[T], error) {
	var out []Share[T]
	for item := range strings.SplitSeq(s, ",") {
		word, weight, has := strings.Cut(strings.TrimSpace(item), ":")
		what, err := parse(word)
		if err != nil {
			return nil, err
		}
		n := 1
		if has {
			if n, err = strconv.Atoi(weight); err != nil || n < 1 || n > 1_000_000 {
				return nil, fmt.Errorf("share %q of %q: want a whole number from 1", weight, word)
			}
		}
		out = append(out, Share[T]{what, n})
	}
	return out, nil
}

// pick takes the choice that n, a number by chance, falls on.
func pick[T any](list []Share[T], n uint64) T {
	total := 0
	for _, s := range list {
		total += s.Weight
	}
	at := int(n % uint64(total))
	for _, s := range list {
		if at -= s.Weight; at < 0 {
			return s.What
		}
	}
	return list[0].What // not reached
}

// Name is the spec in the words of fio's --rw and --iodepth.
func (s Spec) Name() string {
	order, op := "rand", "rw"
	if s.Sequential {
		order = "seq"
	}
	switch {
	case s.Mix != nil:
		op = "mix"
	case s.ReadPercent == 0:
		op = "write"
	case s.ReadPercent == 100:
		op = "read"
	}
	var sizes []string
	for _, z := range s.sizes() {
		sizes = append(sizes, size(z.What))
	}
	return fmt.Sprintf("%s%s %s qd%d", order, op, strings.Join(sizes, "/"), s.Depth)
}

func (s Spec) sizes() Sizes {
	if s.Sizes != nil {
		return s.Sizes
	}
	return Sizes{{s.BlockBytes, 1}}
}

func (s Spec) mix() Mix {
	if s.Mix != nil {
		return s.Mix
	}
	var m Mix
	if s.ReadPercent > 0 {
		m = append(m, Share[blockdev.Op]{blockdev.OpRead, s.ReadPercent})
	}
	if s.ReadPercent < 100 {
		m = append(m, Share[blockdev.Op]{blockdev.OpWrite, 100 - s.ReadPercent})
	}
	return m
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

// maxBytes is the largest request.
func (s Spec) maxBytes() int {
	largest := 0
	for _, z := range s.sizes() {
		largest = max(largest, z.What)
	}
	return largest
}

// bufferBytes is what one request needs: both halves of a compare-and-write.
func (s Spec) bufferBytes() int {
	for _, m := range s.Mix {
		if m.What == blockdev.OpCompareAndWrite {
			return 2 * s.maxBytes()
		}
	}
	return s.maxBytes()
}

// validate names the first field that can't be served by a device of the
// given block and total size.
func (s Spec) validate(blockSize int, sizeBytes int64) error {
	if s.Mix == nil && (s.ReadPercent < 0 || s.ReadPercent > 100) {
		return fmt.Errorf("read percentage %d: give 0 to 100", s.ReadPercent)
	}
	for _, z := range s.sizes() {
		if z.What <= 0 || z.What%blockSize != 0 {
			return fmt.Errorf("request size %d bytes: give a positive multiple of the device's block size %d", z.What, blockSize)
		}
	}
	switch {
	case s.Depth <= 0 || s.Depth > 4096:
		return fmt.Errorf("depth %d: give 1 to 4096", s.Depth)
	case s.Runtime <= 0:
		return fmt.Errorf("runtime %v: give a positive duration", s.Runtime)
	case s.Warmup < 0:
		return fmt.Errorf("warm-up %v: give a duration of 0 or more", s.Warmup)
	case s.Rate < 0:
		return fmt.Errorf("rate %v: give requests per second, or 0 for no limit", s.Rate)
	case s.OffsetBytes < 0 || s.OffsetBytes%int64(blockSize) != 0 || s.OffsetBytes >= sizeBytes:
		return fmt.Errorf("offset %d bytes: give a multiple of the device's block size %d below its size %d", s.OffsetBytes, blockSize, sizeBytes)
	case s.RangeBytes < 0 || s.RangeBytes > sizeBytes-s.OffsetBytes:
		return fmt.Errorf("range %d bytes: the device has %d from the offset on", s.RangeBytes, sizeBytes-s.OffsetBytes)
	case s.rangeBytes(sizeBytes) < int64(s.maxBytes()):
		return fmt.Errorf("range %d bytes is less than one request of %d", s.rangeBytes(sizeBytes), s.maxBytes())
	}
	return nil
}

func (s Spec) rangeBytes(sizeBytes int64) int64 {
	if s.RangeBytes > 0 {
		return s.RangeBytes
	}
	return sizeBytes - s.OffsetBytes
}
