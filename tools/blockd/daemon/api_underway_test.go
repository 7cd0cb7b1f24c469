package daemon

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
)

func (o ops) jobsOf(t *testing.T, kind string) []*blockdv1.Job {
	t.Helper()
	list := must[blockdv1.ListJobsResponse](t)(o.job.ListJobs(t.Context(), connect.NewRequest(&blockdv1.ListJobsRequest{}))).GetJobs()
	return slices.DeleteFunc(list, func(j *blockdv1.Job) bool { return j.GetKind() != kind })
}

// notSteerable checks that a job is found by the begin of its id, and that nobody steers it.
func (o ops) notSteerable(t *testing.T, j *blockdv1.Job, instead string) {
	t.Helper()
	if again := must[blockdv1.GetJobResponse](t)(o.job.GetJob(t.Context(), connect.NewRequest(&blockdv1.GetJobRequest{Id: j.GetId()[:8]}))).GetJob(); again.GetId() != j.GetId() {
		t.Errorf("by the begin of %s there is %v", j.GetId(), again)
	}
	_, err := o.job.PauseJob(t.Context(), connect.NewRequest(&blockdv1.PauseJobRequest{Id: j.GetId()}))
	refusedWith(t, err, connect.CodeFailedPrecondition, instead)
	_, err = o.job.CancelJob(t.Context(), connect.NewRequest(&blockdv1.CancelJobRequest{Id: j.GetId(), DryRun: true}))
	refusedWith(t, err, connect.CodeFailedPrecondition, "can't be paused, resumed or canceled")
}

