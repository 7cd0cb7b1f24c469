// Package progress tells whether clients that work at the same time all get on.
package progress

import (
	"context"
	"sync"
	"time"
)

// Clients are known by their numbers, from 0 on. Methods may be called from any goroutine.
type Clients struct {
	mu    sync.Mutex
	began []time.Time // when the newest that succeeded was begun, by client
	grew  chan struct{}
}

// Of is for n clients, none of which has had a success.
func Of(n int) *Clients { return &Clients{began: make([]time.Time, n), grew: make(chan struct{})} }

// Note enters a success of a client with what it began at a time.
func (c *Clients) Note(client int, began time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began[client] = began
	close(c.grew)
	c.grew = make(chan struct{})
}

// Await waits until every client has had a success with something that it began from now
// on, and returns how many have had none when ctx ends before.
func (c *Clients) Await(ctx context.Context) (late int) {
	now := time.Now()
	for {
		late, grew := c.late(now)
		if late == 0 {
			return 0
		}
		select {
		case <-grew:
		case <-ctx.Done():
			return late
		}
	}
}

func (c *Clients) late(since time.Time) (late int, grew <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range c.began {
		if !at.After(since) {
			late++
		}
	}
	return late, c.grew
}
