package group

import "time"

// A leader's heartbeats leave at common times. The library sends one to each follower a tenth to a
// fifth of the heartbeat timeout after the last one was answered: far more often than who waits for
// them needs, and each by itself. Of what a group costs that has nothing to do, each message is a part, and so
// is each time that a node wakes up for one.
type beats struct {
	every time.Duration
	start time.Time
}

// await waits until the next heartbeat is due, or quit is closed.
func (b *beats) await(quit <-chan struct{}) {
	wait := b.wait(time.Since(b.start))
	if wait == 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-quit:
	}
}

// wait is how long a heartbeat is held back at a time. One that is late, since the answer to the one before it
// took long, leaves at once.
func (b *beats) wait(at time.Duration) time.Duration {
	late := at % b.every
	if late < b.every*3/10 {
		return 0
	}
	return b.every - late
}
