package simlink

import (
	"math"
	"time"

	"blockd.dev/internal/clock"
)

// Clock is a node's clock, made from the network's time: it starts anywhere,
// runs too fast or too slow, and may jump ahead, as a machine's does that was
// suspended. The zero value is the network's time.
type Clock struct {
	ahead time.Duration // at the network's time since
	since clock.Mono
	drift float64
}

// NewClock returns a clock that is ahead of the network's at its start, and
// gains drift seconds in each (-0.5 to 1).
func NewClock(ahead time.Duration, drift float64) Clock { return Clock{ahead: ahead, drift: drift} }

// At returns what the clock shows at the network's time now.
func (c *Clock) At(now clock.Mono) clock.Mono {
	return now.Add(c.ahead + time.Duration(float64(now-c.since)*c.drift))
}

// When returns the network's time at which the clock will show local, or has.
func (c *Clock) When(local clock.Mono) clock.Mono {
	if local == clock.Never {
		return clock.Never
	}
	passed := float64(local-c.since) - float64(c.ahead)
	return c.since + clock.Mono(math.Ceil(passed/(1+c.drift)))
}

// Jump sets the clock ahead by d, zero or more, at the network's time now.
func (c *Clock) Jump(now clock.Mono, d time.Duration) {
	c.ahead = c.At(now).Sub(now) + d
	c.since = now
}
