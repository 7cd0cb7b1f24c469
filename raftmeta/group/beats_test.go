package group

import (
	"testing"
	"time"
)

// Heartbeats leave together, whenever they are asked for, and none that is late is held back for long.
func TestHeartbeatsLeaveTogether(t *testing.T) {
	b := beats{every: 100 * time.Millisecond}
	for _, c := range []struct{ at, wait time.Duration }{
		{0, 0}, {40, 60}, {80, 20}, {99, 1}, {100, 0}, {129, 0}, {130, 70}, {1040, 60},
	} {
		if got := b.wait(c.at * time.Millisecond); got != c.wait*time.Millisecond {
			t.Errorf("at %v ms one is held back for %v, want %v ms", int64(c.at), got, int64(c.wait))
		}
	}
}

// Between two heartbeats are at most 100 ms where answers come quickly, and no more than 180 ms and the answer's
// time where they don't: the followers' patience is 400 ms, the leader's 300.
func TestHeartbeatsComeOftenEnough(t *testing.T) {
	cfg := Config{}.withDefaults()
	b := beats{every: cfg.beat()}
	for _, answer := range []time.Duration{0, 10, 50, 90, 150} {
		answer *= time.Millisecond
		for library := cfg.Heartbeat / 10; library <= cfg.Heartbeat/5; library += time.Millisecond {
			at, last := time.Duration(0), time.Duration(0)
			for range 200 {
				at += answer + library
				at += b.wait(at)
				most := cfg.Heartbeat * 45 / 100
				if answer <= 10*time.Millisecond {
					most = b.every
				}
				if gap := at - last; gap > most+answer {
					t.Fatalf("%v between two heartbeats, the library's pause is %v and answers take %v", gap, library, answer)
				}
				last = at
			}
		}
	}
}
