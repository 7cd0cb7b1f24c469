package sim

import (
	"testing"
	"time"

	"blockd.dev/replication/volume"
)

// Replicas with so much to do that requests wait for longer than RequestTimeout, though they are answered
// one after the other: they keep their sessions, and are not marked out. (When sessions ended with the
// first request that was late, 322 of them did in these runs.)
func TestBusyReplicas(t *testing.T) {
	const runs = 50
	slow, sessions, out := 0, 0, 0
	for s := uint64(1); s <= runs; s++ {
		w := newWorld(s)
		w.lossy, w.doubly, w.laggy, w.hasty, w.hinty = 0, 0, 0, 0, 0
		for range 8 {
			w.addHost()
		}
		for _, n := range w.nodes[:w.disks] {
			n.disk.each = 2 * time.Millisecond
		}
		w.runUntil(faultsFor, nil)
		for _, m := range w.meta.view.Members {
			if m.Sync != volume.InSync {
				out++
			}
		}
		for _, r := range w.ops {
			if r.ok && r.kind == volume.Write && r.ret-r.call > 2*config.RequestTimeout {
				slow++
			}
		}
		sessions += w.sessions
	}
	t.Logf("%d runs of %v: %d writes took twice RequestTimeout, %d sessions were begun anew, %d replicas are out in the end", runs, faultsFor, slow, sessions, out)
	if slow < 20*runs || sessions+out > runs/10 {
		t.Errorf("%d slow writes, %d new sessions, %d replicas out in %d runs: want many, few, few", slow, sessions, out, runs)
	}
}
