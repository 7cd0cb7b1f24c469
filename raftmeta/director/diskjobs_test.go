package director

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/pulse"
)

// stage is a state that one leader after the other directs, step by step: what a term proposes is
// applied at once, and owners copy what moves while copies is above zero.
type stage struct {
	t      *testing.T
	s      *catalog.State
	term   *term
	number uint64
	now    clock.Mono
	heard  []int // nodes
	copies int   // how many disks are still told of finished moves
}

// elect has another leader follow.
func (g *stage) elect(rebuildAfter time.Duration) {
	g.number++
	g.term = newTerm(g.number, nodeID(1).String(), pulse.Defaults, g.now)
	g.term.rebuildAfter = rebuildAfter
}

func (g *stage) run(d time.Duration) {
	g.t.Helper()
	for end := g.now.Add(d); g.now < end; g.now = g.now.Add(pulse.Defaults.Every) {
		for _, n := range g.heard {
			g.term.life(g.now, nodeID(n).String(), &blockdv1.PulseRequest{Incarnation: 1})
		}
		for _, p := range g.term.look(g.now, time.Now(), g.s).proposals {
			p.cmd.Version, p.cmd.TimeUnixNano = catalog.CommandVersion, stamp
			next, _, err := g.s.Apply(p.cmd)
			if err == nil {
				g.s = next
			}
			g.term.settled(g.now, g.s, p, err != nil)
			if err != nil && (p.cmd.GetCreateJob() != nil || p.cmd.GetSetJobState() != nil || p.cmd.GetProgressJob() != nil) {
				g.t.Fatalf("%v: %v", p.cmd, err)
			}
		}
		g.own()
	}
	if n := g.s.Check(); n != 0 {
		g.t.Fatalf("invariant %d is broken", n)
	}
}

// own is what owners do: they begin anew when moves begin, and then finish them.
func (g *stage) own() {
	for id, m := range g.s.Map().Volumes() {
		l, _ := g.s.Lease(catalog.ID(id))
		vol := g.s.VolumeByID(catalog.ID(id))
		if l.Epoch <= vol.EndedIn() {
			g.s = apply(g.t, g.s, command(func(c *catalogpb.Command) {
				c.Kind = &catalogpb.Command_GrantLease{GrantLease: &catalogpb.GrantLease{Volume: id[:], Node: raw(nodeID(1)), Incarnation: 1, ExpectEpoch: l.Epoch}}
			}))
			continue
		}
		for move := range m.Moves() {
			if g.copies > 0 && m.Sync(move.To).State == extmap.InSync {
				g.copies--
				g.s = apply(g.t, g.s, command(func(c *catalogpb.Command) {
					c.Kind = &catalogpb.Command_FinishMoves{FinishMoves: &catalogpb.FinishMoves{Volume: id[:], Epoch: l.Epoch, Disk: uint32(move.To), Generation: m.Sync(move.To).Generation}}
				}))
			}
			break
		}
	}
}

// jobs are those about disk 3, oldest first.
func (g *stage) jobs() (jobs []*catalog.Job) {
	for i := range g.s.Jobs {
		if g.s.Jobs[i].Subject == diskID(3).String() {
			jobs = append(jobs, &g.s.Jobs[i])
		}
	}
	return jobs
}

// want checks the last of them, how many there are, and what is left on disk 3.
func (g *stage) want(what, kind string, jobs int, state catalog.JobState, left uint32) *catalog.Job {
	g.t.Helper()
	all := g.jobs()
	if len(all) != jobs || g.s.Map().Used(3) != left {
		g.t.Fatalf("%s: %d jobs, %d extents are left; want %d and %d: %+v", what, len(all), g.s.Map().Used(3), jobs, left, all)
	}
	if jobs == 0 {
		return nil
	}
	j := all[jobs-1]
	if j.Kind != kind || j.State != state {
		g.t.Fatalf("%s: %+v, want %s, %s", what, j, kind, state)
	}
	return j
}

func (g *stage) set(j *catalog.Job, to catalog.JobState) {
	g.t.Helper()
	g.s = apply(g.t, g.s, command(func(c *catalogpb.Command) {
		c.Kind = &catalogpb.Command_SetJobState{SetJobState: &catalogpb.SetJobState{Id: j.ID[:], State: string(to), Reason: "a test wants it"}}
	}))
}

