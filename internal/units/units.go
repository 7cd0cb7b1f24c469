// Package units reads and writes sizes as people type them: 10GiB, 1.5TiB, or
// plain bytes.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var suffixes = []struct {
	name  string
	shift uint
}{{"EiB", 60}, {"PiB", 50}, {"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}}

// ParseBytes reads a size: a number, with an optional binary suffix (KiB to
// EiB, or K to E, in either case). The result is not negative. Decimal suffixes
// (GB) are refused, since hosts count in powers of two.
func ParseBytes(s string) (int64, error) {
	text := strings.TrimSpace(s)
	end := len(text)
	for end > 0 && (text[end-1] < '0' || text[end-1] > '9') {
		end--
	}
	num, suffix := text[:end], strings.TrimSpace(text[end:])
	shift := uint(0)
	switch {
	case suffix == "" || strings.EqualFold(suffix, "B"):
	default:
		found := false
		for _, u := range suffixes {
			if strings.EqualFold(suffix, u.name) || strings.EqualFold(suffix, u.name[:1]) {
				shift, found = u.shift, true
			}
		}
		if !found {
			return 0, fmt.Errorf("size %q: want bytes, or a number with KiB, MiB, GiB, TiB, PiB or EiB, such as 10GiB or 1.5TiB", s)
		}
	}
	if n, err := strconv.ParseUint(num, 10, 63); err == nil {
		if n > math.MaxInt64>>shift {
			return 0, fmt.Errorf("size %q is larger than %d bytes", s, int64(math.MaxInt64))
		}
		return int64(n) << shift, nil
	}
	whole, frac, ok := strings.Cut(num, ".")
	if !ok || shift == 0 || len(frac) == 0 || len(frac) > 12 || strings.Trim(whole+frac, "0123456789") != "" {
		return 0, fmt.Errorf("size %q: want bytes, or a number with KiB, MiB, GiB, TiB, PiB or EiB, such as 10GiB or 1.5TiB", s)
	}
	f, err := strconv.ParseFloat(num, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: %w", s, err)
	}
	v := math.Ldexp(f, int(shift))
	if v >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q is larger than %d bytes", s, int64(math.MaxInt64))
	}
	return int64(v), nil
}

// FormatBytes writes n in the largest unit that leaves at least 1, with at most
// one decimal; what is exact without one has none.
func FormatBytes(n int64) string {
	for _, u := range suffixes {
		unit := int64(1) << u.shift
		if n < unit && n > -unit {
			continue
		}
		if n%unit == 0 {
			return fmt.Sprintf("%d%s", n/unit, u.name)
		}
		return fmt.Sprintf("%.1f%s", float64(n)/float64(unit), u.name)
	}
	return fmt.Sprintf("%dB", n)
}
