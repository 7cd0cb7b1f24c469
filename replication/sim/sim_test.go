package sim

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"blockd.dev/internal/invariants"
)

var (
	seed  = flag.Uint64("seed", 0, "run this seed only")
	seeds = flag.Uint64("seeds", seedsByDefault(), "how many seeds to run, from 1 on; 0: ever new ones, until interrupted")
)

// seedsByDefault is how many seeds TestCluster runs unless told. With the race detector it is
// few: that is slow and has no races to find in one goroutine.
func seedsByDefault() uint64 {
	if invariants.Enabled {
		return 40
	}
	return 200
}

// sumEvery is how many seeds that run until interrupted are told of at a time.
const sumEvery = 10000

// No cluster breaks its promises, whatever happens to it.
func TestCluster(t *testing.T) {
	switch {
	case *seed != 0:
		res := Run(*seed)
		t.Log(res)
		if res.Broken != "" {
			t.Fatal(res.Broken)
		}
	case *seeds != 0:
		runSeeds(t, 1, *seeds, nil)
	default:
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, os.Interrupt)
		defer signal.Stop(stop)
		for from := uint64(time.Now().UnixMilli()); runSeeds(t, from, sumEvery, stop); from += sumEvery {
		}
	}
}

// runSeeds runs as many seeds, from one on, and tells what they did. It returns false when stop ended it.
func runSeeds(t *testing.T, from, count uint64, stop <-chan os.Signal) bool {
	t.Helper()
	var sum Result
	start, did, going := time.Now(), uint64(0), true
	for ; did < count && going; did++ {
		s := from + did
		res := Run(s)
		if res.Broken != "" {
			t.Fatalf("seed %d: %s\nreplay with: go test ./replication/sim -run TestCluster -seed %d -v", s, res.Broken, s)
		}
		sum = sum.and(res)
		select {
		case <-stop:
			going = false
		default:
		}
	}
	which := ""
	if from != 1 {
		which = fmt.Sprintf(", %d to %d", from, from+did-1)
	}
	t.Logf("%d seeds%s in %v: %v", did, which, time.Since(start).Round(time.Millisecond), sum)
	return going
}

// and is what became of two runs.
func (r Result) and(o Result) Result {
	return Result{
		Ops: r.Ops + o.Ops, OK: r.OK + o.OK, Epochs: r.Epochs + o.Epochs, Changes: r.Changes + o.Changes,
		Drains: r.Drains + o.Drains, Refused: r.Refused + o.Refused, Moved: r.Moved + o.Moved, Lies: r.Lies + o.Lies,
	}
}

// A seed is a run: what is found can be replayed.
func TestSameSeedSameRun(t *testing.T) {
	for s := uint64(1); s <= 10; s++ {
		if a, b := Run(s), Run(s); a != b {
			t.Errorf("seed %d: %v, then %v", s, a, b)
		}
	}
}
