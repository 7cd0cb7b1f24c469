package serve

import (
	"sync"
	"testing"

	"blockd.dev/replication/message"
	"blockd.dev/replication/wire"
)

// What the peer says while an attempt is under way is not lost: it says only
// once that there is room, or that the connection is gone.
func TestBacklogMissesNoRoom(t *testing.T) {
	for _, after := range []error{nil, wire.ErrClosed} {
		var mu sync.Mutex
		lost := 0
		newCall := func() *call {
			return &call{sent: &message.Sent{Done: func(s *message.Sent) {
				if s.Lost && s.NotSent {
					lost++
				}
			}}}
		}
		b := &backlog{calls: []*call{newCall(), newCall(), newCall()}}
		left, room, sent := 1, false, 0
		var try func(c *call) error
		try = func(*call) error {
			switch {
			case left > 0:
				left--
				sent++
				return nil
			case !room: // it is found full, and then there is room and the peer says so
				room = true
				mu.Lock()
				b.send(&mu, try)
				mu.Unlock()
				return wire.ErrQueueFull
			case after == nil:
				sent++
			}
			return after
		}
		mu.Lock()
		b.send(&mu, try)
		mu.Unlock()
		if len(b.calls) != 0 || sent+lost != 3 || after == nil && lost != 0 {
			t.Errorf("then %v: %d calls are left, %d sent and %d lost, want none left", after, len(b.calls), sent, lost)
		}
	}
}

// Where there is no room calls stay, in order, and are tried once each time.
func TestBacklogWaitsForRoom(t *testing.T) {
	var mu sync.Mutex
	b := &backlog{calls: []*call{{}, {}}}
	first, tries := b.calls[0], 0
	mu.Lock()
	defer mu.Unlock()
	for range 3 {
		b.send(&mu, func(c *call) error {
			if tries++; c != first {
				t.Error("a later call was tried first")
			}
			return wire.ErrQueueFull
		})
	}
	if len(b.calls) != 2 || tries != 3 {
		t.Errorf("%d calls wait after %d attempts, want 2 after 3", len(b.calls), tries)
	}
}
