package volume

import (
	"slices"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/mutation"
)

const (
	// paceWindow is how often the speed of a resync is reconsidered, unless so few ops
	// of hosts have ended that one of them would decide: then after paceWindowMax.
	paceWindow    = 50 * time.Millisecond
	paceWindowMax = 4 * paceWindow
	// paceAfresh is after how long without a step the next one begins another resync, slowly.
	paceAfresh = 2 * time.Second

	paceOps    = 100 // by which a 99th percentile can be told
	paceFewOps = 20  // by which it can be guessed, and a median be told
	// paceMemory is by how many ops, the last ones, it is known what hosts wait without resync:
	// between half of that and all.
	paceMemory = 2000
	// paceMedians is of how many times that hosts were listened to the lowest median counts: for
	// a moment after all has stood still hosts send what has queued, which is not what is usual.
	paceMedians = 10
	// paceCalmMax is for hosts that had to wait long without resync: the bound is that of ones that waited as long.
	paceCalmMax = 50 * time.Millisecond
	// paceQuiet is after how long without an op of a host nobody is there whom a resync could slow down.
	paceQuiet = time.Second
	// paceJobs is how many regions are under way at first where there are no hosts; else it is one.
	paceJobs = 16
	// paceUpset is the part of Config.PaceListen for which hosts' ops tell nothing after some have
	// waited for a takeover or for a replica: what has come meanwhile follows all at once. A pause in
	// which hosts are listened to again is as long, and comes each paceAgain times that.
	paceUpset = 5
	paceAgain = 20
	// paceDebt and paceCredit bound what is remembered of earlier windows, in ops: ten and
	// two late ones.
	paceDebt, paceCredit = 1000, 200
)

// pacer has resync go as fast as hosts let it. What they may have to wait follows from what they wait
// without resync: Config.PaceFactor times the 99th percentile, usually twice that, and half as much more for the median;
// Config.Pace if that is more. It is measured whenever there is no resync, and while there is one, in pauses: of
// Config.PaceListen before it, and short ones all the time, since what else the hosts and
// the nodes have to do changes.
//
// While more than one op of 100, or half of them, take longer, half as many regions are under way, and when
// it is one at a time, the pause before each doubles; while not, both become better
// again, once as many ops were in time as make up for those that were late before: or
// each window that finds the limit by going beyond it would have them late on the whole. A
// step that takes long by itself counts as well: the replica has more to do than it can.
//
// Where there are no hosts, and so nobody to find a limit for, it doubles with each window, unless those of
// other volumes are there: see Share.
//
// The median is there for what the tail does not show. A host has so many ops under way and no more: where they
// take longer than it can bear, those to come wait in the host, for long, and nobody
// else sees it. The median has moved by then, and a hundred ops tell it.
type pacer struct {
	calm   Latency    // of hosts' ops without resync
	period Latency    // of those since ended
	ended  clock.Mono // when the last median was taken
	median [paceMedians]time.Duration
	taken  int        // medians so far
	silent clock.Mono // until then no step begins
	heard  clock.Mono // when hosts were listened to last; 0: never
	upset  clock.Mono // ops that began before tell nothing
	lastOp clock.Mono // when the last one ended; 0: none has

	bound, usual time.Duration // what 99 of 100 ops, and half of them, may take

	ops         int        // in the window
	late, tardy int        // of these, those that took longer than bound, and than usual
	slow        bool       // a step of the window took long
	from        clock.Mono // beginning of the window
	debt        int        // ops that have to be in time, for the late ones of earlier windows
	off         bool       // hosts wait for something else, which the end of the resync would change
	jobs        int        // regions at a time, for each replica
	gap         time.Duration
}

// disturbed says that ops have waited for something else than the work of others.
func (c *pacer) disturbed(cfg *Config, now clock.Mono) {
	c.upset = now.Add(cfg.PaceListen / paceUpset)
}

// saw counts an op of a host that took d, while there was resync or not.
func (c *pacer) saw(cfg *Config, now clock.Mono, d time.Duration, resync bool) {
	c.lastOp = now
	cfg.Share.Saw(now)
	if now.Add(-d) < c.upset {
		return
	}
	// One that began before the pause may have waited for a step.
	if cfg.PaceListen > 0 && (!resync || now < c.silent && now.Add(-d) >= c.heard) {
		c.calm.addFading(d, paceMemory)
		if c.period.add(d); c.period.Count >= paceOps && now >= c.ended.Add(cfg.PaceListen/paceUpset) {
			c.median[c.taken%paceMedians] = c.period.Quantile(0.5)
			c.taken++
			c.period, c.ended = Latency{}, now
		}
		return
	}
	c.ops++
	if d > max(c.bound, cfg.Pace) {
		c.late++
	}
	if d > max(c.usual, cfg.Pace) {
		c.tardy++
	}
}

