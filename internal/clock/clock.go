// Package clock is the time that state machines are driven by: readings of a
// monotonic clock, passed in by whoever owns one. A state machine that never
// asks for the time itself can be simulated.
package clock

import "time"

// Mono is a reading of a monotonic clock: nanoseconds since a start that only
// its source knows. Readings of one source compare and subtract; those of two
// sources, or of two processes, do not. Zero is before every reading.
type Mono int64

// Never is later than every reading: the deadline of what has none.
const Never = Mono(1<<63 - 1)

// Add returns the reading d later; Never stays Never.
func (m Mono) Add(d time.Duration) Mono {
	if m == Never {
		return Never
	}
	return m + Mono(d)
}

// Sub returns the time from earlier to m.
func (m Mono) Sub(earlier Mono) time.Duration { return time.Duration(m - earlier) }

// A Clock is a source of readings that never go back.
type Clock interface {
	// Now returns the present reading. It is safe for concurrent use.
	Now() Mono
}

var start = time.Now()

// Fast reads the process's own monotonic clock without a system call. It
// stands still while the machine is suspended, so leases use Boot.
type Fast struct{}

// Now returns the time since the process started, plus one nanosecond.
func (Fast) Now() Mono { return Mono(time.Since(start)) + 1 }
