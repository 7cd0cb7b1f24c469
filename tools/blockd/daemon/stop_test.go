package daemon

import (
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// waitsForReplica is how long a write waits for a replica, by itself (device.Timeouts.Op).
const waitsForReplica = 30 * time.Second

// A node that stops ends what its hosts wait for: here for a replica that can't be reached
// and that no write can do without, at the owner of the volume and at a node that has
// forwarded to it.
func TestStopDoesNotWaitForReplicas(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	pools := blockdv1connect.NewPoolServiceClient(a.client(), nodes[0].url())
	if _, err := pools.CreatePool(t.Context(), connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "all", Replicas: 3, MinInSync: 3})); err != nil {
		t.Fatal(err)
	}
	volumes := blockdv1connect.NewVolumeServiceClient(a.client(), nodes[0].url())
	if _, err := volumes.CreateVolume(t.Context(), connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: "v", SizeBytes: 64 << 20, Pool: "all"})); err != nil {
		t.Fatal(err)
	}
	mapping := blockdv1connect.NewMappingServiceClient(a.client(), nodes[0].url())
	if _, err := mapping.MapVolume(t.Context(), connect.NewRequest(&blockdv1.MapVolumeRequest{Volume: "v", Host: "any"})); err != nil {
		t.Fatal(err)
	}
	id := nodes[0].Daemon().catalog.State().Volume("v").ID
	owner := ownerOf(t, nodes, id)
	var other, silent *testNode
	for _, n := range nodes {
		switch {
		case n == owner:
		case other == nil:
			other = n
		default:
			silent = n
		}
		until(t, n.cfg.Name+" shows the volume", func() bool { v, ok := n.Daemon().volumes.get(id); return ok && v.dev != nil })
	}
	if err := silent.Daemon().shared.Load().network.close(); err != nil {
		t.Fatal(err)
	}
	for i, n := range []*testNode{other, owner} {
		h := attach(t, n.Daemon())
		ended, began := make(chan struct{}), time.Now()
		h.ns.Submit([]*blockdev.Request{{Op: blockdev.OpWrite, Offset: int64(i) << 20, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(*blockdev.Request) { close(ended) }}})
		v := owner.Daemon().shared.Load().sharedVolume(id)
		until(t, "the write to wait for the replica", func() bool { st := v.Status().Volume; return st.Waiting+st.InFlight > i })
		select {
		case <-ended:
			t.Fatal("the write does not wait")
		default:
		}
		n.stop()
		<-ended
		if took := time.Since(began); took >= waitsForReplica {
			t.Errorf("%s has stopped %v after the write began: it waited for the replica", n.cfg.Name, took)
		}
	}
}
