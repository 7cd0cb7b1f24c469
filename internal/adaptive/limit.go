package adaptive

import (
	"runtime"
	"sync/atomic"
)

// Limit bounds how many sources poll at the same time. Its methods may be
// called from any goroutine.
type Limit struct {
	places  int32
	pollers atomic.Int32
}

// NewLimit makes a limit of so many places; with 0 nothing polls.
func NewLimit(places int) *Limit { return &Limit{places: int32(places)} }

// process is the limit of sources that name no other: half of the processors,
// so that as many are left to those who work. With a single one nothing polls:
// Go's scheduler does not look for others that are ready while one goroutine
// runs on and on, and they would wait for as long as the poller has work.
var process = NewLimit(runtime.GOMAXPROCS(0) / 2)

// Pollers is how many sources poll now.
func (l *Limit) Pollers() int { return int(l.pollers.Load()) }

// enter takes a place, if there is one. Looking first keeps those who find none
// from writing to a line that the pollers share.
func (l *Limit) enter() bool {
	if l.pollers.Load() >= l.places {
		return false
	}
	if l.pollers.Add(1) > l.places {
		l.pollers.Add(-1)
		return false
	}
	return true
}

// force takes a place whether there is one or not.
func (l *Limit) force() { l.pollers.Add(1) }

func (l *Limit) leave() { l.pollers.Add(-1) }
