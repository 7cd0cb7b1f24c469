package devtest

import (
	"sync"

	"blockd.dev/blockdev"
)

// Attending is a Device whose requests wait while it is attended: until the attendant looks, or
// leaves.
type Attending struct {
	blockdev.Device

	mu       sync.Mutex
	attended bool
	waiting  []*blockdev.Request
	count    int
}

// Submit implements blockdev.Device.
func (a *Attending) Submit(batch []*blockdev.Request) {
	a.mu.Lock()
	if a.attended {
		a.waiting = append(a.waiting, batch...)
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	a.Device.Submit(batch)
}

// Attended implements blockdev.Attendable.
func (a *Attending) Attended() blockdev.Attended { return a }

// Attend implements blockdev.Attended.
func (a *Attending) Attend(func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.attended {
		return false
	}
	a.attended = true
	a.count++
	return true
}

// Look implements blockdev.Attended.
func (a *Attending) Look() (worked, attending bool) { return a.end(true) > 0, true }

// Leave implements blockdev.Attended.
func (a *Attending) Leave() { a.end(false) }

// end lets go on what waits.
func (a *Attending) end(attended bool) int {
	a.mu.Lock()
	waiting := a.waiting
	a.waiting, a.attended = nil, attended
	a.mu.Unlock()
	a.Device.Submit(waiting)
	return len(waiting)
}

// Attends is how often somebody has become the attendant, and whether there is one now.
func (a *Attending) Attends() (count int, now bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.count, a.attended
}