// What an owner does by itself, a scrub and then a resync, shows at every node, as a job that nobody
// steers; and where the time of the volume's requests goes says the owner with all who forward to it.
func TestWhatAnOwnerDoesShowsEverywhere(t *testing.T) {
	t.Parallel()
	a, nodes := nodesOf(t, 3, func(c *Config) { c.ScrubRate = 1 << 20 })
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	rest := slices.DeleteFunc(slices.Clone(nodes), func(n *testNode) bool { return n == owner })
	far, lost := rest[0], rest[1]
	o := opsAt(a, far)
	until(t, "all copies are in sync", func() bool { return inSync(owner, id) == 3 })

	// Where the time goes.
	for i := range int64(10) {
		for _, n := range []*testNode{owner, lost} {
			if err := writeAsHosts(volumeDevice(t, n.Daemon(), "v"), make([]byte, 4096), i*4096); err != nil {
				t.Fatal(err)
			}
		}
		if err := blockdev.ReadAt(volumeDevice(t, lost.Daemon(), "v"), make([]byte, 4096), i*4096); err != nil {
			t.Fatal(err)
		}
	}
	stages := must[blockdv1.GetVolumeLatencyResponse](t)(o.volume.GetVolumeLatency(t.Context(), connect.NewRequest(&blockdv1.GetVolumeLatencyRequest{Name: "v"})))
	if stages.GetNode() != owner.cfg.Name || stages.GetEpoch() == 0 {
		t.Errorf("%s tells, of epoch %d", stages.GetNode(), stages.GetEpoch())
	}
	for _, name := range []string{"write", "write-queue", "write-lock", "write-other", "write-other-store", "copy"} {
		if s := stageOf(stages, name); s.GetCount() < 20 || s.GetNode() != owner.cfg.Name || name != "write-lock" && s.GetMeanMs() <= 0 {
			t.Errorf("%v", s)
		}
	}
	var copies []string
	for _, s := range stages.GetStages() {
		if s.GetName() == "write-copy" && s.GetCount() >= 20 && s.GetNode()+"/disk0" == s.GetDisk() {
			copies = append(copies, s.GetNode())
		}
	}
	if slices.Sort(copies); !slices.Equal(copies, []string{"n1", "n2", "n3"}) {
		t.Errorf("written to the copies on %v", copies)
	}
	for name, least := range map[string]uint64{"write-forwarded": 10, "read-forwarded": 10} {
		if s := stageOf(stages, name); s.GetCount() < least || s.GetNode() != lost.cfg.Name || s.GetMeanMs() <= 0 {
			t.Errorf("%s: %v; want what %s has forwarded", name, s, lost.cfg.Name)
		}
	}

	// A scrub.
	ctx, stop := context.WithCancel(t.Context())
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() { owner.Daemon().shared.Load().sharedVolume(id).scrubOnce(ctx) })
	var scrub *blockdv1.Job
	until(t, "the scrub shows", func() bool {
		list := o.jobsOf(t, jobScrub)
		if len(list) > 0 {
			scrub = list[0]
		}
		return scrub.GetBytesDone() > 0
	})
	if scrub.GetSubject() != "v" || !scrub.GetReadOnly() || scrub.GetBytesTotal() != 64<<20 || scrub.GetBytesPerSecond() <= 0 || scrub.GetEstimatedEnd() == "" ||
		!strings.Contains(scrub.GetReason(), "node "+owner.cfg.Name+" compares the copies") {
		t.Errorf("%v", scrub)
	}
	o.notSteerable(t, scrub, "scrub_rate")
	stop()
	scrubbing.Wait()
	if list := o.jobsOf(t, jobScrub); len(list) != 0 {
		t.Errorf("when it has ended there is %v", list)
	}

	// A scrub of a disk, which shows at another node, too. One that goes on after a pause has a part behind it.
	for at := range int64(64) {
		if err := writeAsHosts(volumeDevice(t, owner.Daemon(), "v"), bytes.Repeat([]byte{1}, 64<<10), at<<16); err != nil {
			t.Fatal(err)
		}
	}
	disk := owner.Daemon().disks[0]
	used := disk.store.Stats().UsedBytes
	for _, part := range []int64{0, 1 << 20} {
		ctx, stop := context.WithCancel(t.Context())
		if err := owner.Daemon().scrubs.put(disk.scrubName(), scrubNote{Bytes: part}); err != nil {
			t.Fatal(err)
		}
		scrubbing.Go(func() { owner.Daemon().scrubOnce(ctx, disk) })
		until(t, "the scrub of the disk shows", func() bool {
			list := o.jobsOf(t, jobScrubDisk)
			if len(list) > 0 {
				scrub = list[0]
			}
			return len(list) > 0 && scrub.GetBytesDone() > part
		})
		if scrub.GetSubject() != owner.cfg.Name+"/disk0" || !scrub.GetReadOnly() || scrub.GetBytesTotal() != used || scrub.GetBytesPerSecond() <= 0 || scrub.GetEstimatedEnd() == "" ||
			!strings.Contains(scrub.GetReason(), "node "+owner.cfg.Name+" reads the disk") {
			t.Errorf("%v", scrub)
		}
		o.notSteerable(t, scrub, "scrub_rate of the disk's node")
		stop()
		scrubbing.Wait()
		if note, err := owner.Daemon().scrubs.get(disk.scrubName()); err != nil || note.Bytes <= part {
			t.Errorf("%+v is noted of a scrub that had read %d bytes before: %v", note, part, err)
		}
	}

	// A resync. An owner of whose hosts little is known listens to them for a second before it copies.
	lost.stop()
	until(t, "a copy is out", func() bool { return inSync(owner, id) == 2 })
	if list := o.jobsOf(t, jobResync); len(list) != 0 || strings.Contains(strings.Join(o.explained(t, "v").GetBecause(), "\n"), "compared") {
		t.Errorf("of a copy that is out, and not reached: %v", list)
	}
	lost.start()
	var job *blockdv1.Job
	var copied *blockdv1.Replica
	var words string
	until(t, "the resync shows", func() bool {
		list := o.jobsOf(t, jobResync)
		if len(list) == 0 {
			return false
		}
		job, words = list[0], strings.Join(o.explained(t, "v").GetBecause(), "\n")
		for _, r := range must[blockdv1.GetVolumeResponse](t)(o.volume.GetVolume(t.Context(), connect.NewRequest(&blockdv1.GetVolumeRequest{Name: "v"}))).GetVolume().GetReplicas() {
			if r.GetResync() != nil {
				copied = r
			}
		}
		o.notSteerable(t, job, "blockctl disk drain")
		return true
	})
	if job.GetSubject() != "v" || !job.GetReadOnly() || job.GetBytesTotal() != 64<<20 || job.GetState() != string(catalog.JobRunning) ||
		!strings.Contains(job.GetReason(), "node "+owner.cfg.Name+" brings the copy on disk "+lost.cfg.Name+"/disk0 back") {
		t.Errorf("%v", job)
	}
	if r := copied.GetResync(); copied.GetNode() != lost.cfg.Name || r.GetRegionsTotal() != 1024 || r.GetBytesTotal() != 64<<20 || r.GetSince() == "" || r.GetBytesLeft() != r.GetRegionsLeft()<<16 {
		t.Errorf("%v", copied)
	}
	if !strings.Contains(words, "of 64MiB on disk ") {
		t.Errorf("explained by\n%s", words)
	}
	until(t, "all copies are in sync again", func() bool { return inSync(owner, id) == 3 })
	until(t, "the job is gone", func() bool { return len(o.jobsOf(t, jobResync)) == 0 })
}

// What a volume of one copy has taken is told by powers of two.
func TestStagesOfOneCopy(t *testing.T) {
	t.Parallel()
	var m meter
	s := &m.ops[blockdev.OpWrite]
	s.ops.Store(1000)
	for range 98 {
		s.observe(10 * time.Microsecond)
	}
	s.observe(time.Millisecond)
	s.observe(5 * time.Millisecond)
	list := m.stages("n1")
	if len(list) != 2 || list[0].GetName() != "read" || list[0].GetCount() != 0 || list[0].GetMaxMs() != 0 {
		t.Fatalf("%v", list)
	}
	w := list[1]
	if w.GetName() != "write" || w.GetNode() != "n1" || w.GetCount() != 1000 || w.GetMeanMs() != 0.0698 || w.GetP50Ms() != 0.016384 ||
		w.GetP99Ms() != 8.388608 || w.GetMaxMs() != 8.388608 {
		t.Errorf("%v", w)
	}
}
