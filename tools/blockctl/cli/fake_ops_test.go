package cli

import (
	"context"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

var (
	drainJob = &blockdv1.Job{Id: "3d1e43b1d0f94c6fb7a2d7f1b0c1a2f3", Kind: "drain", Subject: "n2", State: "running", Reason: "node n2 serves 3 volumes; they move to other nodes, some at a time",
		StepsDone: 5, StepsTotal: 8, Created: when, Updated: when, EstimatedEnd: "2026-03-04T05:07:07Z", Actor: "alice"}
	rebuildJob = &blockdv1.Job{Id: "8f2c0b7a5c0f4d4f9a0ad8cf33f6f3b1", Kind: "rebuild", Subject: "n3/disk0", State: "waiting", Reason: "9 extents are left on disk 3 on node n3; of volume db1: no disk can take the place of disk 3",
		StepsDone: 3, StepsTotal: 12, Created: when, Updated: when, Actor: "cluster"}
	diskJob   = &blockdv1.Job{Id: "77ab43b1d0f94c6fb7a2d7f1b0c1a2f3", Kind: "drain-disk", Subject: "n1/disk0", State: "running", StepsTotal: 12, Created: when, Updated: when, Actor: "alice"}
	resyncJob = &blockdv1.Job{Id: "c41e43b1d0f94c6fb7a2d7f1b0c1a2f3", Kind: "resync", Subject: "db1", State: "running", Reason: "node n1 brings the copy on disk n2/disk0 back: 1.5GiB of 4GiB are left",
		BytesDone: 5 << 29, BytesTotal: 1 << 32, BytesPerSecond: 80 << 20, Created: when, Updated: when, EstimatedEnd: "2026-03-04T05:06:27Z", Actor: "cluster", ReadOnly: true}
	db1Lease = &blockdv1.Lease{Volume: "db1", Owner: "n2", Epoch: 4, State: "moving", Since: when, MovingTo: "n1"}
)

// jobIn is drainJob in another state.
func jobIn(state, reason string) *blockdv1.Job {
	j := proto.CloneOf(drainJob)
	j.State, j.Reason, j.EstimatedEnd = state, reason, ""
	return j
}

func (f *fake) ListJobs(_ context.Context, r *connect.Request[blockdv1.ListJobsRequest]) (*connect.Response[blockdv1.ListJobsResponse], error) {
	list := []*blockdv1.Job{drainJob, rebuildJob}
	if r.Msg.GetAll() {
		ended := jobIn("failed", "there is no node \"n2\"")
		ended.StepsTotal, ended.StepsDone = 0, 0
		list = append(list, ended)
	}
	list = append(list, resyncJob)
	return respond(&blockdv1.ListJobsResponse{Jobs: list})
}

func (f *fake) GetJob(_ context.Context, r *connect.Request[blockdv1.GetJobRequest]) (*connect.Response[blockdv1.GetJobResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	j := drainJob
	for _, other := range []*blockdv1.Job{rebuildJob, resyncJob} {
		if strings.HasPrefix(other.GetId(), r.Msg.GetId()) {
			j = other
		}
	}
	if len(f.jobs) > 0 {
		j, f.jobs = f.jobs[0], f.jobs[1:]
	}
	return respond(&blockdv1.GetJobResponse{Job: j})
}

func (f *fake) PauseJob(_ context.Context, r *connect.Request[blockdv1.PauseJobRequest]) (*connect.Response[blockdv1.PauseJobResponse], error) {
	return respond(&blockdv1.PauseJobResponse{Job: jobIn("paused", "paused by alice"), Changes: []string{"job " + r.Msg.GetId() + " is paused"}})
}

func (f *fake) ResumeJob(_ context.Context, r *connect.Request[blockdv1.ResumeJobRequest]) (*connect.Response[blockdv1.ResumeJobResponse], error) {
	return respond(&blockdv1.ResumeJobResponse{Job: drainJob, Changes: []string{"job " + r.Msg.GetId() + " goes on"}})
}

func (f *fake) CancelJob(_ context.Context, r *connect.Request[blockdv1.CancelJobRequest]) (*connect.Response[blockdv1.CancelJobResponse], error) {
	return respond(&blockdv1.CancelJobResponse{Job: jobIn("canceled", "canceled by alice"), Changes: []string{"job " + r.Msg.GetId() + " is canceled"}})
}

func (f *fake) ListLeases(context.Context, *connect.Request[blockdv1.ListLeasesRequest]) (*connect.Response[blockdv1.ListLeasesResponse], error) {
	return respond(&blockdv1.ListLeasesResponse{Leases: []*blockdv1.Lease{db1Lease, {Volume: "logs", State: "free", Epoch: 9, Since: when}}})
}

func (f *fake) MoveLease(_ context.Context, r *connect.Request[blockdv1.MoveLeaseRequest]) (*connect.Response[blockdv1.MoveLeaseResponse], error) {
	return respond(&blockdv1.MoveLeaseResponse{Lease: db1Lease, Changes: []string{"the lease of " + r.Msg.GetVolume() + " moves to " + r.Msg.GetTo()}})
}

func (f *fake) ExplainVolume(_ context.Context, r *connect.Request[blockdv1.ExplainVolumeRequest]) (*connect.Response[blockdv1.ExplainVolumeResponse], error) {
	if r.Msg.GetName() != "db1" {
		return respond(&blockdv1.ExplainVolumeResponse{Name: r.Msg.GetName(), State: "healthy", Because: []string{"it has one copy, on node n1, which serves it"}})
	}
	return respond(&blockdv1.ExplainVolumeResponse{Name: "db1", State: "degraded", Because: []string{"node n2 serves it since 2026-03-04 05:06:07 UTC (epoch 4)",
		"disk 1 on node n1, which is down since 2026-03-04 05:06:07 UTC (silent for 12 s), is out of sync", "1 of 2 copies are in sync where there are fewest"},
		Next: []string{"when node n1 is back, what disk 1 has missed is copied to it"}, Advice: []string{"start node n1, or see why it is not heard (blockctl node list)"}})
}

func (f *fake) GetVolumeLatency(_ context.Context, r *connect.Request[blockdv1.GetVolumeLatencyRequest]) (*connect.Response[blockdv1.GetVolumeLatencyResponse], error) {
	return respond(&blockdv1.GetVolumeLatencyResponse{Volume: r.Msg.GetName(), Node: "n2", Epoch: 4, Stages: []*blockdv1.LatencyStage{
		{Name: "read", Count: 1000, MeanMs: 0.1, P50Ms: 0.09, P99Ms: 0.5, MaxMs: 2, Node: "n2"},
		{Name: "write-copy", Count: 500, MeanMs: 0.3, P50Ms: 0.29, P99Ms: 0.5, MaxMs: 12.5, Node: "n1", Disk: "n1/disk0"}, {Name: "copy"},
		{Name: "write-forwarded", Count: 100, MeanMs: 0.6, P50Ms: 0.5, P99Ms: 1.5, MaxMs: 2.5, Node: "n3"}}})
}

func (f *fake) Rebalance(_ context.Context, r *connect.Request[blockdv1.RebalanceRequest]) (*connect.Response[blockdv1.RebalanceResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.RebalanceResponse{Changes: []string{"64 extents move from disk n1/disk0 to disk n4/disk0, 4.0 GiB at most"}})
	}
	return respond(&blockdv1.RebalanceResponse{Job: &blockdv1.Job{Id: "77aa", Kind: "rebalance", Subject: "cluster", State: "running", Reason: "64 extents are to move, 32 of them do now, of at most 4 volumes at a time",
		StepsDone: 16, StepsTotal: 80, Created: "2026-11-21T10:00:00Z", Updated: "2026-11-21T10:01:00Z", Actor: "alice"}})
}

func (f *fake) DrainNode(_ context.Context, r *connect.Request[blockdv1.DrainNodeRequest]) (*connect.Response[blockdv1.DrainNodeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.DrainNodeResponse{Changes: []string{"node " + r.Msg.GetNode() + " is emptied, to " + r.Msg.GetPurpose()}})
	}
	return respond(&blockdv1.DrainNodeResponse{Job: drainJob})
}

