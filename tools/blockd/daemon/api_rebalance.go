package daemon

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/extmap"
)

// Rebalance implements blockdv1connect.JobServiceHandler.
func (a api) Rebalance(ctx context.Context, req *connect.Request[blockdv1.RebalanceRequest]) (*connect.Response[blockdv1.RebalanceResponse], error) {
	m := req.Msg
	changes, job, err := a.beginJob(ctx, callerOf(ctx, req, m.GetRequestId()), &catalogpb.CreateJob{Kind: director.JobRebalance, Subject: director.RebalanceSubject}, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	if m.GetDryRun() {
		changes = append(changes, a.rebalanceChanges()...)
	}
	return connect.NewResponse(&blockdv1.RebalanceResponse{Changes: changes, Job: job}), nil
}

// rebalanceChanges says what a rebalance would move.
func (a api) rebalanceChanges() (words []string) {
	s, shared := a.d.catalog.State(), a.d.shared.Load()
	name := func(number extmap.Disk) string { return diskName(s, s.DiskByNumber(number).ID) }
	plan := director.PlanRebalance(s, func(node string) bool { return shared.reachable(parseID(node)) })
	for _, m := range plan {
		words = append(words, fmt.Sprintf("%s move from disk %s to disk %s, %s at most", countOf(m.Extents, "extent"), name(m.From), name(m.To),
			units.FormatBytes(int64(m.Extents)*extmap.ShardBytes)))
	}
	if len(plan) == 0 {
		words = append(words, "nothing moves: all disks have their share, as far as failure domains allow")
	}
	return words
}