// quiet tells whether the volume has no hosts, as far as their ops show.
func (c *pacer) quiet(now clock.Mono) bool { return c.lastOp == 0 || now >= c.lastOp.Add(paceQuiet) }

// shares tells whether steps go in turns with those of the node's other volumes: this one has no hosts, and others have.
func (c *pacer) shares(cfg *Config, now clock.Mono) bool {
	return cfg.Pace > 0 && !c.off && c.quiet(now) && cfg.Share.yields(now)
}

// took counts a copy that took d.
func (c *pacer) took(cfg *Config, d time.Duration) {
	cfg.Share.took(d)
	if d > cfg.RequestTimeout/4 {
		c.slow = true
	}
}

// steps is how many comparisons, and regions that are copied, may be under way for a replica.
func (c *pacer) steps(cfg *Config) int {
	if cfg.Pace == 0 || c.off {
		return cfg.RebuildJobs
	}
	return max(1, min(c.jobs, cfg.RebuildJobs))
}

// stepRegions is how many regions one step may copy: half of what may be under way.
func (c *pacer) stepRegions(cfg *Config) int { return max(1, c.steps(cfg)/2) }

// pause is what to wait before the next step.
func (c *pacer) pause(cfg *Config, now clock.Mono) time.Duration {
	switch {
	case cfg.Pace == 0 || c.off:
		return 0
	case now < c.silent:
		return c.silent.Sub(now)
	}
	if wait := c.listen(cfg, now); wait > 0 {
		return wait
	}
	if c.shares(cfg, now) {
		c.jobs, c.gap = 2*int(cfg.CopyRegions), 0
		c.window(cfg, now)
		return 0
	}
	if c.jobs == 0 || now >= c.from.Add(paceAfresh) {
		if c.jobs, c.gap = 1, 0; c.quiet(now) {
			c.jobs = min(paceJobs, max(1, cfg.RebuildJobs))
		}
		c.window(cfg, now)
	}
	if age := now.Sub(c.from); age >= paceWindowMax || age >= paceWindow && (c.ops == 0 || c.ops >= paceOps || c.late > 1) {
		c.adapt(cfg, now)
		c.window(cfg, now)
	}
	return c.gap
}

// listen has nothing copied for a while, where it is time to hear what hosts wait without that. It
// is time before a resync of which nothing is known, and again and again while there are
// any hosts.
func (c *pacer) listen(cfg *Config, now clock.Mono) time.Duration {
	wait := cfg.PaceListen / paceUpset
	switch {
	case wait == 0:
		return 0
	case c.heard == 0 && c.calm.Count < paceOps:
		wait = cfg.PaceListen
	case c.heard == 0:
		wait = 0
	case now < c.heard.Add(paceAgain*wait) || c.ops == 0:
		return 0
	}
	c.heard, c.silent, c.from = now, now.Add(wait), c.from.Add(wait)
	return wait
}

// window begins another one.
func (c *pacer) window(cfg *Config, at clock.Mono) {
	c.ops, c.late, c.tardy, c.slow, c.from = 0, 0, 0, false, at
	if c.calm.Count >= paceFewOps {
		// A quantile is an eighth too much at most.
		most := times(paceCalmMax, cfg.PaceFactor)
		c.bound = min(times(c.calm.Quantile(0.99)*8/9, cfg.PaceFactor), most)
		c.usual = min(times(c.calmMedian()*8/9, medianFactor(cfg)), most)
	}
}

// medianFactor is what the median of hosts' ops may be, times what it is without resync.
func medianFactor(cfg *Config) float64 { return 1 + (cfg.PaceFactor-1)/2 }

func times(d time.Duration, factor float64) time.Duration {
	return time.Duration(float64(d) * factor)
}

// calmMedian is what half of hosts' ops take without resync.
func (c *pacer) calmMedian() time.Duration {
	if c.taken == 0 {
		return c.calm.Quantile(0.5)
	}
	return slices.Min(c.median[:min(c.taken, paceMedians)])
}

// adapt changes the speed by what was seen in a window.
func (c *pacer) adapt(cfg *Config, now clock.Mono) {
	least := cfg.PaceMax / 64
	late := c.late*100 > c.ops || c.ops >= paceFewOps && c.tardy*2 > c.ops || c.slow
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
	case c.quiet(now):
		c.jobs = min(2*c.jobs, max(1, cfg.RebuildJobs))
	default:
		c.jobs = min(c.jobs+max(1, c.jobs/4), max(1, cfg.RebuildJobs))
	}
}
