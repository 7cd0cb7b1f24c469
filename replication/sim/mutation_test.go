//go:build mutations

package sim

import (
	"flag"
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
			for s := uint64(1); s <= *patience; s++ {
				if res := Run(s); res.Broken != "" {
					t.Logf("%d seeds: %s", s, res.Broken)
					return
				}
			}
			t.Errorf("not found in %d seeds", *patience)
		})
	}
}