// left is a volume with a copy on disk 3.
func (g *stage) left() catalog.ID {
	g.t.Helper()
	for id, m := range g.s.Map().Volumes() {
		if slices.Contains(m.Disks(), 3) {
			return catalog.ID(id)
		}
	}
	g.t.Fatal("nothing is left on disk 3")
	return catalog.ID{}
}

const stageVolumes = 12

// newStage is four nodes, and volumes of one extent, all on disks 1, 2 and 3.
func newStage(t *testing.T) *stage {
	s := build(t, nodesAndPool(4)...)
	for v := 1; v <= stageVolumes; v++ {
		s = apply(t, s, volumeCmd(v, 1), allocateCmd(v, 1, 2, 3), grantCmd(v, 1, 0))
	}
	g := &stage{t: t, s: s, now: clock.Mono(time.Hour), heard: []int{1, 2, 3, 4}}
	g.elect(time.Hour)
	return g
}

// A disk that drains is emptied by a job, which other leaders go on with, and which can be paused.
func TestADiskIsDrainedByAJob(t *testing.T) {
	g := newStage(t)
	g.run(2 * time.Second)
	g.want("nothing is asked for", "", 0, "", stageVolumes)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskDraining))
	g.copies = 3
	g.run(4 * time.Second)
	j := g.want("three have moved", JobDrainDisk, 1, catalog.JobRunning, stageVolumes-3)
	if j.StepsDone != 3 || j.StepsTotal != stageVolumes || !strings.Contains(j.Reason, "9 extents are left on disk 3 on node n3") {
		t.Errorf("%+v", j)
	}
	g.elect(time.Hour)
	g.run(4 * time.Second)
	g.want("another leads", JobDrainDisk, 1, catalog.JobRunning, stageVolumes-3)

	// What has begun is ended, and nothing else begins, whoever leads.
	g.set(j, catalog.JobPaused)
	g.copies = 100
	g.run(4 * time.Second)
	left := uint32(stageVolumes - 3 - movingMax)
	g.want("paused", JobDrainDisk, 1, catalog.JobPaused, left)
	g.elect(time.Hour)
	g.run(4 * time.Second)
	g.want("paused, and another leads", JobDrainDisk, 1, catalog.JobPaused, left)
	if e, _ := Explain(g.s, up(1, 2, 3, 4), g.left(), RebuildAfter); !strings.Contains(fmt.Sprint(e.Advice), "blockctl job resume "+j.ID.String()) {
		t.Errorf("it is explained by %+v", e)
	}

	g.set(j, catalog.JobRunning)
	g.copies = 1
	g.run(2 * time.Second)
	g.elect(time.Hour)
	g.copies = 100
	g.run(10 * time.Second)
	j = g.want("resumed", JobDrainDisk, 1, catalog.JobDone, 0)
	if j.StepsDone != stageVolumes || j.StepsTotal != stageVolumes || g.s.DiskByNumber(3).State != catalog.DiskDrained {
		t.Errorf("%+v, the disk is %s", j, g.s.DiskByNumber(3).State)
	}
}

// A canceled drain leaves the disk as it is: it gets nothing and loses nothing, until it is asked
// for again. One of a disk that is resumed ends.
func TestADrainOfADiskIsCanceled(t *testing.T) {
	g := newStage(t)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskDraining))
	g.run(2 * time.Second)
	g.set(g.want("begun", JobDrainDisk, 1, catalog.JobRunning, stageVolumes), catalog.JobCanceled)
	g.copies = 100
	g.run(3 * time.Second)
	g.elect(time.Hour)
	g.run(3 * time.Second)
	g.want("canceled", JobDrainDisk, 1, catalog.JobCanceled, stageVolumes-movingMax)
	if d := g.s.DiskByNumber(3); d.State != catalog.DiskDraining {
		t.Errorf("the disk is %s", d.State)
	}
	g.copies = 0
	g.s = apply(t, g.s, jobCmd(9, JobDrainDisk, diskID(3).String()))
	g.run(2 * time.Second)
	g.want("asked for again", JobDrainDisk, 2, catalog.JobRunning, stageVolumes-movingMax)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskActive))
	g.copies = 100
	g.run(3 * time.Second)
	g.want("resumed", JobDrainDisk, 2, catalog.JobCanceled, stageVolumes-2*movingMax)
}

