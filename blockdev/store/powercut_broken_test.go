//go:build !race

package store_test

import (
	"testing"

	"blockd.dev/blockdev/store"
)

// Not under the race detector, which has nothing to see in a store that is broken on purpose.

// TestPowerCutFindsBrokenStores proves that the test above can fail: a store that
// leaves out one measure is found out.
func TestPowerCutFindsBrokenStores(t *testing.T) {
	for _, b := range []store.Breakage{
		"no sync between data and log",
		"no sync before the superblock",
		"acknowledge before the log is durable",
		"superblock without Dsync",
		"log data without checksums",
		"overwrite whole regions in place",
		"reuse chunks before they are free",
		"log without the poison that writes leave",
	} {
		t.Run(string(b), func(t *testing.T) {
			total := 0
			for seed := uint64(1); seed < 20; seed++ {
				n, err := cutEverywhere(t, seed, store.Break(cutOptions(seed), b), 5000)
				total += n
				if err != nil {
					t.Logf("found after %d cuts: %v", total, err)
					return
				}
			}
			t.Errorf("not found in %d cuts", total)
		})
	}
}
