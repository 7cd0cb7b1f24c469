//go:build mutations

package sim

import (
	"flag"
	"runtime"
	"sync"
	"testing"

	"blockd.dev/replication/mutation"
)

var patience = flag.Uint64("patience", 20000, "seeds until a planted mistake counts as not found")

// The simulation finds each mistake. A rule whose breach it can't find is
// either not needed or not tested.
func TestMutationsAreFound(t *testing.T) {
	for m := mutation.None + 1; m < mutation.Count; m++ {
		t.Run(m.String(), func(t *testing.T) {
			mutation.Planted = m
			defer func() { mutation.Planted = mutation.None }()
			s, broken := firstBroken(*patience)
			if broken == "" {
				t.Fatalf("not found in %d seeds", s)
			}
			t.Logf("%d seeds: %s", s, broken)
		})
	}
}

// firstBroken is the first seed of most that finds something wrong, and what. All cores look for it.
func firstBroken(most uint64) (first uint64, broken string) {
	var (
		mu   sync.Mutex
		next uint64
		done sync.WaitGroup
	)
	first = most
	take := func() (s uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next, next <= first
	}
	found := func(s uint64, what string) {
		mu.Lock()
		defer mu.Unlock()
		if s <= first {
			first, broken = s, what
		}
	}
	for range runtime.GOMAXPROCS(0) {
		done.Go(func() {
			for s, ok := take(); ok; s, ok = take() {
				if res := Run(s); res.Broken != "" {
					found(s, res.Broken)
				}
			}
		})
	}
	done.Wait()
	return first, broken
}
