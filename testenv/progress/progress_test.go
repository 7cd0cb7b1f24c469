package progress

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What was begun before does not count, and every client does.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := Of(3)
		before := time.Now()
		time.Sleep(time.Second) // sleep: of the simulated clock
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		late := make(chan int)
		go func() { late <- c.Await(ctx) }()
		synctest.Wait()
		time.Sleep(time.Second) // sleep: of the simulated clock
		c.Note(0, before)
		c.Note(1, time.Now())
		c.Note(2, time.Now())
		synctest.Wait()
		select {
		case n := <-late:
			t.Fatalf("%d are late, one of which was not waited for", n)
		default:
		}
		c.Note(0, time.Now())
		if n := <-late; n != 0 {
			t.Errorf("%d are late when all have got on", n)
		}
		go func() { late <- c.Await(ctx) }()
		synctest.Wait()
		time.Sleep(time.Second) // sleep: of the simulated clock
		c.Note(1, time.Now())
		cancel()
		if n := <-late; n != 2 {
			t.Errorf("%d are late, want 2", n)
		}
	})
}
