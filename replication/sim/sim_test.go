package sim

import (
	"flag"
	"testing"
	"time"
)

var (
	seed  = flag.Uint64("seed", 0, "run this seed only")
	seeds = flag.Uint64("seeds", 200, "how many seeds to run, from 1 on")
)

// No cluster breaks its promises, whatever happens to it.
func TestCluster(t *testing.T) {
	if *seed != 0 {
		res := Run(*seed)
		t.Log(res)
		if res.Broken != "" {
			t.Fatal(res.Broken)
		}
		return
	}
	var sum Result
	start := time.Now()
	for s := uint64(1); s <= *seeds; s++ {
		res := Run(s)
		if res.Broken != "" {
			t.Fatalf("seed %d: %s\nreplay with: go test ./replication/sim -run TestCluster -seed %d -v", s, res.Broken, s)
		}
		sum.Moved += res.Moved
		sum.Ops, sum.OK, sum.Epochs, sum.Changes, sum.Drains, sum.Refused = sum.Ops+res.Ops, sum.OK+res.OK, sum.Epochs+res.Epochs, sum.Changes+res.Changes, sum.Drains+res.Drains, sum.Refused+res.Refused
	}
	t.Logf("%d seeds in %v: %v", *seeds, time.Since(start).Round(time.Millisecond), sum)
}

// A seed is a run: what is found can be replayed.
func TestSameSeedSameRun(t *testing.T) {
	for s := uint64(1); s <= 10; s++ {
		if a, b := Run(s), Run(s); a != b {
			t.Errorf("seed %d: %v, then %v", s, a, b)
		}
	}
}
