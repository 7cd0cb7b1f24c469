package qos

import "time"

// slack is what a bucket holds at least, in time: a host may be that late with its next
// request, and have what the limit allows still.
const slack = 100 * time.Millisecond

// bucket is a token bucket. The zero value has no limit.
type bucket struct {
	rate   float64 // tokens per second; 0 for no limit
	size   float64 // the most that it holds
	tokens float64 // negative after a cost above size
}

// set changes the rate. What was saved up stays, as far as it fits; one that had no
// limit begins with the slack.
func (b *bucket) set(perSecond uint64, burst time.Duration) {
	before := *b
	rate := float64(perSecond)
	*b = bucket{rate: rate, size: rate * max(burst, slack).Seconds()}
	b.tokens = min(before.tokens, b.size)
	if before.rate == 0 {
		b.tokens = rate * slack.Seconds()
	}
}

// lateMax is how late a timer may be at most, so that it does not cost those who waited.
const lateMax = time.Second

// refill adds what has come in a time. If somebody waited all that time, more than fits is
// due: it is for those who would have gone on if the machine had not been busy.
func (b *bucket) refill(d time.Duration, waited bool) {
	size := b.size
	if waited {
		size += b.rate * lateMax.Seconds()
	}
	b.tokens = min(size, b.tokens+b.rate*d.Seconds())
}

// need is how many tokens there must be for a cost: a full bucket does for what would
// never fit, which goes into debt.
func (b *bucket) need(cost int64) float64 { return min(float64(cost), b.size) }

// epsilon covers the rounding of times to nanoseconds.
const epsilon = 1e-6

// wait is how long it takes until there are enough, 0 when there are.
func (b *bucket) wait(cost int64) time.Duration {
	if b.rate == 0 || b.tokens+epsilon >= b.need(cost) {
		return 0
	}
	return max(1, time.Duration((b.need(cost)-b.tokens)/b.rate*float64(time.Second)))
}

func (b *bucket) take(cost int64) {
	if b.rate != 0 {
		b.tokens -= float64(cost)
	}
}
