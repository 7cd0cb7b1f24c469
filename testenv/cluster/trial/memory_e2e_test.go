//go:build e2e

package trial

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/multipath"
)

const (
	heavyWriters = 128 // each with one write under way
	heavyBytes   = 64 << 10
	heavyWarm    = 2 * time.Second
	heavyLasts   = 6 * time.Second

	// arenaBytes is what the nodes have for I/O buffers here. All else that a node needs for it, hosts' connections, sessions
	// between nodes, its store's log and maps and the runtime's heap, has to go into memoryMax with it.
	arenaBytes = 64 << 20
	memoryMax  = 384 << 20
	// growthMax is how much more a node may come to need between the first seconds of a slow copy and the last.
	growthMax = 64 << 20
)

// TestMemoryIsBoundedWhileACopyIsSlow: hosts write as much as they can, and the disks of one copy take 100 ms for everything. What no
// copy has taken yet is held up at the hosts, and not kept in the nodes.
func TestMemoryIsBoundedWhileACopyIsSlow(t *testing.T) {
	c := cluster.New(t, cluster.Config{Args: []string{"--arena-size", fmt.Sprint(arenaBytes)}})
	tr, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	var written atomic.Int64
	var working sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, heavyWriters)
	for id, speaks := range []protocol{overNVMe, overISCSI} {
		dev, err := tr.connectTo(ctx, speaks, byte(id), 10*silence, multipath.Config{Patience: hostPatience}, tr.names()...)
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		for i := range int64(heavyWriters / 2) {
			working.Go(func() {
				data := bytes.Repeat([]byte{byte(i + 1)}, heavyBytes)
				for at := i; ctx.Err() == nil; at += heavyWriters / 2 {
					offset := at * heavyBytes % (volumeBytes / 4)
					if err := blockdev.WriteAt(dev, data, offset+int64(id)*volumeBytes/2); err != nil {
						failed <- fmt.Errorf("over %s: %w", speaks, err)
						return
					}
					written.Add(heavyBytes)
				}
			})
		}
	}
	rate := func(d time.Duration) float64 {
		before, began := written.Load(), time.Now()
		pass(ctx, d)
		return float64(written.Load()-before) / 1e6 / time.Since(began).Seconds()
	}
	fast := rate(heavyWarm)
	owner, err := tr.Owner(ctx)
	if err != nil {
		t.Fatal(err)
	}
	slow := tr.others(owner)[0]
	if err = c.DiskFaults(slow, "any delay=100ms"); err != nil {
		t.Fatal(err)
	}
	rate(heavyWarm)
	first := tr.peaks(t)
	held := rate(heavyLasts)
	last := tr.peaks(t)
	v, err := tr.volumeNamed(t.Context(), volumeName)
	if err != nil {
		t.Fatal(err)
	}
	all := inSync(v)
	stop()
	working.Wait()
	if err := c.DiskFaults(slow); err != nil {
		t.Error(err)
	}
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	t.Logf("hosts wrote %.0f MB/s, and %.0f while the disks of %s were slow", fast, held, slow)
	for node, peak := range last {
		t.Logf("%s has needed up to %d MiB, %d of these at the begin of that", node, peak>>20, first[node]>>20)
		if peak > memoryMax || peak-first[node] > growthMax {
			t.Errorf("%s needed %d MiB, %d at first: want %d at most, and %d more than at first", node, peak>>20, first[node]>>20, memoryMax>>20, growthMax>>20)
		}
	}
	// A copy that is out of sync, as happens on a busy machine, is not waited for.
	if all == nil && held > fast*3/4 {
		t.Errorf("hosts did not feel that a copy is slow")
	}
	t.Logf("what was not as it should be with the copies then: %v", all)
	if _, err := tr.AwaitSync(t.Context()); err != nil {
		t.Error(err)
	}
}

// peaks is the most memory that each node's process has had resident so far, in bytes (VmHWM, proc_pid_status(5)).
func (t *Trial) peaks(tb testing.TB) map[string]int64 {
	tb.Helper()
	out := map[string]int64{}
	for _, n := range t.nodes {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.Process.PID))
		if err != nil {
			tb.Fatal(err)
		}
		_, after, _ := bytes.Cut(text, []byte("VmHWM:"))
		var kib int64
		if _, err := fmt.Sscan(string(after), &kib); err != nil {
			tb.Fatal(err)
		}
		out[n.Name] = kib << 10
	}
	return out
}
