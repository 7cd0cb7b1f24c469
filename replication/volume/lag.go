package volume

import (
	"math"
	"time"

	"blockd.dev/internal/clock"
)

// A disk may have become slow, and answer. Hosts' writes wait for it while it is required, or brought back. One that is
// much slower than others for long is done without where that can be, and not brought back while hosts would feel it. Where
// nothing can be written without it, hosts are best helped by bringing the others back.
const (
	// lagFactor is how many times longer than at others writes take at a replica that drags.
	lagFactor = 10
	// lagPart is the part of RequestTimeout that they take at least.
	lagPart = 4
	// lagTimeouts is for how many RequestTimeouts a required replica may drag: without it there is a copy less, and then a resync.
	lagTimeouts = 20
	// lagDoublings bounds how long the next attempt to bring such a replica back waits: FullAfter, and twice as long each time.
	lagDoublings = 6
)

// lag is how long hosts' writes take at a replica.
type lag struct {
	mean  time.Duration // moving average, from 0 on: one late answer is not enough
	last  clock.Mono    // when the last of them was answered
	since clock.Mono    // it drags since then; 0: it doesn't
	tries int           // how often it was given up while it was brought back, since it was required
}

func (l *lag) add(now clock.Mono, took time.Duration) {
	l.mean += (took - l.mean) / 4
	l.last = now
}

// known tells whether mean is of writes that were answered lately.
func (l *lag) known(o *Owner) bool {
	return l.last != 0 && o.now < l.last.Add(requestLimit*o.cfg.RequestTimeout)
}

// behind tells whether writes take much longer than at a replica where they take that long.
func (l *lag) behind(o *Owner, other time.Duration) bool {
	return l.mean > o.cfg.RequestTimeout/lagPart && l.mean > lagFactor*other && l.known(o)
}

// lags returns the least and the most that writes take at one of s, as far as is known. Who owes answers and has given none
// lately is no faster than it was.
func (o *Owner) lags(s disks) (least, most time.Duration) {
	least = math.MaxInt64 / lagFactor
	for ; s != 0; s &= s - 1 {
		c := o.conns[s.first()]
		if c.lag.known(o) {
			least = min(least, c.lag.mean)
		}
		if c.lag.known(o) || c.calls.owed > 0 {
			most = max(most, c.lag.mean)
		}
	}
	return least, most
}

// drags tells whether hosts' writes wait for c much longer than for any other replica that is required.
func (o *Owner) drags(c *conn) bool {
	if c.lag.mean <= o.cfg.RequestTimeout/lagPart {
		return false
	}
	_, most := o.lags(o.required &^ one(c.disk))
	return c.lag.behind(o, most)
}

// dragged tells whether hosts' writes wait for a replica that nothing can be written without, much longer than
// for another one: then all that helps is to bring others back.
func (o *Owner) dragged() bool {
	least, _ := o.lags(o.required)
	return o.needed.those(func(d int) bool { return o.conns[d].lag.behind(o, least) }) != 0
}

// watchLag gives up a replica that has dragged for long, if nothing needs it.
func (c *conn) watchLag(o *Owner) {
	since := c.lag.since
	switch {
	case c.state != up || !o.drags(c):
		c.lag.since = 0
	case c.re.phase == comparing && !c.re.arrival:
		c.giveUp(o, Slow, c.lag.mean)
	case since == 0:
		c.lag.since = o.now
	case o.required.has(c.disk) && o.now >= since.Add(lagTimeouts*o.cfg.RequestTimeout) && o.spares(c.disk, o.there()&^one(c.disk)):
		c.giveUp(o, Slow, c.lag.mean)
		c.since = since // so it is marked out at once
	}
}

// giveUp ends the session with a replica that is slow, or hangs: took says how slow. If it is being brought back
// that is tried again later, and later each time, since hosts wait for it meanwhile.
func (c *conn) giveUp(o *Owner, what Hinders, took time.Duration) {
	if c.state == up { // else nothing new is known
		_, others := o.lags(o.required &^ one(c.disk))
		c.obstacle.met(o.now, what, took, others)
	}
	if c.re.phase == comparing && !c.re.arrival {
		c.patient = o.now.Add(o.cfg.FullAfter << c.lag.tries)
		c.lag.tries = min(c.lag.tries+1, lagDoublings)
	}
	c.lag = lag{tries: c.lag.tries}
	c.lose(o)
}
