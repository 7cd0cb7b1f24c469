package daemon

import (
	"bytes"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
	"blockd.dev/tools/blockctl/cli"
)

// ops are the clients of an administrator.
type ops struct {
	volume  blockdv1connect.VolumeServiceClient
	pool    blockdv1connect.PoolServiceClient
	host    blockdv1connect.HostServiceClient
	mapping blockdv1connect.MappingServiceClient
	node    blockdv1connect.NodeServiceClient
	lease   blockdv1connect.LeaseServiceClient
	job     blockdv1connect.JobServiceClient
	member  blockdv1connect.MembershipServiceClient
	explain blockdv1connect.ExplainServiceClient
}

func opsAt(a admin, n *testNode) ops {
	return opsBy(a.client(), n.url())
}

func opsBy(c connect.HTTPClient, url string) ops {
	return ops{blockdv1connect.NewVolumeServiceClient(c, url), blockdv1connect.NewPoolServiceClient(c, url), blockdv1connect.NewHostServiceClient(c, url),
		blockdv1connect.NewMappingServiceClient(c, url), blockdv1connect.NewNodeServiceClient(c, url), blockdv1connect.NewLeaseServiceClient(c, url),
		blockdv1connect.NewJobServiceClient(c, url), blockdv1connect.NewMembershipServiceClient(c, url), blockdv1connect.NewExplainServiceClient(c, url)}
}

// must is the message of an answer without error.
func must[T any](t *testing.T) func(*connect.Response[T], error) *T {
	return func(r *connect.Response[T], err error) *T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
}

func (o ops) leaseOf(t *testing.T, volume string) *blockdv1.Lease {
	t.Helper()
	for _, l := range must[blockdv1.ListLeasesResponse](t)(o.lease.ListLeases(t.Context(), connect.NewRequest(&blockdv1.ListLeasesRequest{}))).GetLeases() {
		if l.GetVolume() == volume {
			return l
		}
	}
	t.Fatalf("volume %s has no lease", volume)
	return nil
}

func (o ops) explained(t *testing.T, volume string) *blockdv1.ExplainVolumeResponse {
	t.Helper()
	return must[blockdv1.ExplainVolumeResponse](t)(o.explain.ExplainVolume(t.Context(), connect.NewRequest(&blockdv1.ExplainVolumeRequest{Name: volume})))
}

// refusedWith checks code and words of a refusal.
func refusedWith(t *testing.T, err error, code connect.Code, words string) {
	t.Helper()
	if connect.CodeOf(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("refused by %v, want %v and %q", err, code, words)
	}
}

