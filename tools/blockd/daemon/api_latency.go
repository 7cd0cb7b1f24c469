package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/replication/device"
	replicated "blockd.dev/replication/volume"
)

// GetVolumeLatency implements blockdv1connect.VolumeServiceHandler. The owner of a volume of several copies
// tells where the time goes, and each node that forwards to it what that took; of a volume of one copy
// the node that has it tells.
func (a api) GetVolumeLatency(ctx context.Context, req *connect.Request[blockdv1.GetVolumeLatencyRequest]) (*connect.Response[blockdv1.GetVolumeLatencyResponse], error) {
	s := a.d.catalog.State()
	v := s.Volume(req.Msg.GetName())
	if v == nil {
		return nil, noSuch("volume", req.Msg.GetName())
	}
	_, own := control.Own(req)
	if !shared(s, v) {
		return a.latencyAtHome(ctx, s, v, own)
	}
	told := []*blockdv1.GetVolumeLatencyResponse{a.latencyHere(s, v)}
	if own {
		return connect.NewResponse(told[0]), nil
	}
	var silent error
	if a.d.plane.peers != nil {
		l, _ := s.Lease(v.ID)
		for _, answer := range a.latencyAround(ctx, a.d.reachableNodes(s), v) {
			if answer.err == nil {
				told = append(told, answer.value)
			} else if answer.node.ID == l.Owner { // others may be of an older release, and don't own it
				silent = fmt.Errorf("node %s, which owns volume %q, does not say: %w", answer.node.Name, v.Name, answer.err)
			}
		}
	}
	out := slices.MaxFunc(told, func(x, y *blockdv1.GetVolumeLatencyResponse) int { return cmp.Compare(x.GetEpoch(), y.GetEpoch()) })
	if out.GetEpoch() == 0 {
		return nil, connect.NewError(connect.CodeUnavailable, cmp.Or(silent, fmt.Errorf("no node owns volume %q just now; `blockctl explain %s` says why", v.Name, v.Name)))
	}
	for _, r := range told {
		if r.GetEpoch() == 0 { // else it is the owner, or was and does not know yet that another is
			out.Stages = append(out.Stages, r.GetStages()...)
		}
	}
	return connect.NewResponse(out), nil
}

// latencyAround asks nodes for what they count themselves.
func (a api) latencyAround(ctx context.Context, nodes []catalog.Node, v *catalog.Volume) []peerAnswer[*blockdv1.GetVolumeLatencyResponse] {
	return askAround(ctx, a.d, nodes, func(ctx context.Context, p *control.Peer) (*blockdv1.GetVolumeLatencyResponse, error) {
		r, err := blockdv1connect.NewVolumeServiceClient(p, p.URL).GetVolumeLatency(ctx, connect.NewRequest(&blockdv1.GetVolumeLatencyRequest{Name: v.Name}))
		if err != nil {
			return nil, err
		}
		return r.Msg, nil
	})
}

// latencyHere is what this node counts of a volume of several copies: as the owner, and then the answer has
// an epoch, or as one that forwards.
func (a api) latencyHere(s *catalog.State, v *catalog.Volume) *blockdv1.GetVolumeLatencyResponse {
	out := &blockdv1.GetVolumeLatencyResponse{Volume: v.Name, Node: a.d.nodeName()}
	sharing := a.d.shared.Load()
	if sharing == nil {
		return out
	}
	open := sharing.sharedVolume(v.ID)
	if open == nil {
		return out
	}
	st := open.Status()
	if st.Owner {
		var disks []uint16
		if owned := open.owned.Load(); owned != nil && owned.epoch == st.Epoch {
			disks = owned.disks
		}
		out.Epoch, out.Stages = st.Epoch, ownerStages(s, a.d.nodeName(), &st, disks)
		return out
	}
	for _, f := range []latencyRow{{name: "read-forwarded", of: &st.Sent.Reads}, {name: "write-forwarded", of: &st.Sent.Writes}} {
		if f.of.Count > 0 {
			f.node = a.d.nodeName()
			out.Stages = append(out.Stages, f.stage())
		}
	}
	return out
}

// latencyRow is what has been counted of one stage.
type latencyRow struct {
	name, node, disk string
	of               *replicated.Latency
}

