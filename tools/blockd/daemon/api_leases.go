package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
)

// lease is who serves a volume, in the words of the API.
func (a api) lease(s *catalog.State, v *catalog.Volume) *blockdv1.Lease {
	l, _ := s.Lease(v.ID)
	out := &blockdv1.Lease{Volume: v.Name, Epoch: l.Epoch, State: "free", Since: timeText(l.Since)}
	if n := s.NodeByID(l.MoveTo); n != nil {
		out.MovingTo = n.Name
	}
	if l.Owner.IsZero() {
		return out
	}
	out.State, out.Owner = "held", l.Owner.String() // of a node that was removed
	n := s.NodeByID(l.Owner)
	if n != nil {
		out.Owner = n.Name
	}
	switch {
	case n == nil || !a.d.shared.Load().reachable(n.ID):
		out.State = "expiring"
	case out.MovingTo != "" || n.State == catalog.NodeDraining:
		out.State = "moving"
	}
	return out
}

// ListLeases implements blockdv1connect.LeaseServiceHandler.
func (a api) ListLeases(context.Context, *connect.Request[blockdv1.ListLeasesRequest]) (*connect.Response[blockdv1.ListLeasesResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListLeasesResponse{}
	for i := range s.Volumes {
		if shared(s, &s.Volumes[i]) {
			out.Leases = append(out.Leases, a.lease(s, &s.Volumes[i]))
		}
	}
	slices.SortFunc(out.Leases, func(a, b *blockdv1.Lease) int { return cmp.Compare(a.GetVolume(), b.GetVolume()) })
	return connect.NewResponse(out), nil
}

// MoveLease implements blockdv1connect.LeaseServiceHandler. The move itself comes after:
// the owner gives the volume back when what is in flight has ended.
func (a api) MoveLease(ctx context.Context, req *connect.Request[blockdv1.MoveLeaseRequest]) (*connect.Response[blockdv1.MoveLeaseResponse], error) {
	m := req.Msg
	s := a.d.catalog.State()
	v := s.Volume(m.GetVolume())
	if v == nil {
		return nil, noSuch("volume", m.GetVolume())
	}
	n, err := a.namedNode(m.GetTo())
	if err != nil {
		return nil, err
	}
	switch {
	case !shared(s, v) && !v.Retired:
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("volume %q has one copy, so only the node that has it can serve it; a volume in a pool with --replicas 2 or more can move", v.Name))
	case !n.Plays(director.RoleTarget):
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("node %q does not serve volumes: it has not the role target", n.Name))
	}
	changes, err := a.changeOrTry(ctx, callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_MoveLease{
		MoveLease: &catalogpb.MoveLease{Volume: v.Name, Node: n.Name}}}, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.MoveLeaseResponse{Lease: a.lease(a.d.catalog.State(), v), Changes: changes}), nil
}

// replicaStates are the words of the API.
var replicaStates = map[extmap.SyncState]string{extmap.InSync: "in-sync", extmap.Rebuilding: "rebuilding", extmap.OutOfSync: "out"}

// replicas is where the data of a volume is.
func replicas(s *catalog.State, v *catalog.Volume) []*blockdv1.Replica {
	at := func(d *catalog.Disk, state string) *blockdv1.Replica {
		r := &blockdv1.Replica{Disk: d.ID.String(), Number: uint32(d.Number), State: state}
		if n := s.NodeByID(d.Node); n != nil {
			r.Node = n.Name
		}
		return r
	}
	if !shared(s, v) {
		if d := s.DiskByID(v.Home); d != nil && !d.Node.IsZero() {
			return []*blockdv1.Replica{at(d, replicaStates[extmap.InSync])}
		}
		return nil
	}
	var out []*blockdv1.Replica
	for _, r := range s.Replicas(v.ID) {
		if d := s.DiskByID(r.DiskID); d != nil {
			out = append(out, at(d, replicaStates[r.Sync]))
		}
	}
	return out
}