// A volume of three copies is moved to another node, its node is drained and
// resumed, and every node tells the same of it.
func TestLeasesMoveAndNodesDrain(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	here, far := opsAt(a, owner), opsAt(a, nodes[0])
	other := nodes[0]
	if owner == other {
		other, far = nodes[1], opsAt(a, nodes[1])
	}

	// What every node says of it.
	until(t, "all copies are in sync", func() bool { return inSync(owner, id) == 3 })
	v := must[blockdv1.GetVolumeResponse](t)(far.volume.GetVolume(t.Context(), connect.NewRequest(&blockdv1.GetVolumeRequest{Name: "v"}))).GetVolume()
	if len(v.GetReplicas()) != 3 || v.GetEpoch() == 0 || v.GetNode() != owner.cfg.Name {
		t.Errorf("%v", v)
	}
	seen := map[string]bool{}
	for _, r := range v.GetReplicas() {
		seen[r.GetNode()] = true
		if r.GetState() != "in-sync" || len(r.GetDisk()) != 32 || r.GetNumber() == 0 {
			t.Errorf("%v", r)
		}
	}
	if len(seen) != 3 {
		t.Errorf("copies on %v", seen)
	}
	if l := far.leaseOf(t, "v"); l.GetOwner() != owner.cfg.Name || l.GetState() != "held" || l.GetSince() == "" || l.GetEpoch() != v.GetEpoch() {
		t.Errorf("%v", l)
	}
	until(t, "it is healthy", func() bool { return far.explained(t, "v").GetState() == "healthy" })
	stages := must[blockdv1.GetVolumeLatencyResponse](t)(far.volume.GetVolumeLatency(t.Context(), connect.NewRequest(&blockdv1.GetVolumeLatencyRequest{Name: "v"})))
	if stages.GetNode() != owner.cfg.Name || !hasStages(stages, "read", "write", "lock", "copy", "read-queue", "write-lock", "write-other") || stages.GetEpoch() != v.GetEpoch() {
		t.Errorf("%v", stages)
	}

	// A move that is tried, one that is done, and those that can't be.
	move := &blockdv1.MoveLeaseRequest{Volume: "v", To: other.cfg.Name, DryRun: true}
	if r := must[blockdv1.MoveLeaseResponse](t)(far.lease.MoveLease(t.Context(), connect.NewRequest(move))); len(r.GetChanges()) == 0 || r.GetLease().GetMovingTo() != "" {
		t.Errorf("%v", r)
	}
	move.DryRun = false
	must[blockdv1.MoveLeaseResponse](t)(far.lease.MoveLease(t.Context(), connect.NewRequest(move)))
	until(t, "it has moved", func() bool { return here.leaseOf(t, "v").GetOwner() == other.cfg.Name })
	if l := here.leaseOf(t, "v"); l.GetEpoch() <= v.GetEpoch() || l.GetMovingTo() != "" {
		t.Errorf("%v", l)
	}
	_, err := far.lease.MoveLease(t.Context(), connect.NewRequest(&blockdv1.MoveLeaseRequest{Volume: "v", To: "nobody"}))
	refusedWith(t, err, connect.CodeNotFound, `no node "nobody"`)

	// Its node is drained for an upgrade, and takes part again.
	dry := must[blockdv1.DrainNodeResponse](t)(here.member.DrainNode(t.Context(), connect.NewRequest(&blockdv1.DrainNodeRequest{Node: other.cfg.Name, DryRun: true})))
	if text := strings.Join(dry.GetChanges(), "\n"); dry.GetJob() != nil || !strings.Contains(text, "1 volume that it serves move") {
		t.Errorf("%v", dry)
	}
	job := must[blockdv1.DrainNodeResponse](t)(here.member.DrainNode(t.Context(), connect.NewRequest(&blockdv1.DrainNodeRequest{Node: other.cfg.Name, Purpose: "upgrade", RequestId: "d1"}))).GetJob()
	if job.GetKind() != "drain" || job.GetSubject() != other.cfg.Name {
		t.Fatalf("%v", job)
	}
	get := func(id string) *blockdv1.Job {
		t.Helper()
		return must[blockdv1.GetJobResponse](t)(here.job.GetJob(t.Context(), connect.NewRequest(&blockdv1.GetJobRequest{Id: id}))).GetJob()
	}
	until(t, "the job is done", func() bool { return get(job.GetId()).GetState() == "done" })
	until(t, "another node has it", func() bool { l := here.leaseOf(t, "v"); return l.GetOwner() != other.cfg.Name && l.GetOwner() != "" })
	if n := other.Daemon().catalog.State().Node(other.cfg.Name); n.State != catalog.NodeDraining {
		t.Errorf("the node is %s", n.State)
	}
	if list := must[blockdv1.ListJobsResponse](t)(far.job.ListJobs(t.Context(), connect.NewRequest(&blockdv1.ListJobsRequest{}))).GetJobs(); len(list) != 0 {
		t.Errorf("jobs that have not ended: %v", list)
	}
	if list := must[blockdv1.ListJobsResponse](t)(far.job.ListJobs(t.Context(), connect.NewRequest(&blockdv1.ListJobsRequest{All: true}))).GetJobs(); len(list) != 1 {
		t.Errorf("jobs: %v", list)
	}
	if m := must[blockdv1.ResumeNodeResponse](t)(here.member.ResumeNode(t.Context(), connect.NewRequest(&blockdv1.ResumeNodeRequest{Node: other.cfg.Name}))).GetMember(); m.GetService() != "active" {
		t.Errorf("%v", m)
	}

	// There is no fourth node for its copy, so a drain for removal waits, is paused and canceled.
	job = must[blockdv1.DrainNodeResponse](t)(here.member.DrainNode(t.Context(), connect.NewRequest(&blockdv1.DrainNodeRequest{Node: other.cfg.Name, Purpose: "remove"}))).GetJob()
	until(t, "the job waits", func() bool { return get(job.GetId()).GetState() == "waiting" })
	if j := get(job.GetId()[:8]); !strings.Contains(j.GetReason(), "keeps copies of") {
		t.Errorf("%v", j)
	}
	_, err = here.member.DrainNode(t.Context(), connect.NewRequest(&blockdv1.DrainNodeRequest{Node: other.cfg.Name, Purpose: "upgrade"}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "blockctl job cancel "+job.GetId())
	must[blockdv1.PauseJobResponse](t)(here.job.PauseJob(t.Context(), connect.NewRequest(&blockdv1.PauseJobRequest{Id: job.GetId()})))
	if j := get(job.GetId()); j.GetState() != "paused" {
		t.Errorf("%v", j)
	}
	must[blockdv1.ResumeJobResponse](t)(here.job.ResumeJob(t.Context(), connect.NewRequest(&blockdv1.ResumeJobRequest{Id: job.GetId()})))
	// Resuming the node ends the job.
	resumed := must[blockdv1.ResumeNodeResponse](t)(here.member.ResumeNode(t.Context(), connect.NewRequest(&blockdv1.ResumeNodeRequest{Node: other.cfg.Name})))
	if j := get(job.GetId()); j.GetState() != "canceled" || len(resumed.GetChanges()) != 2 {
		t.Errorf("%v, %v", j, resumed)
	}
	_, err = here.job.CancelJob(t.Context(), connect.NewRequest(&blockdv1.CancelJobRequest{Id: job.GetId()}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "has ended")
	_, err = here.job.GetJob(t.Context(), connect.NewRequest(&blockdv1.GetJobRequest{Id: "ffff"}))
	refusedWith(t, err, connect.CodeNotFound, "job list --all")

	// A disk gets nothing new, and can't be removed while it has a copy.
	disk := v.GetReplicas()[0].GetDisk()
	drained := must[blockdv1.DrainDiskResponse](t)(here.member.DrainDisk(t.Context(), connect.NewRequest(&blockdv1.DrainDiskRequest{Disk: disk})))
	if !strings.Contains(drained.GetLeft(), "a copy of 1 volume") || drained.GetJob().GetSubject() != v.GetReplicas()[0].GetNode()+"/disk0" {
		t.Errorf("%v", drained)
	}
	until(t, "the job waits for another disk", func() bool { return get(drained.GetJob().GetId()).GetState() == "waiting" })
	disks := must[blockdv1.ListDisksResponse](t)(here.node.ListDisks(t.Context(), connect.NewRequest(&blockdv1.ListDisksRequest{}))).GetDisks()
	i := slices.IndexFunc(disks, func(d *blockdv1.Disk) bool { return d.GetUuid() == disk })
	if i < 0 || disks[i].GetService() != "draining" || disks[i].GetNode() != v.GetReplicas()[0].GetNode() ||
		!strings.Contains(disks[i].GetReason(), "job "+drained.GetJob().GetId()+" (drain-disk) is waiting: 0 of ") {
		t.Fatalf("%v", disks)
	}
	// Canceled, it waits no more, until it is asked for again.
	must[blockdv1.CancelJobResponse](t)(here.job.CancelJob(t.Context(), connect.NewRequest(&blockdv1.CancelJobRequest{Id: drained.GetJob().GetId()})))
	if text := strings.Join(here.explained(t, "v").GetAdvice(), "\n"); !strings.Contains(text, "blockctl disk drain "+disk) {
		t.Errorf("after the job was canceled: %s", text)
	}
	again := must[blockdv1.DrainDiskResponse](t)(here.member.DrainDisk(t.Context(), connect.NewRequest(&blockdv1.DrainDiskRequest{Disk: disk}))).GetJob()
	if again.GetKind() != "drain-disk" || again.GetId() == drained.GetJob().GetId() {
		t.Errorf("%v", again)
	}
	_, err = here.member.RemoveDisk(t.Context(), connect.NewRequest(&blockdv1.RemoveDiskRequest{Disk: disks[i].GetName(), Force: true}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "has a copy of 1 volume")
	must[blockdv1.ResumeDiskResponse](t)(here.member.ResumeDisk(t.Context(), connect.NewRequest(&blockdv1.ResumeDiskRequest{Disk: disk})))
	if j := get(again.GetId()); j.GetState() != "canceled" {
		t.Errorf("%v", j)
	}

	// A copy whose node is away is missed.
	lost := other
	lost.stop()
	rest := opsAt(a, owner)
	until(t, "it is degraded", func() bool {
		e := rest.explained(t, "v")
		return e.GetState() == "degraded" && len(e.GetBecause()) > 0 && len(e.GetAdvice()) > 0
	})
	if text := strings.Join(rest.explained(t, "v").GetBecause(), "\n"); !strings.Contains(text, "node "+lost.cfg.Name) {
		t.Errorf("nothing is said of node %s: %s", lost.cfg.Name, text)
	}

	// By blockctl, through a node's socket.
	lost.start()
	until(t, "all copies are in sync again", func() bool { return inSync(owner, id) == 3 })
	serving := ownerOf(t, nodes, id)
	through := "unix:" + filepath.Join(lost.cfg.Data, fileSocket)
	out := nodeCtl(t, through, "node", "drain", serving.cfg.Name, "--wait")
	if !strings.Contains(out, "serves no volume; stop it") {
		t.Errorf("drained: %s", out)
	}
	if out := nodeCtl(t, through, "node", "list"); !strings.Contains(out, "draining") {
		t.Errorf("nodes: %s", out)
	}
	nodeCtl(t, through, "node", "resume", serving.cfg.Name)
	if out := nodeCtl(t, through, "volume", "show", "v"); strings.Count(out, "\ncopy ") != 3 {
		t.Errorf("volume: %s", out)
	}

	// An empty disk is drained at once, and then removed.
	nodeCtl(t, through, "volume", "delete", "v", "--yes")
	if out := nodeCtl(t, through, "disk", "drain", "n1/disk0"); !strings.Contains(out, "disk n1/disk0 is drained") {
		t.Errorf("drained: %s", out)
	}
	nodeCtl(t, through, "disk", "remove", "n1/disk0", "--yes")
	if s := lost.Daemon().catalog.State(); len(s.Disks) != 2 {
		t.Errorf("%d disks are left", len(s.Disks))
	}
}

// nodeCtl runs blockctl against a node, and returns what it prints.
func nodeCtl(t *testing.T, api string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	c := cli.New()
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(append([]string{"--api", api}, args...))
	if err := c.Execute(); err != nil {
		t.Fatalf("blockctl %v: %v: %s", args, err, out.String())
	}
	return out.String()
}

// What is tried is checked as what is done, and changes nothing.
func TestDryRunChangesNothing(t *testing.T) {
	t.Parallel()
	d := start(t, testConfig(t.TempDir()))
	o := opsBy(http.DefaultClient, "http://"+d.APIAddress())
	must[blockdv1.CreateVolumeResponse](t)(o.volume.CreateVolume(t.Context(), connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: "v", SizeBytes: 1 << 20})))
	must[blockdv1.CreateHostResponse](t)(o.host.CreateHost(t.Context(), connect.NewRequest(&blockdv1.CreateHostRequest{Name: "h", Iqn: "iqn.2026-01.example:h"})))
	must[blockdv1.MapVolumeResponse](t)(o.mapping.MapVolume(t.Context(), connect.NewRequest(&blockdv1.MapVolumeRequest{Volume: "v", Host: "h"})))
	before := d.catalog.State()
	iqn := "iqn.2026-01.example:other"
	ctx := t.Context()
	for name, changes := range map[string][]string{
		"volume create": must[blockdv1.CreateVolumeResponse](t)(o.volume.CreateVolume(ctx, connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: "w", SizeBytes: 1 << 20, DryRun: true}))).GetChanges(),
		"resize":        must[blockdv1.ResizeVolumeResponse](t)(o.volume.ResizeVolume(ctx, connect.NewRequest(&blockdv1.ResizeVolumeRequest{Name: "v", SizeBytes: 2 << 20, DryRun: true}))).GetChanges(),
		"protect":       must[blockdv1.ProtectVolumeResponse](t)(o.volume.ProtectVolume(ctx, connect.NewRequest(&blockdv1.ProtectVolumeRequest{Name: "v", Protection: "permanent", DryRun: true}))).GetChanges(),
		"volume delete": must[blockdv1.DeleteVolumeResponse](t)(o.volume.DeleteVolume(ctx, connect.NewRequest(&blockdv1.DeleteVolumeRequest{Name: "v", DryRun: true}))).GetChanges(),
		"pool create":   must[blockdv1.CreatePoolResponse](t)(o.pool.CreatePool(ctx, connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "p", DryRun: true}))).GetChanges(),
		"host add":      must[blockdv1.CreateHostResponse](t)(o.host.CreateHost(ctx, connect.NewRequest(&blockdv1.CreateHostRequest{Name: "g", Iqn: iqn, DryRun: true}))).GetChanges(),
		"host set":      must[blockdv1.UpdateHostResponse](t)(o.host.UpdateHost(ctx, connect.NewRequest(&blockdv1.UpdateHostRequest{Name: "h", Iqn: &iqn, DryRun: true}))).GetChanges(),
		"host delete":   must[blockdv1.DeleteHostResponse](t)(o.host.DeleteHost(ctx, connect.NewRequest(&blockdv1.DeleteHostRequest{Name: "h", DryRun: true}))).GetChanges(),
		"map":           must[blockdv1.MapVolumeResponse](t)(o.mapping.MapVolume(ctx, connect.NewRequest(&blockdv1.MapVolumeRequest{Volume: "v", Host: "any", DryRun: true}))).GetChanges(),
		"unmap":         must[blockdv1.UnmapVolumeResponse](t)(o.mapping.UnmapVolume(ctx, connect.NewRequest(&blockdv1.UnmapVolumeRequest{Volume: "v", Host: "h", DryRun: true}))).GetChanges(),
	} {
		if len(changes) == 0 {
			t.Errorf("%s says nothing of what it would change", name)
		}
	}
	if d.catalog.State().Revision != before.Revision {
		t.Errorf("revision %d has become %d", before.Revision, d.catalog.State().Revision)
	}
	_, err := o.volume.CreateVolume(ctx, connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: "v", SizeBytes: 1 << 20, DryRun: true}))
	refusedWith(t, err, connect.CodeAlreadyExists, `"v"`)
	_, err = o.pool.CreatePool(ctx, connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "p", Ec: "4+2"}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "use --replicas")

	// One copy, on this node.
	if e := o.explained(t, "v"); e.GetState() != "healthy" || len(e.GetBecause()) != 1 {
		t.Errorf("%v", e)
	}
	dev := volumeDevice(t, d, "v")
	for range latencySample {
		if err := writeAsHosts(dev, make([]byte, 4096), 0); err != nil {
			t.Fatal(err)
		}
	}
	one := must[blockdv1.GetVolumeLatencyResponse](t)(o.volume.GetVolumeLatency(ctx, connect.NewRequest(&blockdv1.GetVolumeLatencyRequest{Name: "v"})))
	if !hasStages(one, "read", "write") || one.GetEpoch() != 0 || stageOf(one, "write").GetCount() != latencySample {
		t.Errorf("of one copy: %v", one)
	}
	_, err = o.member.DrainNode(ctx, connect.NewRequest(&blockdv1.DrainNodeRequest{Node: "n1"}))
	refusedWith(t, err, connect.CodeNotFound, "no node")
}

