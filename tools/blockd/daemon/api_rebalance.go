package daemon

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
)

// Rebalance implements blockdv1connect.JobServiceHandler.
func (a api) Rebalance(ctx context.Context, req *connect.Request[blockdv1.RebalanceRequest]) (*connect.Response[blockdv1.RebalanceResponse], error) {
	m := req.Msg
	id := newID()
	by := callerOf(ctx, req, m.GetRequestId())
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_CreateJob{CreateJob: &catalogpb.CreateJob{Id: id[:], Kind: director.JobRebalance, Subject: director.RebalanceSubject}}}
	if m.GetDryRun() {
		changes, err := a.changeOrTry(ctx, by, cmd, true)
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&blockdv1.RebalanceResponse{Changes: append(changes, a.rebalanceChanges()...)}), nil
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	out := &blockdv1.RebalanceResponse{Changes: []string{changeText(res.Audit)}}
	s := a.d.catalog.State()
	if j := s.Job(res.ID); j != nil {
		out.Job = jobMessage(s, j)
	}
	return connect.NewResponse(out), nil
}

// rebalanceChanges says what a rebalance would move.
func (a api) rebalanceChanges() (words []string) {
	s, shared := a.d.catalog.State(), a.d.shared.Load()
	plan := director.PlanRebalance(s, func(node string) bool { return shared.reachable(parseID(node)) })
	for _, m := range plan {
		words = append(words, fmt.Sprintf("%s move from disk %s to disk %s, %s at most", countOf(m.Extents, "extent"), nameOfDisk(s, m.From), nameOfDisk(s, m.To),
			units.FormatBytes(int64(m.Extents)*extmap.ShardBytes)))
	}
	if len(plan) == 0 {
		words = append(words, "nothing moves: all disks have their share, as far as failure domains allow")
	}
	return words
}

// nameOfDisk is a disk as `disk list` calls it.
func nameOfDisk(s *catalog.State, number extmap.Disk) string {
	d := s.DiskByNumber(number)
	if n := s.NodeByID(d.Node); n != nil {
		return n.Name + "/" + diskNameIn(s, d.ID)
	}
	return diskNameIn(s, d.ID)
}
