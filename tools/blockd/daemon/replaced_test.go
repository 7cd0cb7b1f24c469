package daemon

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
)

// copiesAt are the nodes that a volume has its copies on, by the catalog of n.
func copiesAt(n *testNode, nodes []*testNode, id catalog.ID) (on, off []*testNode) {
	for _, m := range nodes {
		has := false
		for _, r := range n.Daemon().catalog.State().Replicas(id) {
			has = has || r.Node == m.Daemon().plane.id()
		}
		if has {
			on = append(on, m)
		} else {
			off = append(off, m)
		}
	}
	return on, off
}

// writer writes a volume through a node, block after block, until it is stopped; none fails.
// Half a stride after each of them is one that is written once, before.
type writer struct {
	t      *testing.T
	n      *testNode
	stride int64 // from one block of 4 KiB to the next
	stop   context.CancelFunc
	done   sync.WaitGroup
	last   byte
}

const writerBlocks = 512

func (w *writer) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.stop = cancel
	dev := volumeDevice(w.t, w.n.Daemon(), "v")
	for i := range int64(writerBlocks) {
		if err := writeAsHosts(dev, old(i), i*w.stride+w.stride/2); err != nil {
			w.t.Fatal(err)
		}
	}
	w.done.Go(func() {
		for ctx.Err() == nil {
			w.last++
			for i := range int64(writerBlocks) {
				if err := writeAsHosts(dev, bytes.Repeat([]byte{w.last + byte(i)}, 4096), i*w.stride); err != nil {
					w.t.Errorf("write of block %d: %v", i, err)
					return
				}
			}
		}
	})
}

// writeAsHosts sends a write again that is busy, as every host does: on a slow machine a change of
// owner takes longer than a node keeps writes for (device.Config.Late).
func writeAsHosts(dev blockdev.Device, b []byte, off int64) error {
	for {
		if err := blockdev.WriteAt(dev, b, off); !errors.Is(err, blockdev.ErrBusy) {
			return err
		}
	}
}

// check ends the writing, and reads all of it through n, which owns the volume.
func (w *writer) check(n *testNode) {
	w.t.Helper()
	w.stop()
	w.done.Wait()
	read := func(off int64, want []byte) {
		got := make([]byte, len(want))
		if err := blockdev.ReadAt(volumeDevice(w.t, n.Daemon(), "v"), got, off); err != nil {
			w.t.Fatalf("read at %d: %v", off, err)
		}
		if !bytes.Equal(got, want) {
			w.t.Fatalf("what is read at %d through %s begins with %#x, want %#x", off, n.cfg.Name, got[0], want[0])
		}
	}
	for i := range int64(writerBlocks) {
		read(i*w.stride, bytes.Repeat([]byte{w.last + byte(i)}, 4096))
		read(i*w.stride+w.stride/2, old(i))
	}
}

// old is what a block has that is written once.
func old(i int64) []byte { return bytes.Repeat([]byte{byte(i)*7 + 3}, 4096) }

// ownedBy has a node own the volume, so that it reads the copy that it has.
func ownedBy(t *testing.T, a admin, nodes []*testNode, n *testNode, id catalog.ID) {
	t.Helper()
	if _, err := blockdv1connect.NewLeaseServiceClient(a.client(), n.url()).MoveLease(t.Context(),
		connect.NewRequest(&blockdv1.MoveLeaseRequest{Volume: "v", To: n.cfg.Name})); err != nil {
		t.Fatal(err)
	}
	until(t, "the volume has moved to its new copy", func() bool { return ownerOf(t, nodes, id) == n })
}

// jobOfDisk is the only job of a kind about a disk, which has to be done, and is known by the disk's name.
func jobOfDisk(t *testing.T, a admin, n *testNode, kind, disk string) {
	t.Helper()
	jobs := blockdv1connect.NewJobServiceClient(a.client(), n.url())
	var found []*blockdv1.Job
	until(t, "the job "+kind+" of disk "+disk+" is done", func() bool {
		all := must[blockdv1.ListJobsResponse](t)(jobs.ListJobs(t.Context(), connect.NewRequest(&blockdv1.ListJobsRequest{All: true}))).GetJobs()
		found = slices.DeleteFunc(all, func(j *blockdv1.Job) bool { return j.GetKind() != kind || j.GetSubject() != disk })
		return len(found) > 0 && found[0].GetState() == "done"
	})
	if len(found) != 1 || found[0].GetStepsTotal() == 0 || found[0].GetStepsDone() != found[0].GetStepsTotal() {
		t.Errorf("%v", found)
	}
}

