package daemon

import (
	"sync"
	"time"
)

// gate lets one event per name and second through.
type gate struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (g *gate) pass(name string) bool {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.last == nil {
		g.last = map[string]time.Time{}
	}
	if now.Sub(g.last[name]) < time.Second {
		return false
	}
	g.last[name] = now
	return true
}