// A disk that fails while it drains has its copies made anew, and its volumes of one copy are what
// a drain waits for.
func TestADrainOfADiskEndsOtherwise(t *testing.T) {
	g := newStage(t)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskDraining))
	g.run(2 * time.Second)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskFailed))
	g.run(2 * time.Second)
	g.want("failed", JobRebuild, 2, catalog.JobRunning, stageVolumes)
	if first := g.jobs()[0]; first.State != catalog.JobFailed {
		t.Errorf("%+v", first)
	}

	pool := poolCmd(1)
	pool.GetCreatePool().Id, pool.GetCreatePool().Name = raw(testID(4, 2)), "single"
	vol := volumeCmd(1, 1)
	vol.GetCreateVolume().Pool, vol.GetCreateVolume().Home = "single", raw(diskID(3))
	g = &stage{t: t, s: apply(t, build(t, nodesAndPool(4)...), pool, vol, diskStateCmd(3, catalog.DiskDraining)), now: clock.Mono(time.Hour), heard: []int{1, 2, 3, 4}}
	g.elect(time.Hour)
	g.run(2 * time.Second)
	if j := g.want("a volume of one copy", JobDrainDisk, 1, catalog.JobWaiting, 0); !strings.Contains(j.Reason, "the only copy") {
		t.Errorf("%+v", j)
	}
}

// away has node 3 out of sync with all volumes, and not heard.
func (g *stage) away() {
	for v := 1; v <= stageVolumes; v++ {
		l, _ := g.s.Lease(volumeID(v))
		g.s = apply(g.t, g.s, markCmd(v, l.Epoch, 3, 0, catalogpb.ReplicaChange_REPLICA_CHANGE_OUT))
	}
	g.heard = []int{1, 2, 4}
}

// A node that stays away has its copies made anew by a job, and the next leader does not wait
// for the node anew.
func TestARebuildGoesOnAfterAnotherLeads(t *testing.T) {
	g := newStage(t)
	g.away()
	g.copies = 3
	g.run(30 * time.Second)
	g.want("it may come back", "", 0, "", stageVolumes)
	g.elect(20 * time.Second)
	g.run(15 * time.Second)
	g.want("it may come back, says the next one", "", 0, "", stageVolumes)
	g.run(30 * time.Second)
	j := g.want("it stays away", JobRebuild, 1, catalog.JobRunning, stageVolumes-3)
	if j.StepsDone != 3 || j.StepsTotal != stageVolumes {
		t.Errorf("%+v", j)
	}
	g.copies = 100
	g.elect(time.Hour)
	g.run(40 * time.Second)
	j = g.want("another leads", JobRebuild, 1, catalog.JobDone, 0)
	if j.StepsDone != stageVolumes || !strings.Contains(j.Reason, "blockctl disk remove "+diskID(3).String()) {
		t.Errorf("%+v", j)
	}
}

// For how long a node is waited for counts from when it was last heard, not from when it is taken for down.
func TestARebuildBeginsByWhenTheNodeWasLastHeard(t *testing.T) {
	const after = 20 * time.Second
	g := newStage(t)
	g.elect(after)
	g.run(5 * time.Second)
	g.away()
	g.run(after - pulse.Defaults.Every)
	g.want("it may come back", "", 0, "", stageVolumes)
	g.run(moveEvery + 2*pulse.Defaults.Every) // the last one decides what the job begins
	g.want("it was silent for long enough", JobRebuild, 1, catalog.JobRunning, stageVolumes)
	moving := 0
	for _, m := range g.s.Map().Volumes() {
		for range m.Moves() {
			moving++
		}
	}
	if moving != movingMax {
		t.Errorf("%d extents move, want one of each of %d volumes", moving, movingMax)
	}
}

