package daemon

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/director"
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
		e, _ = director.Explain(s, a.d.shared.Load().views(), v.ID, a.d.cfg.RebuildAfter)
	}
	if shared(s, v) {
		told := a.toldByOwner(ctx, req, s, v)
		e.Because = append(e.Because, resyncWords(told)...)
		addUnproven(&e, s, v, told)
		a.d.shared.Load().addObstacles(&e, s, v, told)
	} else if !v.Retired {
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
