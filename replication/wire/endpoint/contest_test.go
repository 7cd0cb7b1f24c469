package endpoint

import (
	"testing"

	"pgregory.net/rapid"
)

// A busy pump that loses its processor each time it polls sleeps nearly always,
// and one that loses it now and then polls nearly always.
func TestABusyPumpRestsWhereOthersWantItsProcessor(t *testing.T) {
	for every, want := range map[int]struct{ low, high int }{
		1:      {0, 100},           // each poll is disturbed
		10_000: {190_000, 200_000}, // one of so many
	} {
		c := contest{next: restMin}
		polls := 0
		for range 200_000 {
			if c.resting() {
				continue
			}
			if polls++; polls%every == 0 {
				c.lost()
			} else {
				c.hit()
			}
		}
		if polls < want.low || polls > want.high {
			t.Errorf("disturbed every %d polls: %d of 200000 waits polled, want %d to %d", every, polls, want.low, want.high)
		}
	}
}

// However it went before, once nobody disturbs it any more it polls for good.
func TestABusyPumpComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := contest{next: restMin}
		for range rapid.IntRange(0, 100).Draw(t, "waits") {
			if c.resting() {
				continue
			}
			if rapid.Bool().Draw(t, "disturbed") {
				c.lost()
			} else {
				c.hit()
			}
		}
		for range 2 * restMax {
			if !c.resting() {
				c.hit()
			}
		}
		if c.resting() || c.next != restMin {
			t.Fatalf("undisturbed for %d waits: %+v", 2*restMax, c)
		}
	})
}
