package director

import (
	"crypto/sha256"
	"fmt"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Kinds of jobs about one disk. Their subject is its UUID. The director begins them by itself,
// when it finds a disk that needs one; an administrator's `disk drain` does too.
const (
	// JobDrainDisk has other disks take what is on one that drains, and ends with it drained.
	JobDrainDisk = "drain-disk"
	// JobRebuild makes the copies of a lost disk anew on others, and ends when none is left on
	// it, or when it is back. A disk is lost that has failed, or whose node stays away.
	JobRebuild = "rebuild"
)

// diskJobsMax is how many jobs may be under way when the director begins one more: the rest is
// for administrators. Disks without a job are emptied too, they just have no progress to show.
const diskJobsMax = catalog.JobsLiveMax / 2

// diskJob is what jobs about a disk are found by.
type diskJob struct {
	kind string
	disk catalog.ID
}

// diskJobs are the last jobs about disks: what became of the ones before doesn't matter.
func diskJobs(s *catalog.State) map[diskJob]*catalog.Job {
	last := map[diskJob]*catalog.Job{}
	for i := range s.Jobs {
		j := &s.Jobs[i]
		if !aboutDisk(j) {
			continue
		}
		if id, ok := catalog.ParseID(j.Subject); ok {
			last[diskJob{j.Kind, id}] = j
		}
	}
	return last
}

func aboutDisk(j *catalog.Job) bool { return j.Kind == JobDrainDisk || j.Kind == JobRebuild }

// goes reports whether a disk is being emptied, as far as its last job says. One that was paused or
// canceled keeps the copies where they are.
func goes(j *catalog.Job) bool {
	return j == nil || j.State != catalog.JobPaused && j.State != catalog.JobCanceled
}

// over reports whether a disk that needs a job needs another one.
func over(j *catalog.Job) bool { return j == nil || j.Ended() && j.State != catalog.JobCanceled }

// JobOf returns the job that empties a disk, or whose pause or cancellation keeps it from being
// emptied; nil when there is none.
func JobOf(s *catalog.State, d *catalog.Disk) *catalog.Job { return jobOf(diskJobs(s), d) }

func jobOf(jobs map[diskJob]*catalog.Job, d *catalog.Disk) *catalog.Job {
	rebuild, drain := jobs[diskJob{JobRebuild, d.ID}], jobs[diskJob{JobDrainDisk, d.ID}]
	switch {
	case rebuild != nil && !rebuild.Ended():
		return rebuild
	case d.State == catalog.DiskDraining && !over(drain):
		return drain
	case !over(rebuild):
		return rebuild
	}
	return nil
}

// isLost reports whether what is on a disk can't be read for long. A rebuild that has
// begun does not wait again for its node, whoever leads now.
func (t *term) isLost(v *view, d *catalog.Disk, n *catalog.Node) bool {
	if d.State == catalog.DiskFailed {
		return true
	}
	since, down := t.silentSince[n.ID.String()]
	j := v.diskJobs[diskJob{JobRebuild, d.ID}]
	return down && n.State != catalog.NodeDraining && (v.now.Sub(since) >= t.rebuildAfter || j != nil && !j.Ended())
}

// isBack reports whether a disk that was lost is there again. Silence is no sign of that: a new leader
// takes all nodes for up at first.
func (t *term) isBack(v *view, d *catalog.Disk, n *catalog.Node) bool {
	return d.State != catalog.DiskFailed && t.hears(v.now, n.ID.String())
}

// beginDiskJobs gives the disks a job that need one.
func (t *term) beginDiskJobs(v *view, out *turn) {
	live := 0
	for i := range v.state.Jobs {
		if !v.state.Jobs[i].Ended() {
			live++
		}
	}
	for i := range v.state.Disks {
		d := &v.state.Disks[i]
		n := v.state.NodeByID(d.Node)
		if n == nil || live >= diskJobsMax {
			continue
		}
		kind, reason := t.neededJob(v, d, n)
		key := "job of disk " + d.ID.String()
		if kind == "" || !t.mayPropose(v.now, key) {
			continue
		}
		live++
		extents := uint64(v.state.Map().Used(d.Number))
		id := sha256.Sum256(fmt.Appendf(nil, "%s of %s in term %d at revision %d", kind, d.ID, t.number, v.state.Revision))
		t.propose(out, proposal{key: key, cmd: &catalogpb.Command{Kind: &catalogpb.Command_CreateJob{CreateJob: &catalogpb.CreateJob{
			Id: id[:len(catalog.ID{})], Kind: kind, Subject: d.ID.String(), Reason: reason, StepsTotal: extents, BytesTotal: BytesOf(extents)}}}})
	}
}

// neededJob is the kind of job that a disk needs and has not, or "". A canceled rebuild holds until
// its disk is back. Then it gets a job that ends at once, so that the next loss finds no canceled one.
func (t *term) neededJob(v *view, d *catalog.Disk, n *catalog.Node) (kind, reason string) {
	rebuild, drain := v.diskJobs[diskJob{JobRebuild, d.ID}], v.diskJobs[diskJob{JobDrainDisk, d.ID}]
	used := v.state.Map().Used(d.Number)
	switch {
	case used > 0 && over(rebuild) && t.isLost(v, d, n):
		return JobRebuild, fmt.Sprintf("%s is lost; other disks get copies of its %d extents", diskWords(d, n), used)
	case rebuild != nil && rebuild.State == catalog.JobCanceled && t.isBack(v, d, n):
		return JobRebuild, fmt.Sprintf("%s is back; that job %s was canceled counts no more", diskWords(d, n), rebuild.ID)
	case d.State == catalog.DiskDraining && over(drain) && (used > 0 || hasHome(v.state, d.ID)):
		return JobDrainDisk, diskWords(d, n) + " is to be emptied"
	}
	return "", ""
}

func diskWords(d *catalog.Disk, n *catalog.Node) string {
	return fmt.Sprintf("disk %d on node %s", d.Number, n.Name)
}

// diskStep returns the next command of a job about a disk, or nil while there is nothing to say.
func (t *term) diskStep(v *view, j *catalog.Job) *catalogpb.Command {
	id, _ := catalog.ParseID(j.Subject)
	d := v.state.DiskByID(id)
	if d == nil || v.state.NodeByID(d.Node) == nil {
		return finish(j, j.StepsTotal, "the disk is not of this cluster any more")
	}
	n := v.state.NodeByID(d.Node)
	if j.Kind == JobRebuild {
		return t.rebuildStep(v, j, d, n)
	}
	return t.drainDiskStep(v, j, d, n)
}

// rebuildStep is the next of JobRebuild. That a disk is back ends the job also while it is paused.
func (t *term) rebuildStep(v *view, j *catalog.Job, d *catalog.Disk, n *catalog.Node) *catalogpb.Command {
	left := uint64(v.state.Map().Used(d.Number))
	switch {
	case t.isBack(v, d, n):
		return finish(j, j.StepsDone, fmt.Sprintf("%s is back, and keeps %d extents: what they have missed is copied to it", diskWords(d, n), left))
	case left == 0:
		return finish(j, j.StepsTotal, fmt.Sprintf("nothing of volumes of several copies is left on %s; remove it: blockctl disk remove %s --yes --force", diskWords(d, n), d.ID))
	case j.State == catalog.JobPaused:
		return nil
	case d.State != catalog.DiskFailed && n.State == catalog.NodeDraining:
		return wait(j, fmt.Sprintf("node %s is being drained, and waited for", n.Name))
	}
	return t.emptyDiskStep(j, d, n, left)
}

// drainDiskStep is the next of JobDrainDisk; finishDisks makes the disk drained.
func (t *term) drainDiskStep(v *view, j *catalog.Job, d *catalog.Disk, n *catalog.Node) *catalogpb.Command {
	left := uint64(v.state.Map().Used(d.Number))
	switch {
	case d.State == catalog.DiskActive:
		return setJob(j, catalog.JobCanceled, diskWords(d, n)+" was made active again")
	case d.State == catalog.DiskFailed:
		return setJob(j, catalog.JobFailed, diskWords(d, n)+" has failed; a job rebuild makes its copies anew elsewhere")
	case d.State == catalog.DiskDrained:
		return finish(j, j.StepsTotal, fmt.Sprintf("%s is drained; remove it: blockctl disk remove %s --yes", diskWords(d, n), d.ID))
	case j.State == catalog.JobPaused:
		return nil
	case left == 0 && j.StepsDone == j.StepsTotal && hasHome(v.state, d.ID):
		return wait(j, diskWords(d, n)+" has the only copy of some volumes; copy what is needed to volumes of another pool, and delete them (blockctl volume list -o wide)")
	}
	return t.emptyDiskStep(j, d, n, left)
}

// emptyDiskStep follows how other disks take the extents of one, which moveExtents has them do.
func (t *term) emptyDiskStep(j *catalog.Job, d *catalog.Disk, n *catalog.Node, left uint64) *catalogpb.Command {
	total := max(j.StepsTotal, left)
	words := fmt.Sprintf("%d extents are left on %s; other disks get them, of at most %d volumes at a time", left, diskWords(d, n), movingMax)
	switch {
	case j.StepsDone != total-left || j.StepsTotal != total:
		return progress(j, total-left, total, left, words)
	case left > 0 && t.stuck[d.Number] != "":
		return wait(j, fmt.Sprintf("%d extents are left on %s; of %s", left, diskWords(d, n), t.stuck[d.Number]))
	}
	return resume(j, words)
}

// finish ends a job as done, with so many steps; one that is paused goes on for that.
func finish(j *catalog.Job, steps uint64, reason string) *catalogpb.Command {
	switch {
	case j.State == catalog.JobPaused:
		return setJob(j, catalog.JobRunning, reason)
	case j.StepsDone != steps:
		return progress(j, steps, j.StepsTotal, j.StepsTotal-steps, reason)
	}
	return setJob(j, catalog.JobDone, reason)
}
