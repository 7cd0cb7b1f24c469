package director

import (
	"fmt"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// Kinds of jobs that a director carries on. Their subject is the name of a node.
const (
	// JobDrain moves all leases of a node away, for example for an upgrade. The
	// node keeps its data, and stays in the state draining until it is resumed.
	JobDrain = "drain"
	// JobRemove moves all leases and all data away, and ends with the node drained.
	JobRemove = "remove"
)

// The cursor of a job: whether the node was told to drain.
const cursorBegun = "begun"

// carryOn takes the jobs of this package a step further.
func (t *term) carryOn(v *view, out *turn) {
	for i := range v.state.Jobs {
		j := &v.state.Jobs[i]
		if carries(j) && t.mayPropose(v.now, jobKey(j)) {
			if cmd := t.nextStep(v, j); cmd != nil {
				t.propose(out, proposal{key: jobKey(j), cmd: cmd})
			}
		}
	}
	t.beginDiskJobs(v, out)
}

// carries reports whether a job is one to carry on. Those about disks end by what becomes
// of the disk, also while they are paused.
func carries(j *catalog.Job) bool {
	switch j.Kind {
	case JobDrain, JobRemove, JobRebalance:
		return j.State == catalog.JobRunning || j.State == catalog.JobWaiting
	case JobDrainDisk, JobRebuild:
		return !j.Ended()
	}
	return false
}

func jobKey(j *catalog.Job) string { return "job " + j.ID.String() }

// nextStep returns the next command of a job, or nil while there is nothing to say.
func (t *term) nextStep(v *view, j *catalog.Job) *catalogpb.Command {
	switch {
	case j.Kind == JobRebalance:
		return t.rebalanceStep(v, j)
	case aboutDisk(j):
		return t.diskStep(v, j)
	}
	n := v.state.Node(j.Subject)
	switch {
	case n == nil && j.Kind == JobRemove:
		return setJob(j, catalog.JobDone, "the node is not of this cluster any more")
	case n == nil:
		return setJob(j, catalog.JobFailed, fmt.Sprintf("there is no node %q", j.Subject))
	case j.Cursor != cursorBegun && n.State != catalog.NodeDraining && n.State != catalog.NodeDrained:
		return nodeState(n, catalog.NodeDraining, fmt.Sprintf("job %s empties it", j.ID))
	case j.Cursor == cursorBegun && n.State != catalog.NodeDraining && n.State != catalog.NodeDrained:
		return setJob(j, catalog.JobCanceled, fmt.Sprintf("node %s was made %s again", n.Name, n.State))
	}
	left, extents := leasesOf(v, n), uint64(0)
	if j.Kind == JobRemove {
		extents = extentsOn(v.state, n)
	}
	total := max(j.StepsTotal, left+extents)
	done := total - left - extents
	switch {
	case j.Cursor != cursorBegun || j.StepsDone != done || j.StepsTotal < total:
		return progress(j, done, total, extents, leftWords(j, n, left, extents))
	case left > 0 && len(v.eligible) == 0:
		return wait(j, fmt.Sprintf("no other node is up that may serve the %d volumes of node %s; start one, or resume one (blockctl node list)", left, n.Name))
	case left > 0:
		return resume(j, fmt.Sprintf("node %s serves %d volumes; they move to other nodes, some at a time", n.Name, left))
	case j.Kind == JobDrain:
		return setJob(j, catalog.JobDone, fmt.Sprintf("node %s serves no volume; stop it, and resume it when it is back", n.Name))
	}
	return t.emptyStep(v, j, n, extents)
}

func leftWords(j *catalog.Job, n *catalog.Node, leases, extents uint64) string {
	if j.Kind == JobRemove {
		return fmt.Sprintf("node %s serves %d volumes and keeps copies of %d extents", n.Name, leases, extents)
	}
	return fmt.Sprintf("node %s serves %d volumes", n.Name, leases)
}

// emptyStep is the rest of JobRemove: the data. moveExtents moves it.
func (t *term) emptyStep(v *view, j *catalog.Job, n *catalog.Node, extents uint64) *catalogpb.Command {
	homes := homesOn(v.state, n)
	switch reason := t.stuckOn(v, n); {
	case extents > 0 && reason != "":
		return wait(j, fmt.Sprintf("node %s keeps copies of %d extents; of %s", n.Name, extents, reason))
	case extents > 0:
		return resume(j, fmt.Sprintf("node %s keeps copies of %d extents, which other disks get, of at most %d volumes at a time", n.Name, extents, movingMax))
	case homes > 0:
		return wait(j, fmt.Sprintf("node %s keeps the only copy of %d volumes; copy what is needed to volumes of another pool, and delete them", n.Name, homes))
	case n.State != catalog.NodeDrained:
		return nodeState(n, catalog.NodeDrained, fmt.Sprintf("job %s has emptied it", j.ID))
	}
	return setJob(j, catalog.JobDone, fmt.Sprintf("node %s is empty; remove it: blockctl node remove %s --yes%s", n.Name, n.Name, forceFor(v.state, n)))
}

// forceFor is what removing an empty node takes, beside --yes: its disks are forgotten with it.
func forceFor(s *catalog.State, n *catalog.Node) string {
	if len(disksOf(s, n)) > 0 {
		return " --force"
	}
	return ""
}

// disksOf are the disks of a node.
func disksOf(s *catalog.State, n *catalog.Node) (disks []*catalog.Disk) {
	for i := range s.Disks {
		if s.Disks[i].Node == n.ID {
			disks = append(disks, &s.Disks[i])
		}
	}
	return disks
}

// extentsOn counts the extents that are on a node's disks, or move there.
func extentsOn(s *catalog.State, n *catalog.Node) (extents uint64) {
	for _, d := range disksOf(s, n) {
		extents += uint64(s.Map().Used(d.Number))
	}
	return extents
}

// leasesOf counts the volumes that a node may be serving.
func leasesOf(v *view, n *catalog.Node) (count uint64) {
	for _, e := range v.table.All() {
		if e.Owner == n.ID.String() {
			count++
		}
	}
	return count
}

// homesOn counts the volumes that live on a node alone.
func homesOn(s *catalog.State, n *catalog.Node) (homes int) {
	for i := range s.Volumes {
		if home := s.NodeOfVolume(&s.Volumes[i]); home != nil && home.ID == n.ID {
			homes++
		}
	}
	return homes
}

func nodeState(n *catalog.Node, to catalog.NodeState, reason string) *catalogpb.Command {
	return &catalogpb.Command{Kind: &catalogpb.Command_SetNodeState{SetNodeState: &catalogpb.SetNodeState{Node: n.Name, State: string(to), Reason: reason}}}
}

func setJob(j *catalog.Job, to catalog.JobState, reason string) *catalogpb.Command {
	return &catalogpb.Command{Kind: &catalogpb.Command_SetJobState{SetJobState: &catalogpb.SetJobState{Id: j.ID[:], State: string(to), Reason: reason}}}
}

// wait says what a job waits for, once.
func wait(j *catalog.Job, reason string) *catalogpb.Command {
	if j.State == catalog.JobWaiting && j.Reason == reason {
		return nil
	}
	return setJob(j, catalog.JobWaiting, reason)
}

// resume ends the waiting of a job.
func resume(j *catalog.Job, reason string) *catalogpb.Command {
	if j.State != catalog.JobWaiting {
		return nil
	}
	return setJob(j, catalog.JobRunning, reason)
}

// progress says how far a job is: in steps, and in the bytes of the extents that are left to move.
func progress(j *catalog.Job, done, total, left uint64, reason string) *catalogpb.Command {
	bytes := max(j.BytesTotal, BytesOf(left))
	return &catalogpb.Command{Kind: &catalogpb.Command_ProgressJob{ProgressJob: &catalogpb.ProgressJob{Id: j.ID[:], StepsDone: done, StepsTotal: total,
		BytesDone: bytes - BytesOf(left), BytesTotal: bytes, Reason: reason, Cursor: []byte(cursorBegun)}}}
}

// BytesOf is what so many copies of extents come to as jobs count them: with what hosts have never written.
func BytesOf(extents uint64) int64 { return int64(extents) * extmap.ShardBytes }
