package recovery

import (
	"time"

	"blockd.dev/internal/clock"
)

// minRTTLife is for how long the shortest round trip seen counts as what the
// path takes when nobody queues: long enough to meet an idle moment, short
// enough to notice that a route has changed.
const minRTTLife = 10 * time.Second

// RTT estimates the round-trip time of a path, as RFC 6298 and RFC 9002 §5 do.
type RTT struct {
	Latest   time.Duration // the last sample
	Smoothed time.Duration // its exponential mean; 0 before the first sample
	Var      time.Duration // mean deviation
	Min      time.Duration // the shortest of the last 10 to 20 s

	next    time.Duration // the shortest since the change
	changed clock.Mono    // when next became Min last
}

// Sample takes the time from sending a packet to its acknowledgement, of
// which the peer says that it waited for delay.
func (r *RTT) Sample(now clock.Mono, rtt, delay time.Duration) {
	rtt = max(rtt, 1)
	if r.Min == 0 || rtt < r.Min {
		r.Min = rtt
	}
	if r.next == 0 || rtt < r.next {
		r.next = rtt
	}
	if r.changed == 0 {
		r.changed = now
	}
	if now.Sub(r.changed) > minRTTLife {
		r.Min, r.next, r.changed = r.next, rtt, now
	}
	// What the peer says may not make the path faster than it has been seen.
	if rtt-delay >= r.Min {
		rtt -= delay
	}
	r.Latest = rtt
	if r.Smoothed == 0 {
		r.Smoothed, r.Var = rtt, rtt/2
		return
	}
	deviation := r.Smoothed - rtt
	if deviation < 0 {
		deviation = -deviation
	}
	r.Var += (deviation - r.Var) / 4
	r.Smoothed += (rtt - r.Smoothed) / 8
}

// Timeout is how long to wait for an acknowledgement before asking for it:
// what the path takes, four deviations or what the timers of both ends are
// off by, and how long the peer may wait on purpose. initial counts before the
// first sample.
func (r *RTT) Timeout(granularity, peerDelay, initial time.Duration) time.Duration {
	if r.Smoothed == 0 {
		return initial
	}
	return r.Smoothed + max(4*r.Var, 2*granularity) + peerDelay
}
