package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/group"
)

// drainKinds are the jobs of the director, by what DrainNodeRequest calls them.
var drainKinds = map[string]string{"": director.JobDrain, "upgrade": director.JobDrain, "remove": director.JobRemove}

// DrainNode implements blockdv1connect.MembershipServiceHandler.
func (a api) DrainNode(ctx context.Context, req *connect.Request[blockdv1.DrainNodeRequest]) (*connect.Response[blockdv1.DrainNodeResponse], error) {
	m := req.Msg
	kind, ok := drainKinds[m.GetPurpose()]
	if !ok {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("drain for %q: want upgrade or remove", m.GetPurpose()))
	}
	n, err := a.namedNode(m.GetNode())
	if err != nil {
		return nil, err
	}
	for _, j := range liveJobs(a.d.catalog.State(), n.Name) {
		if j.Kind != kind {
			return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("job %s empties node %q already, as %s; cancel it first: blockctl job cancel %s", j.ID, n.Name, j.Kind, j.ID))
		}
	}
	changes, job, err := a.beginJob(ctx, callerOf(ctx, req, m.GetRequestId()), &catalogpb.CreateJob{Kind: kind, Subject: n.Name}, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	if m.GetDryRun() {
		changes = append(changes, a.drainChanges(n, kind)...)
	}
	return connect.NewResponse(&blockdv1.DrainNodeResponse{Changes: changes, Job: job}), nil
}

// drainChanges says what a drain of a node would do, and what it would not.
func (a api) drainChanges(n *catalog.Node, kind string) []string {
	s := a.d.catalog.State()
	serves, homes := 0, 0
	for _, l := range s.Leases() {
		if l.Owner == n.ID {
			serves++
		}
	}
	for i := range s.Volumes {
		if home := s.NodeOfVolume(&s.Volumes[i]); home != nil && home.ID == n.ID {
			homes++
		}
	}
	out := []string{fmt.Sprintf("node %s is draining: it gets nothing new", n.Name), fmt.Sprintf("%s that it serves move to other nodes", countOf(serves, "volume"))}
	copies := s.ReplicasOn(n.ID)
	switch {
	case kind == director.JobDrain && homes > 0:
		out = append(out, fmt.Sprintf("%s of one copy stay on it; hosts can't reach them while it is stopped", countOf(homes, "volume")))
	case kind == director.JobRemove && (copies > 0 || homes > 0):
		out = append(out, fmt.Sprintf("other nodes' disks get the copies of %s", countOf(copies, "volume")))
		if homes > 0 {
			out = append(out, fmt.Sprintf("the job waits then: the node keeps the only copy of %s, which stays until it is deleted", countOf(homes, "volume")))
		}
	}
	return out
}