// A disk is drained, with extents on all four nodes: each of them gets some of its copies
// while the volume is written, and then it can be removed.
func TestADiskIsEmptied(t *testing.T) {
	t.Parallel()
	a, nodes := nodesOf(t, 4, func(*Config) {})
	id := sharedVolumeOn(t, a, nodes, "v")
	if _, err := blockdv1connect.NewVolumeServiceClient(a.client(), nodes[1].url()).ResizeVolume(t.Context(),
		connect.NewRequest(&blockdv1.ResizeVolumeRequest{Name: "v", SizeBytes: 256 << 20})); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		until(t, n.cfg.Name+" has grown it", func() bool { return volumeDevice(t, n.Daemon(), "v").Geometry().SizeBytes == 256<<20 })
	}
	if on, _ := copiesAt(nodes[0], nodes, id); len(on) != 4 {
		t.Fatalf("copies are on %d nodes", len(on))
	}
	w := &writer{t: t, n: nodes[0], stride: 512 << 10}
	w.run()

	// The disk of the owner, so that it takes over from itself.
	owner := ownerOf(t, nodes, id)
	rest := slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == owner })
	members := blockdv1connect.NewMembershipServiceClient(a.client(), rest[0].url())
	store := owner.Daemon().disks[0].store
	disk := catalog.ID(store.Info().UUID).String()
	drained, err := members.DrainDisk(t.Context(), connect.NewRequest(&blockdv1.DrainDiskRequest{Disk: disk}))
	if err != nil || drained.Msg.GetLeft() == "" || drained.Msg.GetJob().GetKind() != director.JobDrainDisk {
		t.Fatal(drained, err)
	}
	_, err = members.RemoveDisk(t.Context(), connect.NewRequest(&blockdv1.RemoveDiskRequest{Disk: disk, Force: true}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "which other disks must have first")
	until(t, "the disk is drained", func() bool {
		return rest[0].Daemon().catalog.State().DiskByID(parseID(disk)).State == catalog.DiskDrained
	})
	until(t, "three copies are in sync", func() bool { return inSync(rest[0], id) == 3 })
	jobOfDisk(t, a, rest[1], director.JobDrainDisk, owner.cfg.Name+"/disk0")
	until(t, "the copy on the drained disk is freed", func() bool { return store.Stats().Volumes == 0 })
	for _, n := range rest {
		ownedBy(t, a, nodes, n, id)
		w.check(n)
	}
	if _, err := members.RemoveDisk(t.Context(), connect.NewRequest(&blockdv1.RemoveDiskRequest{Disk: disk})); err != nil {
		t.Error(err)
	}
}

// The owner of a volume is lost for good: another node takes the volume over, a fourth one
// gets a copy while it is written, and then the lost one can be removed.
func TestANodeIsLostForGood(t *testing.T) {
	t.Parallel()
	a, nodes := nodesOf(t, 4, func(c *Config) { c.RebuildAfter = time.Second })
	id := sharedVolumeOn(t, a, nodes, "v")
	on, off := copiesAt(nodes[0], nodes, id)
	if len(on) != 3 {
		t.Fatalf("copies are on %d nodes", len(on))
	}
	spare, lost := off[0], on[0]
	ownedBy(t, a, nodes, lost, id)
	rest := slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == lost })
	members := blockdv1connect.NewMembershipServiceClient(a.client(), spare.url())
	_, err := members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{Node: lost.cfg.Name, Force: true}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "which other disks must have first")

	w := &writer{t: t, n: spare, stride: 128 << 10}
	w.run()
	gone := lost.Daemon().plane.id()
	lost.stop()
	until(t, "no copy is on the lost node", func() bool { return spare.Daemon().catalog.State().ReplicasOn(gone) == 0 })
	until(t, "three copies are in sync again", func() bool { return inSync(spare, id) == 3 })
	jobOfDisk(t, a, spare, director.JobRebuild, lost.cfg.Name+"/disk0")
	ownedBy(t, a, rest, spare, id)
	w.check(spare)
	if _, err := members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{Node: lost.cfg.Name, Force: true})); err != nil {
		t.Error(err)
	}
}