// A disk that is back ends its rebuild, also a paused one; that a new leader has not heard
// of it yet does not.
func TestARebuildEndsWhenTheDiskIsBack(t *testing.T) {
	for _, paused := range []bool{false, true} {
		g := newStage(t)
		g.away()
		g.elect(20 * time.Second)
		g.run(45 * time.Second)
		j := g.want("it stays away", JobRebuild, 1, catalog.JobRunning, stageVolumes)
		state := catalog.JobRunning
		if paused {
			g.set(j, catalog.JobPaused)
			state = catalog.JobPaused
		}
		g.elect(20 * time.Second)
		g.run(45 * time.Second)
		g.want("another leads", JobRebuild, 1, state, stageVolumes)
		g.heard = []int{1, 2, 3, 4}
		g.run(2 * time.Second)
		if j := g.want("it is back", JobRebuild, 1, catalog.JobDone, stageVolumes); !strings.Contains(j.Reason, "is back") {
			t.Errorf("%+v", j)
		}
	}
}

// A canceled rebuild leaves the copies as they are, whoever leads, until the disk was back.
func TestARebuildIsCanceled(t *testing.T) {
	g := newStage(t)
	g.away()
	g.elect(20 * time.Second)
	g.run(45 * time.Second)
	g.set(g.want("it stays away", JobRebuild, 1, catalog.JobRunning, stageVolumes), catalog.JobCanceled)
	g.copies = 100
	g.run(60 * time.Second)
	g.elect(20 * time.Second)
	g.run(60 * time.Second)
	j := g.want("canceled", JobRebuild, 1, catalog.JobCanceled, stageVolumes-movingMax)
	if e, _ := Explain(g.s, append(up(1, 2, 4), down(3)), g.left(), RebuildAfter); !strings.Contains(fmt.Sprint(e.Next, e.Advice), "job "+j.ID.String()+" (rebuild) is canceled") ||
		!strings.Contains(fmt.Sprint(e.Advice), "blockctl disk drain "+diskID(3).String()) {
		t.Errorf("it is explained by %+v", e)
	}
	g.heard = []int{1, 2, 3, 4}
	g.run(2 * time.Second)
	g.want("it is back", JobRebuild, 2, catalog.JobDone, stageVolumes-movingMax)
	g.heard = []int{1, 2, 4}
	g.run(60 * time.Second)
	g.want("it is lost again", JobRebuild, 3, catalog.JobDone, 0)
}

// A failed disk has its copies made anew at once, and again when that was canceled and is asked for.
func TestARebuildOfAFailedDisk(t *testing.T) {
	g := newStage(t)
	g.s = apply(t, g.s, diskStateCmd(3, catalog.DiskFailed))
	g.run(2 * time.Second)
	g.set(g.want("failed", JobRebuild, 1, catalog.JobRunning, stageVolumes), catalog.JobCanceled)
	g.run(3 * time.Second)
	g.elect(time.Hour)
	g.run(3 * time.Second)
	g.want("canceled", JobRebuild, 1, catalog.JobCanceled, stageVolumes)
	g.copies = 100
	g.s = apply(t, g.s, jobCmd(9, JobRebuild, diskID(3).String()))
	g.run(10 * time.Second)
	g.want("asked for again", JobRebuild, 2, catalog.JobDone, 0)

	// Nothing can take its place: the job says so.
	s := apply(t, build(t, nodesAndPool(3)...), volumeCmd(1, 1), allocateCmd(1, 1, 2, 3), grantCmd(1, 1, 0), diskStateCmd(3, catalog.DiskFailed))
	g = &stage{t: t, s: s, now: clock.Mono(time.Hour), heard: []int{1, 2, 3}}
	g.elect(time.Hour)
	g.run(4 * time.Second)
	if j := g.want("no other disk", JobRebuild, 1, catalog.JobWaiting, 1); !strings.Contains(j.Reason, "no disk can take the place of disk 3") {
		t.Errorf("%+v", j)
	}
}

// A member of an older release never gets a job that it would not carry on.
func TestDiskJobsNeedTheirVersion(t *testing.T) {
	for _, kind := range []string{JobDrainDisk, JobRebuild} {
		for version := uint32(1); version <= catalog.CommandVersion; version++ {
			cmd := jobCmd(1, kind, diskID(1).String())
			cmd.Version = version
			data, err := proto.Marshal(cmd)
			if err != nil {
				t.Fatal(err)
			}
			if err := catalog.NewFSM().Check(version, data); (err == nil) != (version >= 3) {
				t.Errorf("%s in version %d: %v", kind, version, err)
			}
		}
	}
}