func countOf(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func (a api) namedNode(name string) (*catalog.Node, error) {
	n := a.d.catalog.State().Node(name)
	if n == nil {
		return nil, noSuch("node", name)
	}
	return n, nil
}

// ResumeNode implements blockdv1connect.MembershipServiceHandler. It ends the jobs that empty the
// node too: they would drain it again.
func (a api) ResumeNode(ctx context.Context, req *connect.Request[blockdv1.ResumeNodeRequest]) (*connect.Response[blockdv1.ResumeNodeResponse], error) {
	m := req.Msg
	n, err := a.namedNode(m.GetNode())
	if err != nil {
		return nil, err
	}
	by := callerOf(ctx, req, m.GetRequestId())
	changes, err := a.cancelJobs(ctx, by, n.Name, "", "node "+n.Name+" is resumed by "+by.actor, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	did, err := a.changeOrTry(ctx, by, &catalogpb.Command{Kind: &catalogpb.Command_SetNodeState{SetNodeState: &catalogpb.SetNodeState{
		Node: n.Name, State: string(catalog.NodeActive)}}}, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	if n, err = a.namedNode(m.GetNode()); err != nil {
		return nil, err // removed meanwhile
	}
	st := a.d.plane.group.Stats()
	return connect.NewResponse(&blockdv1.ResumeNodeResponse{Member: a.d.member(n, &st), Changes: append(changes, did...)}), nil
}

// cancelJobs ends the jobs about something that is resumed, of one kind or of all.
func (a api) cancelJobs(ctx context.Context, by *caller, subject, kind, reason string, dry bool) (changes []string, err error) {
	each := by.beside() // the request's id is that of what follows
	for _, j := range liveJobs(a.d.catalog.State(), subject) {
		if kind != "" && j.Kind != kind {
			continue
		}
		did, err := a.changeOrTry(ctx, each, jobCommand(&j, catalog.JobCanceled, reason), dry)
		if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition { // it has ended meanwhile
			return nil, err
		}
		changes = append(changes, did...)
	}
	return changes, nil
}

// namedDisk finds a disk by its uuid, or by the name that `disk list` gives it.
func (a api) namedDisk(name string) (*catalog.Disk, error) {
	s := a.d.catalog.State()
	for i := range s.Disks {
		d := &s.Disks[i]
		if d.ID.String() == name || diskName(s, d.ID) == name {
			return d, nil
		}
	}
	return nil, noSuch("disk", name)
}

// reasonOfDisk is why a disk is in its state, and which job empties it or is kept from that.
func reasonOfDisk(s *catalog.State, d *catalog.Disk, reason string) string {
	j := director.JobOf(s, d)
	if j == nil {
		return reason
	}
	job := fmt.Sprintf("job %s (%s) is %s: %d of %d extents have moved", j.ID, j.Kind, j.State, j.StepsDone, j.StepsTotal)
	if reason == "" {
		return job
	}
	return reason + "; " + job
}

// placeDisk adds to a disk of this node what the catalog knows of it.
func (a api) placeDisk(out *blockdv1.Disk) {
	s := a.d.catalog.State()
	if d := s.DiskByID(parseID(out.GetUuid())); d != nil {
		out.Service, out.Extents = string(d.State), s.Map().Used(d.Number)
		out.Reason = reasonOfDisk(s, d, cmp.Or(out.GetReason(), d.Reason))
		if n := s.NodeByID(d.Node); n != nil && a.d.plane.creds != nil {
			out.Node = n.Name
		}
	}
}

func diskCommand(d *catalog.Disk, to catalog.DiskState, reason string) *catalogpb.Command {
	return &catalogpb.Command{Kind: &catalogpb.Command_SetDiskState{SetDiskState: &catalogpb.SetDiskState{Id: d.ID[:], State: string(to), Reason: reason}}}
}

// leftOn says what a disk has, "" for nothing.
func leftOn(s *catalog.State, d *catalog.Disk) string {
	homes, copies := 0, 0
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Home == d.ID {
			homes++
		}
		for _, r := range s.Replicas(v.ID) {
			if r.DiskID == d.ID {
				copies++
			}
		}
	}
	if homes+copies == 0 {
		return ""
	}
	return fmt.Sprintf("it has the only copy of %s, which stays until it is deleted, and a copy of %s, %s of which move to other disks; it is drained when nothing is left on it",
		countOf(homes, "volume"), countOf(copies, "volume"), countOf(int(s.Map().Used(d.Number)), "extent"))
}

// DrainDisk implements blockdv1connect.MembershipServiceHandler. A disk that has nothing is drained at once.
func (a api) DrainDisk(ctx context.Context, req *connect.Request[blockdv1.DrainDiskRequest]) (*connect.Response[blockdv1.DrainDiskResponse], error) {
	m := req.Msg
	d, err := a.namedDisk(m.GetDisk())
	if err != nil {
		return nil, err
	}
	by := callerOf(ctx, req, m.GetRequestId())
	if d.State == catalog.DiskFailed {
		return a.rebuildDisk(ctx, by, m, d)
	}
	to, left := catalog.DiskDrained, leftOn(a.d.catalog.State(), d)
	if left != "" {
		to = catalog.DiskDraining
	}
	changes, err := a.changeOrTry(ctx, by, diskCommand(d, to, "as "+by.actor+" wants it"), m.GetDryRun())
	if err != nil {
		return nil, err
	}
	out := &blockdv1.DrainDiskResponse{Changes: changes, Left: left}
	if left != "" {
		if changes, out.Job, err = a.diskJob(ctx, by.beside(), d, director.JobDrainDisk, m.GetDryRun()); err != nil {
			return nil, err
		}
		out.Changes = append(out.Changes, changes...)
	}
	return connect.NewResponse(out), nil
}

// rebuildDisk has other disks get the copies of one that has failed, after that was canceled.
func (a api) rebuildDisk(ctx context.Context, by *caller, m *blockdv1.DrainDiskRequest, d *catalog.Disk) (*connect.Response[blockdv1.DrainDiskResponse], error) {
	used := a.d.catalog.State().Map().Used(d.Number)
	if used == 0 {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("disk %s has failed, and gets nothing new: %s; no volume of several copies has one on it any more: remove it with --force", m.GetDisk(), d.Reason))
	}
	changes, job, err := a.diskJob(ctx, by, d, director.JobRebuild, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.DrainDiskResponse{Changes: changes, Job: job,
		Left: fmt.Sprintf("it has failed, and other disks get the copies of %s that it has", countOf(int(used), "extent"))}), nil
}

// diskJob begins a job about a disk, and returns it or the one that does that already. There is
// none while an older release is in the cluster: the director begins it when that is gone.
func (a api) diskJob(ctx context.Context, by *caller, d *catalog.Disk, kind string, dry bool) ([]string, *blockdv1.Job, error) {
	extents := uint64(a.d.catalog.State().Map().Used(d.Number))
	c := &catalogpb.CreateJob{Kind: kind, Subject: d.ID.String(), StepsTotal: extents, BytesTotal: director.BytesOf(extents)}
	changes, job, err := a.beginJob(ctx, by, c, dry)
	switch {
	case errors.Is(err, group.ErrGate):
		return nil, nil, nil
	case connect.CodeOf(err) != connect.CodeAlreadyExists:
		return changes, job, err
	}
	if err := a.d.catalog.Barrier(ctx); err != nil { // it may be there since just now, which is not known here yet
		return nil, nil, apiError(err)
	}
	s := a.d.catalog.State()
	for i := len(s.Jobs) - 1; i >= 0; i-- {
		if j := &s.Jobs[i]; j.Kind == kind && j.Subject == d.ID.String() {
			return nil, jobMessage(s, j), nil
		}
	}
	return nil, nil, nil
}

// ResumeDisk implements blockdv1connect.MembershipServiceHandler. A disk that has failed may be
// resumed too, when it is mended: if it isn't, its node says so again (see disk_health.go).
func (a api) ResumeDisk(ctx context.Context, req *connect.Request[blockdv1.ResumeDiskRequest]) (*connect.Response[blockdv1.ResumeDiskResponse], error) {
	m := req.Msg
	d, err := a.namedDisk(m.GetDisk())
	if err != nil {
		return nil, err
	}
	by := callerOf(ctx, req, m.GetRequestId())
	changes, err := a.cancelJobs(ctx, by, d.ID.String(), director.JobDrainDisk, "the disk is resumed by "+by.actor, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	did, err := a.changeOrTry(ctx, by, diskCommand(d, catalog.DiskActive, ""), m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.ResumeDiskResponse{Changes: append(changes, did...)}), nil
}

// RemoveDisk implements blockdv1connect.MembershipServiceHandler. A disk that its node has open
// would be registered anew when that starts.
func (a api) RemoveDisk(ctx context.Context, req *connect.Request[blockdv1.RemoveDiskRequest]) (*connect.Response[blockdv1.RemoveDiskResponse], error) {
	m := req.Msg
	d, err := a.namedDisk(m.GetDisk())
	if err != nil {
		return nil, err
	}
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_RemoveDisk{RemoveDisk: &catalogpb.RemoveDisk{Id: d.ID[:], Force: m.GetForce()}}}
	changes, err := a.changeOrTry(ctx, callerOf(ctx, req, m.GetRequestId()), cmd, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.RemoveDiskResponse{Changes: changes}), nil
}
