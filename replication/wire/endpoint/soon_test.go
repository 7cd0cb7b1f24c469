package endpoint

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestWhatATurnBringsIsDoneAtItsEnd: messages that came together are all handed over before what they
// left to Soon is done, by the pump.
func TestWhatATurnBringsIsDoneAtItsEnd(t *testing.T) {
	const calls = 200
	handed := 0 // the pump's
	var together atomic.Int64
	ended := make(chan int, calls)
	a, b := udpPair(t, func(c *Config) {
		c.Handler = func(r *Request) {
			before := handed
			handed++
			left := r.conn.e.Soon(taskFunc(func() {
				if handed > before+1 {
					together.Add(1)
				}
				_ = r.Reply(nil)
			}))
			if !left {
				t.Error("a handler runs outside of a turn")
				_ = r.Reply(nil)
			}
		}
	})
	p := a.Peer("b")
	a.await(t, 0, PeerUp)
	b.await(t, 0, PeerUp)
	for range calls {
		call := &Call{Data: [][]byte{make([]byte, 100)}, Done: func(c *Call) { c.Response.Release(); ended <- 0 }}
		if err := p.Go(call); err != nil {
			t.Fatal(err)
		}
	}
	for i := range calls {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatalf("%d of %d requests were answered", i, calls)
		}
	}
	if together.Load() == 0 {
		t.Errorf("of %d requests, made at once, none was still to be handed over when one was answered: each was dealt with by itself", calls)
	}
}
