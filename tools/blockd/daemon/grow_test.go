package daemon

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

// A volume of three copies grows while one of three nodes is drained and stopped, so that nothing keeps what is new of it yet. What it had
// before is served meanwhile: by its owner, which has to learn that the copy there is out of sync, and by the next one.
func TestAVolumeThatCanNotGrowYetIsServed(t *testing.T) {
	t.Parallel()
	a, nodes := nodesOf(t, 3, func(c *Config) { c.RebuildAfter = time.Hour })
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	rest := slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == owner })
	next, gone := rest[0], rest[1]
	until(t, "all copies are in sync", func() bool { return inSync(owner, id) == 3 })
	state := func(to catalog.NodeState) {
		t.Helper()
		if _, err := owner.Daemon().do(nil, &catalogpb.Command{Kind: &catalogpb.Command_SetNodeState{
			SetNodeState: &catalogpb.SetNodeState{Node: gone.cfg.Name, State: string(to), Reason: "upgrade"}}}); err != nil {
			t.Fatal(err)
		}
	}
	state(catalog.NodeDraining)
	gone.stop()
	if _, err := blockdv1connect.NewVolumeServiceClient(a.client(), owner.url()).ResizeVolume(t.Context(),
		connect.NewRequest(&blockdv1.ResizeVolumeRequest{Name: "v", SizeBytes: 1 << 30})); err != nil {
		t.Fatal(err)
	}
	if owner.Daemon().catalog.State().Allocated(id) {
		t.Fatal("all of the volume has disks, though one of three nodes takes nothing")
	}
	write := func(n *testNode, fill byte) {
		t.Helper()
		done := make(chan error, 1)
		dev := volumeDevice(t, n.Daemon(), "v")
		go func() { done <- writeAsHosts(dev, bytes.Repeat([]byte{fill}, 4096), 0) }()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(15 * time.Second):
			t.Fatalf("a write through node %s waits for ever", n.cfg.Name)
		}
	}
	write(owner, 1)
	ownedBy(t, a, nodes, next, id)
	write(owner, 2)
	write(next, 3)
	gone.start()
	state(catalog.NodeActive)
	until(t, "what has grown has disks", func() bool { return next.Daemon().catalog.State().Allocated(id) })
	until(t, "all copies are in sync", func() bool { return inSync(next, id) == 3 })
	until(t, "the volume has grown", func() bool { return volumeDevice(t, next.Daemon(), "v").Geometry().SizeBytes == 1<<30 })
	if err := writeAsHosts(volumeDevice(t, next.Daemon(), "v"), make([]byte, 4096), 1<<30-4096); err != nil {
		t.Fatal(err)
	}
}
