package daemon

import (
	"testing"

	replicated "blockd.dev/replication/volume"
)

// What copies that are brought back lack, and what moves, are counted apart, over all members.
func TestRegionsLeft(t *testing.T) {
	back, moving := regionsLeft([]replicated.MemberStatus{
		{Left: 3, Regions: 4, Arriving: replicated.Arriving{Regions: 9, Left: 2}},
		{Arriving: replicated.Arriving{Regions: 5, Left: 5}},
		{},
	})
	if back != 3 || moving != 7 {
		t.Errorf("%d and %d, want 3 and 7", back, moving)
	}
}
