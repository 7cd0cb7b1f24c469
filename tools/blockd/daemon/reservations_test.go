package daemon

import (
	"context"
	"errors"
	"testing"
)

// A node that does not answer is asked again until it does, until it is found to be silent, or until nobody waits any more.
func TestNodesAreAskedUntilTheyAreSilent(t *testing.T) {
	t.Parallel()
	fails := errors.New("connection refused")
	for name, c := range map[string]struct {
		answersAt, silentAt int // the ask
		answered            bool
	}{
		"at once": {answersAt: 1, silentAt: 9, answered: true}, "again": {answersAt: 3, silentAt: 9, answered: true},
		"it is down": {answersAt: 9, silentAt: 1}, "it has just died": {answersAt: 9, silentAt: 3},
	} {
		asks := 0
		answered, err := untilSilent(t.Context(), func() bool { return asks >= c.silentAt }, func() error {
			if asks++; asks >= c.answersAt {
				return nil
			}
			return fails
		})
		if answered != c.answered || err != nil || asks != min(c.answersAt, c.silentAt) {
			t.Errorf("%s: %v, %v after %d asks", name, answered, err, asks)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := untilSilent(ctx, func() bool { return false }, func() error { cancel(); return fails })
	if !errors.Is(err, fails) {
		t.Errorf("when nobody waits: %v", err)
	}
}
