//go:build e2e

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// writer creates hosts, one after the other, until stop, asking node after
// node with the same request until one says yes. It keeps the names that were
// acknowledged.
type writer struct {
	apis []blockdv1connect.HostServiceClient

	mu    sync.Mutex
	acked []string
	grew  chan struct{} // closed and made anew with each acknowledgement
}

// startWriter writes until the test ends or stop is called, which returns what
// was acknowledged.
func startWriter(t *testing.T, c *Cluster, names ...string) (w *writer, stop func() []string) {
	t.Helper()
	w = &writer{grew: make(chan struct{})}
	for _, name := range names {
		client, address, err := c.Client(name)
		must(t, err)
		t.Cleanup(client.CloseIdleConnections)
		w.apis = append(w.apis, blockdv1connect.NewHostServiceClient(client, address))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			w.create(ctx, fmt.Sprintf("h%d", i))
		}
	}()
	stop = func() []string { cancel(); <-done; return w.acked }
	t.Cleanup(func() { stop() })
	return w, stop
}

// tryFor is how long one node is asked before the next. A leader that is cut
// off makes the client wait that long, each time that it is asked.
const tryFor = time.Second

// create makes one host, however often it must ask.
func (w *writer) create(ctx context.Context, name string) {
	req := &blockdv1.CreateHostRequest{RequestId: "create-" + name, Name: name, Iqn: "iqn.2026-01.dev.blockd.test:" + name}
	for i := 0; ctx.Err() == nil; i++ {
		tctx, cancel := context.WithTimeout(ctx, tryFor)
		_, err := w.apis[i%len(w.apis)].CreateHost(tctx, connect.NewRequest(req))
		cancel()
		if err != nil {
			pause(ctx)
			continue
		}
		w.mu.Lock()
		w.acked = append(w.acked, name)
		close(w.grew)
		w.grew = make(chan struct{})
		w.mu.Unlock()
		return
	}
}

// pause keeps a client whose requests are refused from asking without end.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pollEvery):
	}
}

// more waits until n more were acknowledged, and tells how long that took.
func (w *writer) more(t *testing.T, n int) time.Duration {
	t.Helper()
	start, timeout := time.Now(), time.After(time.Minute)
	for seen := -1; ; {
		w.mu.Lock()
		now, grew := len(w.acked), w.grew
		w.mu.Unlock()
		if seen < 0 {
			seen = now
		}
		if now >= seen+n {
			return time.Since(start)
		}
		select {
		case <-grew:
		case <-timeout:
			t.Fatalf("%d commands were acknowledged in a minute, want %d", now-seen, n)
		}
	}
}

// leader asks the nodes until one knows it.
func leader(t *testing.T, c *Cluster, names ...string) (name string) {
	t.Helper()
	waitFor(t, "a leader", func() bool {
		for _, n := range names {
			client, address, err := c.Client(n)
			must(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), tryFor)
			res, err := blockdv1connect.NewClusterServiceClient(client, address).GetCluster(ctx, connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true}))
			cancel()
			client.CloseIdleConnections()
			if err == nil && res.Msg.GetCluster().GetLeader() != "" {
				name = res.Msg.GetCluster().GetLeader()
				return true
			}
		}
		return false
	})
	return name
}

var three = []string{"n1", "n2", "n3"}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// expectAll checks that every node has, in the end, what was acknowledged.
func expectAll(t *testing.T, c *Cluster, acked []string) {
	t.Helper()
	for _, name := range three {
		client, address, err := c.Client(name)
		must(t, err)
		defer client.CloseIdleConnections()
		var lost []string
		waitFor(t, name+" to have all", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), tryFor)
			defer cancel()
			res, err := blockdv1connect.NewHostServiceClient(client, address).ListHosts(ctx, connect.NewRequest(&blockdv1.ListHostsRequest{}))
			if err != nil {
				return false
			}
			has := map[string]bool{}
			for _, h := range res.Msg.GetHosts() {
				has[h.GetName()] = true
			}
			lost = slices.DeleteFunc(slices.Clone(acked), func(n string) bool { return has[n] })
			return len(lost) == 0
		})
	}
	t.Logf("%d acknowledged commands, none lost", len(acked))
}