func (f *fake) ResumeNode(_ context.Context, r *connect.Request[blockdv1.ResumeNodeRequest]) (*connect.Response[blockdv1.ResumeNodeResponse], error) {
	return respond(&blockdv1.ResumeNodeResponse{Member: members[1], Changes: []string{"node " + r.Msg.GetNode() + " is active"}})
}

func (f *fake) DrainDisk(_ context.Context, r *connect.Request[blockdv1.DrainDiskRequest]) (*connect.Response[blockdv1.DrainDiskResponse], error) {
	out := &blockdv1.DrainDiskResponse{Changes: []string{"disk " + r.Msg.GetDisk() + " gets nothing new"}}
	switch r.Msg.GetDisk() {
	case "n1/disk0":
		out.Left, out.Job = "it has a copy of 2 volumes, 12 extents of which move to other disks", diskJob
	case "n3/disk0":
		out.Left, out.Job = "it has failed, and other disks get the copies of 9 extents that it has", rebuildJob
	case "old/disk0":
		out.Left = "it has a copy of 2 volumes"
	}
	return respond(out)
}

func (f *fake) ResumeDisk(_ context.Context, r *connect.Request[blockdv1.ResumeDiskRequest]) (*connect.Response[blockdv1.ResumeDiskResponse], error) {
	return respond(&blockdv1.ResumeDiskResponse{Changes: []string{"disk " + r.Msg.GetDisk() + " is active"}})
}

func (f *fake) RemoveDisk(_ context.Context, r *connect.Request[blockdv1.RemoveDiskRequest]) (*connect.Response[blockdv1.RemoveDiskResponse], error) {
	if !r.Msg.GetForce() {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("disk %s is active, not drained", r.Msg.GetDisk()))
	}
	return respond(&blockdv1.RemoveDiskResponse{Changes: []string{"disk " + r.Msg.GetDisk() + " is forgotten"}})
}
