package lease

import (
	"fmt"
	"time"
)

// Config is the same on all nodes of a cluster. Zero fields mean the defaults.
type Config struct {
	// Duration is how long a lease lasts from the reading before its renewal
	// was sent. Default 6 s; at least 100 ms.
	Duration time.Duration
	// Margin is how long before that end the owner stops accepting requests,
	// so that those it has accepted are answered in time. Default a tenth of
	// Duration; less than half of it.
	Margin time.Duration
	// DriftPPM bounds how much faster one node's clock may run than
	// another's, in millionths. Default 10,000, which is 1%: a hundred times
	// what crystals do, and twenty times what NTP may slew. At most 200,000.
	DriftPPM int
}

func (c Config) withDefaults() Config {
	if c.Duration == 0 {
		c.Duration = 6 * time.Second
	}
	if c.Margin == 0 {
		c.Margin = c.Duration / 10
	}
	if c.DriftPPM == 0 {
		c.DriftPPM = 10_000
	}
	return c
}

// Validate names the first field that is out of range.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case c.Duration < 100*time.Millisecond || c.Duration > time.Hour:
		return fmt.Errorf("lease: Duration is %s; it must be 100ms to 1h", c.Duration)
	case c.Margin < 0 || c.Margin >= c.Duration/2:
		return fmt.Errorf("lease: Margin is %s; it must be less than half of Duration, %s", c.Margin, c.Duration)
	case c.DriftPPM < 1 || c.DriftPPM > 200_000:
		return fmt.Errorf("lease: DriftPPM is %d; it must be 1 to 200000", c.DriftPPM)
	}
	return nil
}

// wait is how long a leader waits by its own clock until Duration has passed
// by anybody's: Duration*(1+drift), rounded up.
func (c Config) wait() time.Duration {
	return c.Duration + time.Duration((int64(c.Duration)*int64(c.DriftPPM)+999_999)/1_000_000)
}
