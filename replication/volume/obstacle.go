package volume

import (
	"time"

	"blockd.dev/internal/clock"
)

// A replica may be done without, or be brought back late, though nothing is down: its disk is slow, or full. What is
// kept of that here is for those who operate the cluster, and decides nothing.

// Hinders says what keeps a replica from being in sync.
type Hinders uint8

// What keeps replicas from being in sync.
const (
	Slow   Hinders = iota + 1 // hosts' writes took much longer there than at others
	Hung                      // it kept a request without an answer for long
	Silent                    // it had a session, owed answers, and gave none
	Full                      // its disk had no space for what it is to have
)

// Obstacle is why an owner did without a replica, or could not bring it back, when it last was so.
type Obstacle struct {
	What   Hinders       // 0: it never was so, in this owner's time
	Now    bool          // the replica has not got everything since
	Times  uint64        // how often that began
	Ago    time.Duration // since the last beginning
	Took   time.Duration // Slow: what hosts' writes took there, on average; Hung, Silent: for how long there was no answer
	Others time.Duration // Slow: the most that they took at another one that is required; 0 where that is not known
	Wait   time.Duration // it is not tried again before that has passed; 0: it is, when it has a session
}

// obstacle is what the owner keeps of it.
type obstacle struct {
	what   Hinders
	now    bool
	times  uint64
	since  clock.Mono
	took   time.Duration
	others time.Duration
}

// met notes what is in the way. An attempt to bring the replica back that ends like the one before is no other time.
func (b *obstacle) met(now clock.Mono, what Hinders, took, others time.Duration) {
	if !b.now || (b.what == Full) != (what == Full) {
		b.times++
		b.since = now
	}
	b.what, b.now, b.took, b.others = what, true, took, others
}

// unhindered notes that nothing is in the way of c any more, where it is in sync for sure, or was silent and has begun
// anew: it was down then. (That all has been copied to it is noted by Owner.rebuild.)
func (c *conn) unhindered(o *Owner, anew bool) {
	m := o.view.Members[c.disk]
	counts := m.Sync == InSync && c.doubt != m.Gen+1 && c.re.phase == idle && o.now >= c.patient
	if c.state == up && (counts || anew && c.obstacle.what == Silent) {
		c.obstacle.now = false
	}
}

// status is what is told of it. Nothing is in the way of one that is in sync and gets nothing else.
func (b *obstacle) status(o *Owner, c *conn) Obstacle {
	x := Obstacle{What: b.what, Times: b.times, Took: b.took, Others: b.others}
	if b.what != 0 {
		x.Ago = o.now.Sub(b.since)
	}
	if b.now && (o.view.Members[c.disk].Sync != InSync || c.isFull(o) || c.re.arrival) {
		x.Now, x.Wait = true, max(c.patient.Sub(o.now), c.re.waits(o), 0)
	}
	return x
}

// waits is for how long regions are not tried again for which there was no space.
func (r *rebuild) waits(o *Owner) time.Duration {
	if len(r.refused.list) == 0 {
		return 0
	}
	return r.retry.Sub(o.now)
}
