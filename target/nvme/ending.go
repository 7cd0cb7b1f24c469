package nvme

import "sync"

// ending are the queues that have ended while devices work on commands of theirs. These may yet change a namespace: a preemption of
// their host waits for them, as it does for those of queues that live.
type ending struct {
	mu     sync.Mutex
	queues map[*Queue]bool
}

// add notes that q ends; it is noted before anything else forgets it. left is called when the last of its commands has ended.
func (e *ending) add(q *Queue) (left func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.queues == nil {
		e.queues = map[*Queue]bool{}
	}
	e.queues[q] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.queues, q)
	}
}

// of are those of controllers that match accepts.
func (e *ending) of(match func(*Controller) bool) (list []*Queue) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for q := range e.queues {
		if match(q.ctrl) {
			list = append(list, q)
		}
	}
	return list
}
