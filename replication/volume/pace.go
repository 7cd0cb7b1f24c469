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
	// paceBoundMax is for hosts that had to wait long without resync.
	paceBoundMax = 100 * time.Millisecond
	// paceQuiet is after how long without an op of a host nobody is there whom a resync could slow down.
	paceQuiet = time.Second
	// paceJobs is how many regions are under way at first where there are no hosts; else it is one.
	paceJobs = 16
	// paceUpset is the part of Bound.Listen for which hosts' ops tell nothing after some have
	// waited for a takeover or for a replica: what has come meanwhile follows all at once. A pause in
	// which hosts are listened to again is as long, and comes each paceAgain times that; and for as
	// long after the last copy hosts may still feel it.
	paceUpset = 5
	paceAgain = 20
	// paceDebt and paceCredit bound what is remembered of earlier windows, in ops: ten and
	// two late ones.
	paceDebt, paceCredit = 1000, 200
)

// pacer has the resync of one volume go as fast as hosts let it: its own, and those of all other volumes that its
// node and the replicas that are brought back have to serve (Listener). What hosts may have to wait follows from what they wait
// without resync: twice the 99th percentile, and one and a half times the median, unless Bound says otherwise. It is
// measured whenever there is no resync, and while there is one, in pauses of the whole node: of
// Bound.Listen before it, and short ones all the time, since what else the hosts and
// the nodes have to do changes. The replicas' nodes are told of these, and pause as well.
//
// While more than one op of 100, or half of them, take longer, of any Ear, half as many regions are under way, and when
// it is one at a time, the pause before each doubles; while not, both become better
// again, once as many ops were in time, of each Ear, as make up for those that were late before: or
// each window that finds the limit by going beyond it would have them late on the whole. A
// step that takes long by itself counts as well: the replica has more to do than it can.
//
// Where there are no hosts, and so nobody to find a limit for, it doubles with each window.
//
// The median is there for what the tail does not show. A host has so many ops under way and no more: where they
// take longer than it can bear, those to come wait in the host, for long, and nobody
// else sees it. The median has moved by then, and a hundred ops tell it.
type pacer struct {
	listener *Listener
	ear      *Ear         // of the volume's own hosts
	told     map[int]*Ear // those of replicas' disks on other nodes, as they tell, by member
	hears    map[*Ear]hearing
	active   []*Ear // spare memory of follow

	begun    bool          // it has looked whether hosts have to be listened to first
	listened bool          // they were
	silent   clock.Mono    // until then no step begins
	hush     time.Duration // the pause that replicas' nodes have yet to be told of

	slow bool       // a step of the window took long
	from clock.Mono // beginning of the window
	jobs int        // regions at a time, for each replica
	gap  time.Duration
}

// hearing is what a pacer knows of one Ear.
type hearing struct {
	judged heard // ops that were, in earlier windows
	debt   int   // ops that have to be in time, for the late ones of earlier windows
}

func newPacer(cfg *Config) pacer {
	l := cfg.Listener
	if l == nil {
		l = &Listener{bound: Bound{Factor: DefaultFactor, Least: cfg.Pace, Listen: cfg.PaceListen}}
	}
	return pacer{listener: l, ear: l.Ear(), told: map[int]*Ear{}, hears: map[*Ear]hearing{}}
}

// tells takes what the disk of a member tells of the hosts that it serves.
func (c *pacer) tells(now clock.Mono, member int, told []int64) {
	if len(told) == 0 {
		return
	}
	if c.told[member] == nil {
		c.told[member] = &Ear{}
	}
	c.told[member].tell(now, told)
}

// quiet tells whether there are no hosts, as far as ops show.
func (c *pacer) quiet(now clock.Mono) bool {
	c.follow(now)
	return len(c.active) == 0
}

// follow hears those that have heard something of late, and forgets the others.
func (c *pacer) follow(now clock.Mono) {
	c.active = c.listener.ears(c.active[:0], now)
	for _, e := range c.told {
		if e.active(now) {
			c.active = append(c.active, e)
		}
	}
	for e := range c.hears {
		if !e.active(now) {
			delete(c.hears, e)
		}
	}
	for _, e := range c.active {
		if _, ok := c.hears[e]; !ok {
			c.hears[e] = hearing{judged: e.counts(now)}
		}
	}
}

