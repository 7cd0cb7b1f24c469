package volume

import (
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
)

const (
	// paceWindow is how often the speed of a resync is reconsidered, unless so few ops
	// of hosts have ended that one of them would decide: then after paceWindowMax.
	paceWindow    = 50 * time.Millisecond
	paceWindowMax = 4 * paceWindow
	paceOps       = 100 // by which a 99th percentile can be told
	paceFewOps    = 20  // by which it can be guessed
	// paceBoundMax is for hosts that had to wait long without resync.
	paceBoundMax = 100 * time.Millisecond
	// paceJobs is how many steps are under way at first.
	paceJobs = 4
	// paceUpset is the part of Config.PaceListen for which hosts' ops tell nothing after some have
	// waited for a takeover or for a replica: what has come meanwhile follows all at once.
	paceUpset = 5
	// paceDebt and paceCredit bound what is remembered of earlier windows, in ops: ten and
	// two late ones.
	paceDebt, paceCredit = 1000, 200
	// paceStale is how old, in Config.PaceListen, what is known of hosts may become.
	paceStale = 60
)

// pacer has resync go as fast as hosts let it. What they may have to wait is twice the
// 99th percentile that they saw without resync, and Config.Pace if that is more. It is
// measured whenever there is no resync, and while there is one, in a pause of
// Config.PaceListen now and then.
//
// While more than one op of 100 takes longer, half as many regions are under way, and when
// it is one at a time, the pause before each doubles; while not, both become better
// again, once as many ops were in time as make up for those that were late before: or
// each window that finds the limit by going beyond it would have them late on the whole. A
// step that takes long by itself counts as well: the replica has more to do than it can.
type pacer struct {
	calm   Latency // of hosts' ops without resync, since since
	since  clock.Mono
	bound  time.Duration // what hosts may have to wait; 0: not known
	heard  clock.Mono    // when bound was found
	silent clock.Mono    // until then no step begins
	upset  clock.Mono    // ops that began before tell nothing

	ops, late int        // in the window
	slow      bool       // a step of the window took long
	from      clock.Mono // beginning of the window
	debt      int        // ops that have to be in time, for the late ones of earlier windows
	jobs      int        // regions at a time, for each replica
	gap       time.Duration
}

// disturbed says that ops have waited for something else than the work of others.
func (c *pacer) disturbed(cfg *Config, now clock.Mono) {
	c.upset = now.Add(cfg.PaceListen / paceUpset)
}

// saw counts an op of a host that took d, while there was resync or not.
func (c *pacer) saw(cfg *Config, now clock.Mono, d time.Duration, resync bool) {
	if now.Add(-d) < c.upset {
		return
	}
	if cfg.PaceListen > 0 && (!resync || now < c.silent) {
		if c.calm.add(d); c.calm.Count >= paceOps && now >= c.since.Add(cfg.PaceListen) {
			c.hear(now)
		}
		return
	}
	c.ops++
	if d > max(c.bound, cfg.Pace) {
		c.late++
	}
}

// hear finds the bound by what was seen.
func (c *pacer) hear(now clock.Mono) {
	// A quantile is an eighth too much at most.
	c.bound, c.heard = min(c.calm.Quantile(0.99)*2*8/9, paceBoundMax), now
	c.calm, c.since, c.debt = Latency{}, now, 0
}

// took counts a copy that took d.
func (c *pacer) took(cfg *Config, d time.Duration) {
	if d > cfg.RequestTimeout/4 {
		c.slow = true
	}
}

// steps is how many comparisons, and regions that are copied, may be under way for a replica.
func (c *pacer) steps(cfg *Config) int {
	if cfg.Pace == 0 {
		return cfg.RebuildJobs
	}
	return max(1, min(c.jobs, cfg.RebuildJobs))
}

// stepRegions is how many regions one step may copy: half of what may be under way.
func (c *pacer) stepRegions(cfg *Config) int { return max(1, c.steps(cfg)/2) }

// pause is what to wait before the next step.
func (c *pacer) pause(cfg *Config, now clock.Mono) time.Duration {
	if cfg.Pace == 0 {
		return 0
	}
	if c.jobs == 0 {
		c.jobs, c.from = min(paceJobs, max(1, cfg.RebuildJobs)), now
	}
	if now < c.silent {
		return c.silent.Sub(now)
	}
	if c.calm.Count >= paceFewOps && c.since.Add(cfg.PaceListen) <= now {
		c.hear(now)
	}
	if cfg.PaceListen > 0 && (c.heard == 0 || now >= c.heard.Add(paceStale*cfg.PaceListen)) {
		// If hosts are too quiet to tell, what was known stands.
		c.calm, c.since, c.heard = Latency{}, now, now
		c.silent = now.Add(cfg.PaceListen)
		c.ops, c.late, c.slow, c.from = 0, 0, false, c.silent
		return cfg.PaceListen
	}
	if age := now.Sub(c.from); age >= paceWindowMax || age >= paceWindow && (c.ops == 0 || c.ops >= paceOps || c.late > 1) {
		c.adapt(cfg)
		c.ops, c.late, c.slow, c.from = 0, 0, false, now
	}
	return c.gap
}

// adapt changes the speed by what was seen in a window.
func (c *pacer) adapt(cfg *Config) {
	least := cfg.PaceMax / 64
	late := c.late*100 > c.ops || c.slow
	c.debt = max(-paceCredit, min(c.debt+c.late*100-c.ops, paceDebt))
	switch {
	case late && mutation.On(mutation.PaceForEver):
		c.gap = time.Hour
	case late && c.jobs > 1:
		c.jobs /= 2
	case late:
		c.gap = min(max(2*c.gap, least), cfg.PaceMax)
	case c.debt > 0 && c.ops > 0:
	case c.gap > least:
		c.gap /= 2
	case c.gap > 0:
		c.gap = 0
	default:
		c.jobs = min(c.jobs+max(1, c.jobs/4), max(1, cfg.RebuildJobs))
	}
}
