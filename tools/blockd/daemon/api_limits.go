package daemon

import (
	"context"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

func limitsMessage(l catalog.Limits) *blockdv1.Limits {
	if l.IsZero() {
		return nil
	}
	return &blockdv1.Limits{Iops: l.IOPS, BytesPerSecond: l.BytesPerSecond, BurstSeconds: l.BurstSeconds}
}

// limitsAsked are those of a new volume.
func limitsAsked(l *blockdv1.Limits) *catalogpb.Limits {
	if l.GetIops() == 0 && l.GetBytesPerSecond() == 0 && l.GetBurstSeconds() == 0 {
		return nil // so that nodes of an earlier release take the volume
	}
	return &catalogpb.Limits{Iops: l.GetIops(), BytesPerSecond: l.GetBytesPerSecond(), BurstSeconds: l.GetBurstSeconds()}
}

// SetVolumeLimits implements blockdv1connect.VolumeServiceHandler.
func (a api) SetVolumeLimits(ctx context.Context, req *connect.Request[blockdv1.SetVolumeLimitsRequest]) (*connect.Response[blockdv1.SetVolumeLimitsResponse], error) {
	m := req.Msg
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_SetVolumeLimits{SetVolumeLimits: &catalogpb.SetVolumeLimits{
		Name: m.GetName(), Iops: m.Iops, BytesPerSecond: m.BytesPerSecond, BurstSeconds: m.BurstSeconds}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.SetVolumeLimitsResponse{Changes: changes}, err)
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	v, err := a.servedVolume(ctx, req, m.GetName(), res.Revision, "limited")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.SetVolumeLimitsResponse{Volume: v}), nil
}
