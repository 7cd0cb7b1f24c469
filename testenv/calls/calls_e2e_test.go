//go:build e2e

package calls

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/testenv/cluster"
)

// seed is BLOCKD_E2E_SEED, or drawn from the clock.
func seed(t *testing.T) uint64 {
	t.Helper()
	n := uint64(time.Now().UnixNano())
	if text := os.Getenv("BLOCKD_E2E_SEED"); text != "" {
		var err error
		if n, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("BLOCKD_E2E_SEED: %v", err)
		}
	}
	t.Logf("seed %d; BLOCKD_E2E_SEED=%d makes the same calls", n, n)
	return n
}

// electedWithin is how long a cluster may be without a leader after the last one was
// killed: the others are told at once that its connections have ended. The quickest of
// several elections is the measure: a busy machine only adds.
const electedWithin = 2 * time.Second

const leaderKilled = "leader killed"

var nodes = []string{"n1", "n2", "n3"}

func others(name string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == name })
}

// leader asks the nodes until one knows it.
func leader(ctx context.Context, c *cluster.Cluster) (string, error) {
	for ; ctx.Err() == nil; pass(ctx, pauseBetween) {
		for _, n := range nodes {
			h, address, err := c.Client(n)
			if err != nil {
				return "", err
			}
			call, cancel := context.WithTimeout(ctx, tryFor)
			r, err := blockdv1connect.NewClusterServiceClient(h, address).GetCluster(call, connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true}))
			cancel()
			h.CloseIdleConnections()
			if err == nil && r.Msg.GetCluster().GetLeader() != "" {
				return r.Msg.GetCluster().GetLeader(), nil
			}
		}
	}
	return "", errors.New("no node knows a leader")
}

// TestHistoriesAreLinearizable: clients create, delete, resize, protect, map, unmap
// and read volumes through all nodes, while leaders are killed, cut off and paused,
// and others too; every answer fits into one order.
func TestHistoriesAreLinearizable(t *testing.T) {
	c := cluster.New(t, cluster.Config{})
	// Two nodes of the three suffice to make a volume of two copies.
	if _, err := c.Ctl(t.Context(), cluster.HostName, "pool", "create", "two", "--replicas", "2", "--min-in-sync", "1"); err != nil {
		t.Fatal(err)
	}
	l, err := Start(Config{Nodes: nodes, Client: c.Client, Pool: "two", Clients: 6, Names: 12, Think: 5 * time.Millisecond, Seed: seed(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // it takes 45 s where nothing else is done
	defer cancel()
	restart := func(name string) func() error { return func() error { return c.Restart(ctx, name) } }
	resume := func(name string) func() error { return func() error { return c.Resume(name) } }
	kill := func(l string) (func() error, error) { return restart(l), c.Kill(l) }
	quickest := time.Duration(math.MaxInt64)
	for _, f := range []struct {
		name  string
		begin func(leader string) (end func() error, err error)
	}{
		{leaderKilled, kill},
		{leaderKilled, kill},
		{leaderKilled, kill},
		{"leader cut off from the nodes", func(l string) (func() error, error) { return c.Heal, c.Partition([]string{l}, others(l)) }},
		{"leader paused", func(l string) (func() error, error) { return resume(l), c.Pause(l) }},
		{"leader not heard", func(l string) (func() error, error) { return c.Heal, c.PartitionOneWay([]string{l}, others(l)) }},
		{"leader hears nobody", func(l string) (func() error, error) { return c.Heal, c.PartitionOneWay(others(l), []string{l}) }},
		{"another killed", func(l string) (func() error, error) { return restart(others(l)[0]), c.Kill(others(l)[0]) }},
		{"another paused", func(l string) (func() error, error) { return resume(others(l)[0]), c.Pause(others(l)[0]) }},
		{"all killed", func(string) (func() error, error) {
			return func() error { return c.Restart(ctx, nodes...) }, c.Kill(nodes...)
		}},
	} {
		name, err := leader(ctx, c)
		if err == nil {
			err = l.Progress(ctx)
		}
		if err != nil {
			t.Fatalf("before %s: %v", f.name, err)
		}
		end, err := f.begin(name)
		if err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		began := time.Now()
		if f.name == leaderKilled {
			if _, err := leader(ctx, c); err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			quickest = min(quickest, time.Since(began))
		}
		if f.name != "all killed" {
			err = l.Progress(ctx)
		}
		t.Logf("%s (%s): all clients had an answer within %v", f.name, name, time.Since(began).Round(time.Millisecond))
		if err := errors.Join(err, end()); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
	}
	if quickest > electedWithin {
		t.Errorf("the quickest new leader came after %v, want it within %v", quickest, electedWithin)
	}
	if err := l.Progress(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := l.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d calls, %d open, %d by several nodes: linearizable", r.Calls, r.Open, r.Again)
}
