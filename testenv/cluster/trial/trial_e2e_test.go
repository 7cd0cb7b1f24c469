//go:build e2e

package trial

import (
	"os"
	"strings"
	"testing"
	"time"

	"blockd.dev/testenv/cluster"
)

// TestFaults does every fault to one cluster, one after the other.
// BLOCKD_E2E_FAULTS=TEXT leaves only those with it in their names.
func TestFaults(t *testing.T) {
	c := cluster.New(t, Cluster)
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	only := os.Getenv("BLOCKD_E2E_FAULTS")
	for _, f := range Faults {
		if !strings.Contains(f.Name, only) {
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
			t.Logf("%d operations, %d of unknown outcome, the longest took %v; all copies in sync %v after the load", r.Ops, r.Open,
				r.Pause.Round(time.Millisecond), r.Sync.Round(time.Millisecond))
		})
		if !usable {
			break // the cluster did not get over it
		}
	}
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