func (r latencyRow) stage() *blockdv1.LatencyStage {
	return &blockdv1.LatencyStage{Name: r.name, Node: r.node, Disk: r.disk, Count: r.of.Count, MeanMs: millis(r.of.Mean()),
		P50Ms: millis(r.of.Quantile(0.5)), P99Ms: millis(r.of.Quantile(0.99)), MaxMs: millis(r.of.Max)}
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ownerStages is what an owner has counted, in the order in which requests go through it. disks are those of
// its members, as far as they are known.
func ownerStages(s *catalog.State, node string, st *device.Status, disks []uint16) []*blockdv1.LatencyStage {
	o := &st.Volume
	var out []*blockdv1.LatencyStage
	add := func(rows ...latencyRow) {
		for _, r := range rows {
			if r.node == "" {
				r.node = node
			}
			out = append(out, r.stage())
		}
	}
	copies := func(name string, of func(*replicated.MemberStatus) *replicated.Latency) {
		for i := range min(len(o.Members), len(disks)) {
			r := latencyRow{name: name, of: of(&o.Members[i])}
			d := s.DiskByNumber(extmap.Disk(disks[i]))
			if d == nil || r.of.Count == 0 {
				continue
			}
			r.disk = diskName(s, d.ID)
			if n := s.NodeByID(d.Node); n != nil {
				r.node = n.Name
			}
			add(r)
		}
	}
	add(latencyRow{name: "read", of: &o.Reads}, latencyRow{name: "read-queue", of: &st.Queued.Reads}, latencyRow{name: "read-lock", of: &o.LockReads})
	copies("read-copy", func(m *replicated.MemberStatus) *replicated.Latency { return &m.Reads })
	copies("read-store", func(m *replicated.MemberStatus) *replicated.Latency { return &m.ReadsNode })
	add(latencyRow{name: "read-hedged", of: &o.Hedged},
		latencyRow{name: "write", of: &o.Writes}, latencyRow{name: "write-queue", of: &st.Queued.Writes}, latencyRow{name: "write-lock", of: &o.LockWrites})
	copies("write-copy", func(m *replicated.MemberStatus) *replicated.Latency { return &m.Writes })
	add(latencyRow{name: "write-other", of: &o.Others}, latencyRow{name: "write-other-store", of: &o.OtherNode},
		latencyRow{name: "lock", of: &o.Lock}, latencyRow{name: "copy", of: &o.Slow})
	return out
}

// latencyAtHome is of a volume of one copy: what its operations took in storage, and nothing of its parts.
func (a api) latencyAtHome(ctx context.Context, s *catalog.State, v *catalog.Volume, own bool) (*connect.Response[blockdv1.GetVolumeLatencyResponse], error) {
	if a.d.serves(s, v) {
		open, ok := a.d.volumes.get(v.ID)
		if !ok || open.dev == nil {
			return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("volume %q is not open on this node; `blockctl explain %s` says why", v.Name, v.Name))
		}
		return connect.NewResponse(&blockdv1.GetVolumeLatencyResponse{Volume: v.Name, Node: a.d.nodeName(), Stages: open.dev.stages(a.d.nodeName())}), nil
	}
	home := s.NodeOfVolume(v)
	if own || home == nil || a.d.plane.peers == nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("no node is known to have volume %q; `blockctl explain %s` says why", v.Name, v.Name))
	}
	answer := a.latencyAround(ctx, []catalog.Node{*home}, v)[0]
	if answer.err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("node %s, which has volume %q, does not say: %w", home.Name, v.Name, answer.err))
	}
	return connect.NewResponse(answer.value), nil
}

// stages is what the operations of a volume took: their number is that of all, their times are those of one use
// in eight of a request's struct, by powers of two.
func (m *meter) stages(node string) []*blockdv1.LatencyStage {
	var out []*blockdv1.LatencyStage
	for op := blockdev.OpRead; op < blockdev.OpPoison; op++ {
		s := &m.ops[op]
		count := s.ops.Load()
		if count == 0 && op != blockdev.OpRead && op != blockdev.OpWrite {
			continue
		}
		var buckets [latencyBuckets + 1]uint64
		timed := uint64(0)
		for i := range buckets {
			buckets[i] = s.buckets[i].Load()
			timed += buckets[i]
		}
		stage := &blockdv1.LatencyStage{Name: op.String(), Node: node, Count: count,
			P50Ms: boundAt(&buckets, timed, 0.5), P99Ms: boundAt(&buckets, timed, 0.99), MaxMs: boundAt(&buckets, timed, 1)}
		if timed > 0 {
			stage.MeanMs = millis(time.Duration(s.nanos.Load() / timed))
		}
		out = append(out, stage)
	}
	return out
}

// boundAt is the upper bound of the bucket in which the share q of n comes to its end, in milliseconds.
func boundAt(buckets *[latencyBuckets + 1]uint64, n uint64, q float64) float64 {
	if n == 0 {
		return 0
	}
	left := min(uint64(q*float64(n)), n-1)
	for i, in := range buckets {
		if left < in {
			return millis(1 << (latencyShift + i))
		}
		left -= in
	}
	return 0
}
