package daemon

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/clock"
)

// steps is a clock that a test moves on.
type steps struct{ now atomic.Int64 }

func (c *steps) Now() clock.Mono         { return clock.Mono(c.now.Load()) }
func (c *steps) forward(d time.Duration) { c.now.Add(int64(d)) }

// After a break nothing of before it is taken, and nothing at all as long as a
// connection from before it is left.
func TestStandstill(t *testing.T) {
	c := &steps{}
	c.forward(time.Hour)
	s := newStandstill(c)
	if got := s.over(c.Now()); got != 0 {
		t.Errorf("at the start: %d, want 0", got)
	}
	c.forward(standstillMin)
	s.begin()
	if got := s.over(c.Now()); got != 0 {
		t.Errorf("after a long start: %d, want 0", got)
	}
	c.forward(standstillMin)
	if got := s.over(c.Now()); got != clock.Never {
		t.Errorf("after a break that nobody has dealt with: %d, want never", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	left, told := make(chan int), make(chan time.Duration, 1)
	watching.Go(func() {
		s.watch(ctx, func(d time.Duration) { told <- d }, func(time.Time) int {
			select {
			case n := <-left:
				return n
			case <-ctx.Done():
				return 0
			}
		})
	})
	left <- 1
	left <- 1
	if got := s.over(c.Now()); got != clock.Never {
		t.Errorf("while a connection is left: %d, want never", got)
	}
	if d := <-told; d != standstillMin {
		t.Errorf("told of a break of %v", d)
	}
	c.forward(time.Minute)
	left <- 0
	until(t, "the break to be dealt with", func() bool { return s.over(c.Now()) != clock.Never })
	if got := s.over(c.Now()); got != c.Now() {
		t.Errorf("afterwards: %d, want %d", got, c.Now())
	}
	cancel()
	watching.Wait()
}
