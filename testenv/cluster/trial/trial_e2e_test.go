//go:build e2e

package trial

import (
	"os"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/cluster"
)

// TestFaults does the faults that are not long to one cluster, one after the other, and compares the copies at the
// end. BLOCKD_E2E_FAULTS=TEXT does those with it in their names, long ones too.
func TestFaults(t *testing.T) {
	c := cluster.New(t, Cluster)
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	only := os.Getenv("BLOCKD_E2E_FAULTS")
	for _, f := range Faults {
		if !strings.Contains(f.Name, only) || f.Long && only == "" {
			continue
		}
		usable := true
		t.Run(f.Name, func(t *testing.T) {
			r, err := tr.Run(t.Context(), f)
			if err != nil {
				usable = false
				t.Fatal(err)
			}
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			t.Logf("%d operations, %d of unknown outcome, %d refused, the longest took %v%s; all copies in sync %v after the load", r.Ops, r.Open, r.Refused,
				r.Pause.Round(time.Millisecond), Judge(r.Pause, r.Goal), r.Sync.Round(time.Millisecond))
		})
		if !usable {
			return // the cluster did not get over it
		}
	}
	blocks, err := tr.CompareCopies(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d blocks that hold something, the same in every copy", blocks)
}

// TestChangesOfOwner: a few of what `testenv cluster failover` does many times.
func TestChangesOfOwner(t *testing.T) {
	c := cluster.New(t, cluster.Config{})
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	tell := func(Change) {}
	killed, err := tr.Kills(t.Context(), 3, tell)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := tr.Moves(t.Context(), 3, tell)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("owner killed: %v; volume moved: %v", killed, moved)
}
