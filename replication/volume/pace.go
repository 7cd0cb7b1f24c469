package volume

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
)

// paceWindow is how often the pause between steps of a resync is reconsidered.
const paceWindow = 50 * time.Millisecond

// pacer slows resync down while hosts have to wait: the pause before each step
// doubles when more than one op of 100 took longer than Config.Pace, and
// halves when not.
type pacer struct {
	ops, late int
	until     clock.Mono // end of the window
	gap       time.Duration
}

// saw counts an op of a host that took d.
func (c *pacer) saw(cfg *Config, d time.Duration) {
	c.ops++
	if d > cfg.Pace {
		c.late++
	}
}

// pause is what to wait before the next step.
func (c *pacer) pause(cfg *Config, now clock.Mono) time.Duration {
	if cfg.Pace == 0 {
		return 0
	}
	if now < c.until {
		return c.gap
	}
	least := cfg.PaceMax / 64
	switch {
	case c.late*100 > c.ops && mutation.On(mutation.PaceForEver):
		c.gap = time.Hour
	case c.late*100 > c.ops:
		c.gap = min(max(2*c.gap, least), cfg.PaceMax)
	case c.gap > least:
		c.gap /= 2
	default:
		c.gap = 0
	}
	c.ops, c.late, c.until = 0, 0, now.Add(paceWindow)
	return c.gap
}