// hasStages tells whether an answer has all of these stages.
func hasStages(r *blockdv1.GetVolumeLatencyResponse, names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return stageOf(r, name) == nil })
}

// stageOf is the first stage of that name, or nil.
func stageOf(r *blockdv1.GetVolumeLatencyResponse, name string) *blockdv1.LatencyStage {
	if i := slices.IndexFunc(r.GetStages(), func(s *blockdv1.LatencyStage) bool { return s.GetName() == name }); i >= 0 {
		return r.GetStages()[i]
	}
	return nil
}

func TestEstimatedEnd(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	j := catalog.Job{ID: catalog.ID{7}, State: catalog.JobRunning, Created: start, Updated: start.Add(10 * time.Second), StepsDone: 1, StepsTotal: 4}
	if _, got := estimate(&j, 0); !got.Equal(start.Add(40 * time.Second)) {
		t.Errorf("a quarter took 10 s, and it ends at %v", got)
	}
	j.BytesDone, j.BytesTotal = 50, 100
	if rate, got := estimate(&j, 0); rate != 5 || !got.Equal(start.Add(20*time.Second)) {
		t.Errorf("half of 100 bytes took 10 s, which is %d in a second, and it ends at %v", rate, got)
	}
	if _, got := estimate(&j, 8*time.Second); !got.Equal(start.Add(12 * time.Second)) {
		t.Errorf("half of the bytes took 2 s of 10, and it ends at %v", got)
	}
	for _, change := range []func(*catalog.Job){func(j *catalog.Job) { j.State = catalog.JobWaiting }, func(j *catalog.Job) { j.BytesDone = 0 }, func(j *catalog.Job) { j.BytesDone = 100 },
		func(j *catalog.Job) { j.Updated = start.Add(-time.Second) }} {
		other := j
		change(&other)
		if _, got := estimate(&other, 0); !got.IsZero() {
			t.Errorf("%+v ends at %v", other, got)
		}
	}

	// When it was idle says the audit log; what it says of others, and of what was refused, does not count.
	at := func(second int, id catalog.ID, action, detail, refused string) catalog.Audit {
		return catalog.Audit{Time: start.Add(time.Duration(second) * time.Second), Action: action, Subject: id.String(), Detail: detail, Refused: refused}
	}
	s := &catalog.State{Audits: []catalog.Audit{
		at(1, j.ID, "job.state", "running to paused; paused by alice to waiting", ""),
		at(2, catalog.ID{8}, "job.state", "paused to running; resumed by bob", ""),
		at(3, j.ID, "job.state", "paused to running", "it is not allowed"),
		at(4, j.ID, "job.state", "paused to running; resumed by alice", ""),
		at(6, j.ID, "job.state", "running to waiting; no disk has space", ""),
		at(7, j.ID, "job.state", "waiting to waiting; no node is up", ""),
		at(8, j.ID, "job.state", "waiting to running; a disk has space", ""),
	}}
	if got := idleFor(s, &j); got != 5*time.Second {
		t.Errorf("paused for 3 s, and waiting for 2 s: idle for %v", got)
	}
}

