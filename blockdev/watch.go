package blockdev

import (
	"slices"
	"sync"
)

// Watchers is the list behind a device's Watch. The zero value is empty.
type Watchers struct {
	mu   sync.Mutex
	list []*watcher // replaced, never changed in place
}

type watcher struct{ fn func(Change) }

// Add has fn called by every Notify until stop is called; a Notify under way
// may still call it. Calling stop again does nothing.
func (w *Watchers) Add(fn func(Change)) (stop func()) {
	entry := &watcher{fn}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(slices.Clone(w.list), entry)
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.list = slices.DeleteFunc(slices.Clone(w.list), func(e *watcher) bool { return e == entry })
	}
}

// Notify calls every watcher in the order they were added. It holds no lock
// meanwhile, so a watcher may add and stop watchers.
func (w *Watchers) Notify(c Change) {
	w.mu.Lock()
	list := w.list
	w.mu.Unlock()
	for _, e := range list {
		e.fn(c)
	}
}
