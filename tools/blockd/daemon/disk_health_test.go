package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/faulty"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
)

// ruled are the rules of disks, by path.
type ruled struct {
	mu    sync.Mutex
	rules map[string]*faulty.Rules
}

func (r *ruled) wrap(d disk.Disk) disk.Disk {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := d.Info().Path
	if r.rules[path] == nil {
		r.rules[path] = faulty.NewRules(1)
	}
	return faulty.New(d, r.rules[path])
}

func (r *ruled) of(path string) *faulty.Rules {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules[path]
}

// threeOfTwo is a cluster of three nodes with two disks each. set may be nil.
func threeOfTwo(t *testing.T, set func(*Config)) (a admin, nodes []*testNode, faults *ruled) {
	faults = &ruled{rules: map[string]*faulty.Rules{}}
	a, nodes = nodesOf(t, 3, func(c *Config) {
		for i := range 2 {
			path := filepath.Join(c.Data, fmt.Sprintf("disk%d", i))
			f, err := os.Create(path)
			if err == nil {
				err = f.Truncate(512 << 20)
			}
			if err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			c.Disks = append(c.Disks, path)
		}
		c.RebuildAfter, c.wrapDisk = time.Second, faults.wrap
		if set != nil {
			set(c)
		}
	})
	return a, nodes, faults
}

// A disk takes no more writes, in a cluster where all disks have extents of the volume already: its
// node says so, and the extents on it go to the node's other disk while the volume is
// written. After it was mended and resumed, a rebalance brings extents back to it.
func TestADiskFailsAndIsMended(t *testing.T) {
	t.Parallel()
	a, nodes, faults := threeOfTwo(t, nil)
	id := sharedVolumeOn(t, a, nodes, "v")
	if _, err := blockdv1connect.NewVolumeServiceClient(a.client(), nodes[1].url()).ResizeVolume(t.Context(),
		connect.NewRequest(&blockdv1.ResizeVolumeRequest{Name: "v", SizeBytes: 256 << 20})); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		until(t, n.cfg.Name+" has grown it", func() bool { return volumeDevice(t, n.Daemon(), "v").Geometry().SizeBytes == 256<<20 })
	}
	state := func() *catalog.State { return nodes[0].Daemon().catalog.State() }
	if on := state().Map().Volume(id).Disks(); len(on) != 6 {
		t.Fatalf("extents are on the disks %d", on)
	}
	w := &writer{t: t, n: nodes[0], stride: 512 << 10}
	w.run()

	sick := nodes[2]
	broken := sick.Daemon().disks[1]
	number := state().DiskByID(broken.id()).Number
	faults.of(broken.path).Add(faulty.Rule{Op: disk.Write, Err: syscall.EIO})
	until(t, "the disk has failed, by the catalog", func() bool { return state().DiskByNumber(number).State == catalog.DiskFailed })
	if reason := state().DiskByNumber(number).Reason; !strings.Contains(reason, "takes no more writes") {
		t.Errorf("the reason is %q", reason)
	}
	until(t, "nothing of the volume is on it", func() bool { return state().Map().Used(number) == 0 })
	jobOfDisk(t, a, nodes[1], director.JobRebuild, "n3/disk1")
	until(t, "all copies are in sync", func() bool { return inSync(nodes[0], id) == 5 && len(state().Replicas(id)) == 5 })

	// Its node starts anew, and the disk works: nobody but an administrator takes that for good.
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	sick.down = true
	_ = sick.Stop(ctx) // the store says why it has failed
	faults.of(broken.path).Clear()
	sick.start()
	until(t, "the node is there again", func() bool { return inSync(nodes[0], id) == 5 })
	diagnosed := must[blockdv1.DiagnoseResponse](t)(blockdv1connect.NewNodeServiceClient(a.client(), sick.url()).Diagnose(t.Context(), connect.NewRequest(&blockdv1.DiagnoseRequest{})))
	if !slices.ContainsFunc(diagnosed.GetFindings(), func(f *blockdv1.Finding) bool { return strings.Contains(f.GetMessage(), "it works, and gets nothing") }) {
		t.Errorf("the doctor does not say that the disk works: %v", diagnosed.GetFindings())
	}
	members := blockdv1connect.NewMembershipServiceClient(a.client(), nodes[0].url())
	if _, err := members.ResumeDisk(t.Context(), connect.NewRequest(&blockdv1.ResumeDiskRequest{Disk: catalog.ID(broken.id()).String()})); err != nil {
		t.Fatal(err)
	}
	jobs := blockdv1connect.NewJobServiceClient(a.client(), nodes[1].url())
	until(t, "a rebalance would move two extents to it", func() bool { // from a node that this one has heard to be up again
		dry := must[blockdv1.RebalanceResponse](t)(jobs.Rebalance(t.Context(), connect.NewRequest(&blockdv1.RebalanceRequest{DryRun: true})))
		return strings.Contains(strings.Join(dry.GetChanges(), "\n"), "2 extents move from disk n3/disk0 to disk n3/disk1, 128MiB at most")
	})
	job := must[blockdv1.RebalanceResponse](t)(jobs.Rebalance(t.Context(), connect.NewRequest(&blockdv1.RebalanceRequest{}))).GetJob()
	until(t, "the job is done", func() bool {
		job = must[blockdv1.GetJobResponse](t)(jobs.GetJob(t.Context(), connect.NewRequest(&blockdv1.GetJobRequest{Id: job.GetId()}))).GetJob()
		return job.GetState() == "done"
	})
	if n := state().Map().Used(number); n != 2 || job.GetStepsDone() != 2 || job.GetStepsTotal() != 2 {
		t.Errorf("%d extents are on the disk; %v", n, job)
	}
	for _, on := range sick.Daemon().disks {
		until(t, "what has moved is freed", func() bool { return len(on.store.Extents(id)) == 2 })
	}
	for _, n := range nodes {
		ownedBy(t, a, nodes, n, id)
		w.check(n)
	}
}