// took counts a copy that took d.
func (c *pacer) took(cfg *Config, now clock.Mono, d time.Duration) {
	c.listener.Copying(now)
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
	if wait := c.silence(now); wait > 0 {
		return wait
	}
	c.listener.Copying(now)
	if c.jobs == 0 || now >= c.from.Add(paceAfresh) {
		if c.jobs, c.gap = 1, 0; c.quiet(now) {
			c.jobs = min(paceJobs, max(1, cfg.RebuildJobs))
		}
		for e, h := range c.hears {
			h.judged = e.counts(now)
			c.hears[e] = h
		}
		c.slow, c.from = false, now
	}
	if c.over(now) {
		c.adapt(cfg, now)
		c.slow, c.from = false, now
	}
	return c.gap
}

// silence is for how long nothing is copied, for hosts to be heard without that. It
// is time to listen before a resync if nothing is known of those there are, or if there are none: perhaps they
// wait for a takeover; and again and again while there are any.
func (c *pacer) silence(now clock.Mono) time.Duration {
	l := c.listener
	if until := clock.Mono(l.silent.Load()); until > c.silent && now < until {
		c.hold(now, until.Sub(now)) // another volume's, or another node's
	}
	if now < c.silent {
		return c.silent.Sub(now)
	}
	wait := l.bound.Listen / paceUpset
	if wait == 0 {
		return 0
	}
	again := clock.Mono(l.heard.Load()).Add(paceAgain * wait)
	unknown := !c.listened && c.ear.active(now) && !c.ear.known(paceOps)
	if c.begun && !unknown && now < again {
		return 0
	}
	first, quiet := !c.begun, c.quiet(now)
	c.begun = true
	switch {
	case first && (quiet && !c.ear.known(paceOps) || !c.known()) || unknown:
		c.listened = true
		if wait = l.bound.Listen; quiet && l.copying(now) { // others need not wait for hosts that there may be
			c.hold(now, wait)
			return wait
		}
	case first && now >= again:
		l.heard.Store(int64(now))
		return 0
	case first, quiet:
		return 0
	}
	l.Hush(now, wait)
	c.hold(now, wait)
	if !quiet { // other nodes need not wait either
		c.hush = wait
	}
	return wait
}

// hold begins the silence of this resync.
func (c *pacer) hold(now clock.Mono, wait time.Duration) {
	c.silent, c.from = now.Add(wait), c.from.Add(wait)
}

// known tells whether it is known what hosts wait without resync, of all that are heard.
func (c *pacer) known() bool {
	for _, e := range c.active {
		if !e.known(paceOps) {
			return false
		}
	}
	return true
}

// over tells whether the window has shown enough.
func (c *pacer) over(now clock.Mono) bool {
	age := now.Sub(c.from)
	if age < paceWindow || age >= paceWindowMax {
		return age >= paceWindowMax
	}
	c.follow(now)
	enough := true
	for e, h := range c.hears {
		n := e.counts(now).minus(h.judged)
		if n.late > 1 {
			return true
		}
		enough = enough && (n.ops == 0 || n.ops >= paceOps)
	}
	return enough
}

// judge tells whether hosts were late in a window, and whether late ones are yet to be made up for.
func (c *pacer) judge(now clock.Mono) (late, owing bool) {
	c.follow(now)
	for e, h := range c.hears {
		all := e.counts(now)
		n := all.minus(h.judged)
		switch bad := n.late > 1 && n.late*100 > n.ops || n.ops >= paceFewOps && n.tardy*2 > n.ops; {
		case n.ops == 0:
			continue
		case e != c.ear && !e.known(paceFewOps): // what they wait else
			h.judged = all
		case !bad && n.late > 0 && n.ops < paceOps: // one op shows nothing yet
			owing = owing || h.debt > 0
			continue
		default:
			if h.judged = all; n.ops >= paceFewOps || n.late == 0 {
				h.debt = max(-paceCredit, min(h.debt+int(n.late*100)-int(n.ops), paceDebt))
			}
			late, owing = late || bad, owing || h.debt > 0
		}
		c.hears[e] = h
	}
	return late, owing
}

// adapt changes the speed by what was seen in a window.
func (c *pacer) adapt(cfg *Config, now clock.Mono) {
	least := cfg.PaceMax / 64
	late, owing := c.judge(now)
	late = late || c.slow
	switch {
	case late && mutation.On(mutation.PaceForEver):
		c.gap = time.Hour
	case late && c.jobs > 1:
		c.jobs /= 2
	case late:
		c.gap = min(max(2*c.gap, least), cfg.PaceMax)
	case owing:
	case c.gap > least:
		c.gap /= 2
	case c.gap > 0:
		c.gap = 0
	case len(c.active) == 0:
		c.jobs = min(2*c.jobs, max(1, cfg.RebuildJobs))
	default:
		c.jobs = min(c.jobs+max(1, c.jobs/4), max(1, cfg.RebuildJobs))
	}
}
