package daemon

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	replicated "blockd.dev/replication/volume"
)

// ExplainVolume implements blockdv1connect.ExplainServiceHandler.
func (a api) ExplainVolume(ctx context.Context, req *connect.Request[blockdv1.ExplainVolumeRequest]) (*connect.Response[blockdv1.ExplainVolumeResponse], error) {
	s := a.d.catalog.State()
	v := s.Volume(req.Msg.GetName())
	if v == nil {
		return nil, noSuch("volume", req.Msg.GetName())
	}
	e := director.Explanation{State: director.Healthy, Because: []string{"it has one copy, on this node, which serves it"}}
	if a.d.shared.Load() != nil {
		e, _ = director.Explain(s, a.d.shared.Load().views(), v.ID)
	}
	if !shared(s, v) && !v.Retired {
		addServed(&e, s.DiskByID(v.Home), a.volumeNow(ctx, req, s, v, 0))
	}
	return connect.NewResponse(&blockdv1.ExplainVolumeResponse{Name: v.Name, State: string(e.State), Because: e.Because, Next: e.Next, Advice: e.Advice}), nil
}

// addServed adds what the node and the disk of a volume of one copy say of it.
func addServed(e *director.Explanation, d *catalog.Disk, v *blockdv1.Volume) {
	if d != nil && d.State == catalog.DiskFailed {
		e.State = director.Stuck
		e.Because = append(e.Because, fmt.Sprintf("the disk that it is on, %s, has failed: %s", d.ID, d.Reason))
	}
	switch v.GetState() {
	case "online", "unknown": // unknown: its node is away, which was said
	case "read-only":
		if e.State == director.Healthy {
			e.State = director.Degraded
		}
		e.Because = append(e.Because, "hosts can read it and not write it: "+v.GetReason())
		e.Advice = append(e.Advice, "see `blockctl doctor`")
	default:
		e.State = director.Stuck
		e.Because = append(e.Because, fmt.Sprintf("it is %s: %s", v.GetState(), v.GetReason()))
		e.Advice = append(e.Advice, "see `blockctl doctor`")
	}
}

// GetVolumeLatency implements blockdv1connect.VolumeServiceHandler: the owner's node tells.
func (a api) GetVolumeLatency(ctx context.Context, req *connect.Request[blockdv1.GetVolumeLatencyRequest]) (*connect.Response[blockdv1.GetVolumeLatencyResponse], error) {
	s := a.d.catalog.State()
	v := s.Volume(req.Msg.GetName())
	switch {
	case v == nil:
		return nil, noSuch("volume", req.Msg.GetName())
	case !shared(s, v):
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("volume %q has one copy, and no stages that are counted; `blockctl top` shows its mean time in storage", v.Name))
	}
	if a.d.shared.Load() != nil {
		if open := a.d.shared.Load().sharedVolume(v.ID); open != nil {
			if st := open.Status(); st.Owner {
				return connect.NewResponse(a.latency(v, st.Epoch, &st.Volume)), nil
			}
		}
	}
	l, _ := s.Lease(v.ID)
	owner := s.NodeByID(l.Owner)
	if _, own := control.Own(req); own || owner == nil || owner.ID == a.d.plane.id() || a.d.plane.peers == nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("no node owns volume %q just now; `blockctl explain %s` says why", v.Name, v.Name))
	}
	answer := askAround(ctx, a.d, []catalog.Node{*owner}, func(ctx context.Context, p *control.Peer) (*blockdv1.GetVolumeLatencyResponse, error) {
		r, err := blockdv1connect.NewVolumeServiceClient(p, p.URL).GetVolumeLatency(ctx, connect.NewRequest(req.Msg))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	})[0]
	if answer.err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("node %s, which owns volume %q, does not say: %w", owner.Name, v.Name, answer.err))
	}
	return connect.NewResponse(answer.value), nil
}

// latency is what the owner has counted, stage by stage.
func (a api) latency(v *catalog.Volume, epoch uint64, st *replicated.Status) *blockdv1.GetVolumeLatencyResponse {
	out := &blockdv1.GetVolumeLatencyResponse{Volume: v.Name, Node: a.d.nodeName(), Epoch: epoch}
	millis := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	for _, stage := range []struct {
		name string
		of   *replicated.Latency
	}{{"read", &st.Reads}, {"write", &st.Writes}, {"lock", &st.Lock}, {"copy", &st.Slow}} {
		out.Stages = append(out.Stages, &blockdv1.LatencyStage{Name: stage.name, Count: stage.of.Count, MeanMs: millis(stage.of.Mean()),
			P50Ms: millis(stage.of.Quantile(0.5)), P99Ms: millis(stage.of.Quantile(0.99)), MaxMs: millis(stage.of.Max)})
	}
	return out
}
