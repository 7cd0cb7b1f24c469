// Package turn is about work that comes in turns: a thread that takes many messages at once
// has what follows from them done once, at the end, rather than for each.
package turn

import (
	"sync"
	"sync/atomic"
)

// Task is something that somebody else does.
type Task interface {
	// Do must not block. Who leaves the task says when it is called, and how often.
	Do()
}

// Soon leaves a task to a thread that is in the middle of a turn, to be done once before the
// turn ends, and tells whether there is such a thread: Turn.Leave is one. nil knows of none.
type Soon func(Task) bool

// Do leaves the task, or does it.
func (s Soon) Do(t Task) {
	if s == nil || !s(t) {
		t.Do()
	}
}

// Turn is what others leave to one thread. The zero Turn is not under way.
type Turn struct {
	state atomic.Int32
	mu    sync.Mutex
	left  []Task
	spare []Task // of the thread
}

const (
	over  int32 = iota
	empty       // under way, and nothing is left
	some        // under way, with something in left; entered and ended with mu held
)

// Begin begins a turn of the calling thread.
func (t *Turn) Begin() { t.state.CompareAndSwap(over, empty) }

// Leave leaves a task, if a turn is under way. Any goroutine may call it, with a lock held
// that the task takes.
func (t *Turn) Leave(task Task) bool {
	if t.state.Load() == over {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.state.Load() != some { // the thread goes from over to empty and back meanwhile
		if t.state.Load() == over {
			return false
		}
		t.state.CompareAndSwap(empty, some)
	}
	t.left = append(t.left, task)
	return true
}

// Run does what was left so far, and what that brings. It is the thread's own, as End is.
func (t *Turn) Run() {
	for t.state.Load() == some {
		t.mu.Lock()
		tasks := t.left
		t.left = t.spare[:0]
		t.state.Store(empty)
		t.mu.Unlock()
		for i, task := range tasks {
			tasks[i] = nil
			task.Do()
		}
		t.spare = tasks
	}
}

// End is Run, and the end of the turn.
func (t *Turn) End() {
	for t.state.Load() != over {
		t.Run()
		t.state.CompareAndSwap(empty, over)
	}
}
