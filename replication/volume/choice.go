package volume

import (
	"time"

	"blockd.dev/internal/clock"
)

// A read goes to the local replica while that is quick, since it costs the least
// there; else to the one from which the answer is expected soonest, by what the last
// ones took and by how many are under way. Who was slow gets nothing, so that it
// would stay slow for ever by what is known of it: now and then it is tried again.
const (
	// quick is what a local replica may always take.
	quick = 2 * time.Millisecond
	// slowFactor is how many times the best other's time a local replica may take.
	slowFactor = 10
	// A replica is tried that had no read for exploreAfter, and for exploreShare
	// times what it took: so of all time no more than one part in that many is spent on it.
	exploreAfter = time.Second
	exploreShare = 100
)

// source is what is known of a replica that is read from.
type source struct {
	mean  time.Duration // moving average of what reads took, as of none but small ones
	known clock.Mono    // when the last of them was answered; 0: none was
	tried clock.Mono    // when the last one was asked for
	n     int           // under way
	quiet clock.Mono    // nothing has come since then, though some are under way
}

func (s *source) asked(now clock.Mono) {
	if s.n == 0 {
		s.quiet = now
	}
	s.n++
	s.tried = now
}

// missed takes off a read that was not done.
func (s *source) missed(now clock.Mono) {
	s.n--
	s.quiet = now
}

// answered learns from a read of so many bytes. Long ones count as if a region
// took as long as reading nothing; what is old counts for little.
func (s *source) answered(now clock.Mono, took time.Duration, bytes, region int64) {
	s.missed(now)
	took = took * time.Duration(region) / time.Duration(region+bytes)
	switch {
	case s.known == 0:
		s.mean = took
	case now.Sub(s.known) >= exploreAfter/2:
		s.mean = (s.mean + took) / 2
	default:
		s.mean += (took - s.mean) / 8
	}
	s.known = now
}

// expected is what a read takes there, one that hangs counting as what is known of it so far.
func (s *source) expected(now clock.Mono) time.Duration {
	if s.n == 0 {
		return s.mean
	}
	return max(s.mean, now.Sub(s.quiet))
}

// cost is by what replicas are compared: those under way come first.
func (s *source) cost(now clock.Mono) time.Duration {
	return s.expected(now) * time.Duration(s.n+1)
}

// due tells whether the replica should be tried, to learn of it.
func (s *source) due(now clock.Mono) bool {
	return s.n == 0 && (s.tried == 0 || now >= s.tried.Add(max(exploreAfter, exploreShare*s.mean)))
}

// source chooses one of from, which is not empty. explore allows it to try one
// of which little is known.
func (o *Owner) source(from disks, explore bool) int {
	local := o.local >= 0 && from.has(o.local)
	if local && o.conns[o.local].source.expected(o.now) <= quick {
		return o.local
	}
	best := -1
	for i := range o.conns { // those that are equal take turns
		d := (o.shift + i) % len(o.conns)
		if !from.has(d) {
			continue
		}
		s := &o.conns[d].source
		if explore && s.due(o.now) {
			best = d
			local = false
			break
		}
		if best < 0 || s.cost(o.now) < o.conns[best].source.cost(o.now) {
			best = d
		}
	}
	o.shift++
	if local && o.conns[o.local].source.expected(o.now) <= slowFactor*o.conns[best].source.expected(o.now) {
		return o.local
	}
	return best
}
