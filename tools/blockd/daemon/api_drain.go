package daemon

import (
	"cmp"
	"context"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
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
	id := newID()
	by := callerOf(ctx, req, m.GetRequestId())
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_CreateJob{CreateJob: &catalogpb.CreateJob{Id: id[:], Kind: kind, Subject: n.Name}}}
	if m.GetDryRun() {
		changes, err := a.changeOrTry(ctx, by, cmd, true)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&blockdv1.DrainNodeResponse{Changes: append(changes, a.drainChanges(n, kind)...)}), nil
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	out := &blockdv1.DrainNodeResponse{Changes: []string{changeText(res.Audit)}}
	if j := a.d.catalog.State().Job(res.ID); j != nil {
		out.Job = jobMessage(j)
	}
	return connect.NewResponse(out), nil
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
	each := &caller{actor: by.actor, source: by.source} // the request's id is that of the node's state
	var changes []string
	for _, j := range liveJobs(a.d.catalog.State(), n.Name) {
		did, err := a.changeOrTry(ctx, each, jobCommand(&j, catalog.JobCanceled, "node "+n.Name+" is resumed by "+by.actor), m.GetDryRun())
		if err != nil && connect.CodeOf(err) != connect.CodeFailedPrecondition { // it has ended meanwhile
			return nil, err
		}
		changes = append(changes, did...)
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

// namedDisk finds a disk by its uuid, or by the name that `disk list` gives it.
func (a api) namedDisk(name string) (*catalog.Disk, error) {
	s := a.d.catalog.State()
	for i := range s.Disks {
		d := &s.Disks[i]
		listed := diskNameIn(s, d.ID)
		if n := s.NodeByID(d.Node); n != nil && a.d.plane.creds != nil {
			listed = n.Name + "/" + listed
		}
		if d.ID.String() == name || listed == name {
			return d, nil
		}
	}
	return nil, noSuch("disk", name)
}

// placeDisk adds to a disk of this node what the catalog knows of it.
func (a api) placeDisk(out *blockdv1.Disk) {
	s := a.d.catalog.State()
	if d := s.DiskByID(parseID(out.GetUuid())); d != nil {
		out.Service, out.Extents = string(d.State), s.Map().Used(d.Number)
		out.Reason = cmp.Or(out.GetReason(), d.Reason)
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
	if d.State == catalog.DiskFailed {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("disk %s has failed, and gets nothing new: %s; when nothing is on it any more, remove it with --force", m.GetDisk(), d.Reason))
	}
	by := callerOf(ctx, req, m.GetRequestId())
	to, left := catalog.DiskDrained, leftOn(a.d.catalog.State(), d)
	if left != "" {
		to = catalog.DiskDraining
	}
	changes, err := a.changeOrTry(ctx, by, diskCommand(d, to, "as "+by.actor+" wants it"), m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.DrainDiskResponse{Changes: changes, Left: left}), nil
}

// ResumeDisk implements blockdv1connect.MembershipServiceHandler. A disk that has failed may be
// resumed too, when it is mended: if it isn't, its node says so again (see disk_health.go).
func (a api) ResumeDisk(ctx context.Context, req *connect.Request[blockdv1.ResumeDiskRequest]) (*connect.Response[blockdv1.ResumeDiskResponse], error) {
	m := req.Msg
	d, err := a.namedDisk(m.GetDisk())
	if err != nil {
		return nil, err
	}
	changes, err := a.changeOrTry(ctx, callerOf(ctx, req, m.GetRequestId()), diskCommand(d, catalog.DiskActive, ""), m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.ResumeDiskResponse{Changes: changes}), nil
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
