// Package inbox lets many goroutines feed one state machine without a
// goroutine of its own: whoever posts an event while nobody is at work does
// the work, for itself and for those who post meanwhile. Nobody waits.
package inbox

import (
	"sync"

	"blockd.dev/internal/turn"
)

// Inbox is a queue of events. Run must be set before the first Post.
type Inbox[T any] struct {
	// Run takes a batch of events, in the order of their Posts. It is called by
	// one goroutine at a time, and may Post. The slice is not its to keep.
	Run func(batch []T)

	mu      sync.Mutex
	busy    bool
	waiting []T
	spare   []T // of who is at work
}

// Post hands over an event, and returns when it was dealt with or somebody
// else is at it.
func (in *Inbox[T]) Post(e T) {
	in.mu.Lock()
	in.waiting = append(in.waiting, e)
	in.work()
}

// PostSoon is Post, but for the work, which it leaves to soon: that is done once for all
// events that were posted until then. Nobody depends on a turn of somebody else: each has
// the work done in their own.
func (in *Inbox[T]) PostSoon(e T, soon turn.Soon) {
	in.mu.Lock()
	in.waiting = append(in.waiting, e)
	busy := in.busy
	in.mu.Unlock()
	if !busy {
		soon.Do(in)
	}
}

// Do is turn.Task's: it deals with what PostSoon has left, unless somebody is at it.
func (in *Inbox[T]) Do() {
	in.mu.Lock()
	in.work()
}

// work is called with mu held, and releases it.
func (in *Inbox[T]) work() {
	if in.busy {
		in.mu.Unlock()
		return
	}
	in.busy = true
	for len(in.waiting) > 0 {
		batch := in.waiting
		in.waiting = in.spare[:0]
		in.mu.Unlock()
		in.Run(batch)
		clear(batch)
		in.mu.Lock()
		in.spare = batch
	}
	in.busy = false
	in.mu.Unlock()
}