// Extents leave a disk for the job that is about it, or its node; for a rebalance from all others.
func TestMovesAreForAJob(t *testing.T) {
	t.Parallel()
	s := &catalog.State{Nodes: []catalog.Node{{ID: catalog.ID{1}, Name: "n1"}, {ID: catalog.ID{2}, Name: "n2"}}}
	disks := map[string]*catalog.Disk{"of n1": {ID: catalog.ID{3}, Node: catalog.ID{1}}, "of n2": {ID: catalog.ID{4}, Node: catalog.ID{2}}, "of n2, too": {ID: catalog.ID{5}, Node: catalog.ID{2}}}
	job := func(kind, subject string, state catalog.JobState) catalog.Job {
		return catalog.Job{Kind: kind, Subject: subject, State: state}
	}
	s.Jobs = []catalog.Job{
		job(director.JobRemove, "n1", catalog.JobRunning),
		job(director.JobDrainDisk, catalog.ID{4}.String(), catalog.JobPaused), // what has begun goes on
		job(director.JobRebuild, catalog.ID{5}.String(), catalog.JobDone),
		job(director.JobRebalance, director.RebalanceSubject, catalog.JobRunning),
	}
	for i, want := range []string{"of n1", "of n2", "of n2, too", "of n2, too"} {
		for name, d := range disks {
			if got := moves(s, &s.Jobs[i], d); got != (name == want) {
				t.Errorf("%s %s: a disk %s: %v", s.Jobs[i].Kind, s.Jobs[i].Subject, name, got)
			}
		}
	}
}

// How fast something went says when it ends; what has not begun to go says nothing.
func TestPaceEnds(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	p := pace{total: 1000, left: 600, since: now.Add(-4 * time.Second), went: 400}
	if rate, end := p.perSecond(now), p.end(now); rate != 100 || !end.Equal(now.Add(6*time.Second)) {
		t.Errorf("%d bytes per second, until %v", rate, end)
	}
	for _, other := range []pace{{total: 1000, left: 1000, since: p.since}, {total: 1000, left: 600, since: now, went: 400}, {total: 1000, since: p.since, went: 1000}} {
		if end := other.end(now); !end.IsZero() {
			t.Errorf("%+v ends at %v", other, end)
		}
	}
}
