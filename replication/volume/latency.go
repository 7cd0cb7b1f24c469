package volume

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Latency counts how long something took, in buckets whose bounds are an
// eighth apart: small enough to keep for every stage, near enough to quote.
type Latency struct {
	Count   uint64
	Sum     time.Duration
	Max     time.Duration
	buckets [latencyBuckets]uint32
}

const (
	latencyUnit    = time.Microsecond
	latencyBuckets = 8 * 24 // up to 8 s; what takes longer is in the last one
)

func (l *Latency) add(d time.Duration) {
	l.Count++
	l.Sum += d
	l.Max = max(l.Max, d)
	l.buckets[latencyBucket(d)]++
}

// addFading counts d among about the last most: as many as that have half the weight each.
func (l *Latency) addFading(d time.Duration, most uint64) {
	if l.Count >= most {
		l.Count, l.Sum = 0, l.Sum/2
		for i := range l.buckets {
			l.buckets[i] /= 2
			l.Count += uint64(l.buckets[i])
		}
	}
	l.add(d)
}

// Merge counts all that m has.
func (l *Latency) Merge(m *Latency) {
	l.Count += m.Count
	l.Sum += m.Sum
	l.Max = max(l.Max, m.Max)
	for i, n := range m.buckets {
		l.buckets[i] += n
	}
}

// latencyBucket is exact up to 7 us; above, the three bits below the highest
// choose one of eight.
func latencyBucket(d time.Duration) int {
	n := uint64(max(0, d) / latencyUnit)
	if n < 8 {
		return int(n)
	}
	exp := bits.Len64(n) - 4
	return min(8*(exp+1)+int(n>>exp&7), latencyBuckets-1)
}

// latencyBound is the upper bound of bucket i.
func latencyBound(i int) time.Duration {
	if i < 8 {
		return time.Duration(i+1) * latencyUnit
	}
	return time.Duration(9+i%8) << (i/8 - 1) * latencyUnit
}

// Mean is the average, 0 of nothing.
func (l *Latency) Mean() time.Duration {
	if l.Count == 0 {
		return 0
	}
	return l.Sum / time.Duration(l.Count)
}

// Quantile is what a share of q, from 0 to 1, took no longer than; an eighth
// too much at most.
func (l *Latency) Quantile(q float64) time.Duration {
	left := uint64(q * float64(l.Count))
	for i, n := range l.buckets {
		if left < uint64(n) {
			return min(latencyBound(i), l.Max)
		}
		left -= uint64(n)
	}
	return l.Max
}

// Meter is a Latency that any goroutine may add to.
type Meter struct {
	sum, max atomic.Int64
	buckets  [latencyBuckets]atomic.Uint32
}

// Add counts one that took d.
func (m *Meter) Add(d time.Duration) {
	m.buckets[latencyBucket(d)].Add(1)
	m.sum.Add(int64(d))
	for most := m.max.Load(); int64(d) > most && !m.max.CompareAndSwap(most, int64(d)); most = m.max.Load() {
	}
}

// Latency is what was counted. What is being added meanwhile may be in it in part.
func (m *Meter) Latency() (l Latency) {
	l.Sum, l.Max = time.Duration(m.sum.Load()), time.Duration(m.max.Load())
	for i := range m.buckets {
		l.buckets[i] = m.buckets[i].Load()
		l.Count += uint64(l.buckets[i])
	}
	return l
}
