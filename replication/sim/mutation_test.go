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

// rare has the mistakes that few simulated clusters show, each with the first seed that
// does, which is how many it took to find. Tried before all others, it saves minutes. When
// the simulation has come to draw otherwise and it finds nothing, the others are tried
// as ever, and the test says which does.
var rare = map[mutation.M]uint64{
	mutation.LateMarkIn:       6273,
	mutation.LastOfVolume:     11503,
	mutation.StaleArrival:     62,
	mutation.TrustArrivedTail: 242,
	mutation.MarkAfterFinish:  3434,
	mutation.ArrivalHolds:     1361,
	mutation.CopyEarly:        899,
	mutation.ProofNotAsked:    2192,
	mutation.UnheardCounts:    2585,
	mutation.ToldBefore:       1334,
}

// The simulation finds each mistake. A rule whose breach it can't find is
// either not needed or not tested.
func TestMutationsAreFound(t *testing.T) {
	for m := mutation.None + 1; m < mutation.Count; m++ {
		t.Run(m.String(), func(t *testing.T) {
			mutation.Planted = m
			defer func() { mutation.Planted = mutation.None }()
			if s, known := rare[m]; known {
				if res := Run(s); res.Broken != "" {
					t.Logf("seed %d, the first that finds it: %s", s, res.Broken)
					return
				}
				t.Logf("seed %d no longer finds it: note in rare the one that does", s)
			}
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