// TestNoAcknowledgedCommandIsLost, while leaders are killed, paused, cut off
// one way and both, and frames are lost and late. The majority goes on each time.
func TestNoAcknowledgedCommandIsLost(t *testing.T) {
	for _, ipv6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %v", ipv6), func(t *testing.T) {
			c := New(t, Config{IPv6: ipv6})
			w, stop := startWriter(t, c, three...)
			w.more(t, 20)
			for _, fault := range []struct {
				name       string
				begin, end func(leader string, others []string) error
			}{
				{"killed", func(l string, _ []string) error { return c.Kill(l) },
					func(l string, _ []string) error { return c.Restart(t.Context(), l) }},
				{"cut off", func(l string, others []string) error { return c.Partition([]string{l}, others) },
					func(string, []string) error { return c.Heal() }},
				{"paused", func(l string, _ []string) error { return c.Pause(l) },
					func(l string, _ []string) error { return c.Resume(l) }},
				{"not heard", func(l string, others []string) error { return c.PartitionOneWay([]string{l}, others) },
					func(string, []string) error { return c.Heal() }},
				{"hard to hear", func(l string, others []string) error {
					return errors.Join(c.Loss(5, three, three), c.Delay(t.Context(), 3*time.Millisecond, 2*time.Millisecond, three, three))
				}, func(string, []string) error { return c.Heal() }},
			} {
				l := leader(t, c, three...)
				others := without(three, l)
				must(t, fault.begin(l, others))
				took := w.more(t, 1)
				w.more(t, 5)
				t.Logf("leader %s %s: the next acknowledgement came after %v", l, fault.name, took.Round(time.Millisecond))
				must(t, fault.end(l, others))
				w.more(t, 5)
			}
			expectAll(t, c, stop())
		})
	}
}

// TestChangesDoNotWaitForWhoIsGone: a node that is gone without a word holds a change up until the others have
// noticed, and no further.
func TestChangesDoNotWaitForWhoIsGone(t *testing.T) {
	c := New(t, Config{})
	l := leader(t, c, three...)
	others := without(three, l)
	client, address, err := c.Client(l)
	must(t, err)
	defer client.CloseIdleConnections()
	api := blockdv1connect.NewHostServiceClient(client, address)
	must(t, c.Partition([]string{others[0]}, []string{l, others[1]}))
	const enough = 8 * time.Second // it is down for the others after 10 s, and then nobody asks it
	began, quickest := time.Now(), time.Minute
	for i := 0; quickest > time.Second && time.Since(began) < enough; i++ {
		asked, name := time.Now(), fmt.Sprintf("h%d", i)
		_, err := api.CreateHost(t.Context(), connect.NewRequest(&blockdv1.CreateHostRequest{
			RequestId: name, Name: name, Iqn: "iqn.2026-01.dev.blockd.test:" + name}))
		must(t, err)
		quickest = min(quickest, time.Since(asked))
	}
	if quickest > time.Second {
		t.Errorf("%s is gone, and each change took at least %v", others[0], quickest)
	}
	must(t, c.Heal())
}

// TestNoQuorumNoAcknowledgement: a leader that is cut off alone says no, and
// blockctl by the administrator's certificate gets its answer from the others.
func TestNoQuorumNoAcknowledgement(t *testing.T) {
	c := New(t, Config{})
	l := leader(t, c, three...)
	others := without(three, l)
	must(t, c.Partition([]string{l}, append([]string{HostName}, others...)))
	client, address, err := c.Client(l)
	must(t, err)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = blockdv1connect.NewHostServiceClient(client, address).CreateHost(ctx, connect.NewRequest(
		&blockdv1.CreateHostRequest{RequestId: "alone", Name: "alone", Iqn: "iqn.2026-01.dev.blockd.test:alone"}))
	if err == nil {
		t.Error("a leader without a majority acknowledged a command")
	}
	leader(t, c, others...)
	if _, err := c.Ctl(t.Context(), HostName, "--timeout", "30s", "host", "add", "together", "--iqn", "iqn.2026-01.dev.blockd.test:together"); err != nil {
		t.Error(err)
	}
	must(t, c.Heal())
	expectAll(t, c, []string{"together"})
	out, err := c.Ctl(t.Context(), l, "host", "list")
	must(t, err)
	if !strings.Contains(out, "together") {
		t.Errorf("%s doesn't show the host:\n%s", l, out)
	}
}
