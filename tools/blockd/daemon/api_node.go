package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	"blockd.dev/target/iscsi"
)

// volumeState is the state of a volume in a word, and why it is not online.
func (d *Daemon) volumeState(cv *catalog.Volume) (state, reason string) {
	v, ok := d.volumes.get(cv.ID)
	if ok && v.err != nil {
		reason = v.err.Error()
	}
	switch {
	case cv.Retired:
		return "deleting", reason
	case !ok:
		return "failed", "it is not open yet"
	case v.dev == nil || v.unseen:
		return "failed", reason
	}
	if _, ok := v.backing().(*sharedVolume); ok && v.err == nil {
		return d.sharedState(cv)
	}
	if disk := d.diskOf(cv); disk != nil {
		if st := disk.store.Stats(); st.Failure != "" {
			return "failed", fmt.Sprintf("disk %s: %s", disk.path, st.Failure)
		}
	}
	if v.dev.Geometry().ReadOnly {
		return "read-only", reason
	}
	return "online", reason
}

// sharedState is the state of a volume of several copies, wherever its owner is.
func (d *Daemon) sharedState(cv *catalog.Volume) (state, reason string) {
	e, ok := director.Explain(d.catalog.State(), d.shared.Load().views(), cv.ID, d.cfg.RebuildAfter)
	if !ok || e.State == director.Healthy {
		return "online", ""
	}
	return string(e.State), strings.Join(e.Because, "; ")
}

// sessions lists the iSCSI sessions.
func (d *Daemon) sessions() []iscsi.SessionInfo {
	if d.iscsi == nil {
		return nil
	}
	return d.iscsi.Sessions()
}

func (d *Daemon) nodeState() string {
	switch {
	case d.stopping.Load():
		return "stopping"
	case !d.healthy():
		return "degraded"
	case !d.ready.Load():
		return "starting"
	}
	return "ready"
}

// healthy reports whether catalog, disk and every volume work.
func (d *Daemon) healthy() bool {
	for _, f := range d.diagnose() {
		if f.GetLevel() == string(levelError) {
			return false
		}
	}
	return true
}

// node is this node.
func (a api) node(s *catalog.State) *blockdv1.Node {
	out := &blockdv1.Node{
		Name: a.d.nodeName(), Id: a.d.plane.self.ID, Roles: a.d.cfg.Roles, State: a.d.nodeState(), Version: Version(),
		Started: timeText(a.d.started), IscsiPortals: a.d.ISCSIAddresses(), ApiAddress: a.d.APIAddress(),
		Iqn: s.IQN, Nqn: s.NQN, Media: string(a.d.cfg.Media)}
	if c := a.d.plane.creds; c != nil {
		out.CertificateExpires = timeText(c.Certificate().NotAfter)
	}
	return out
}

// ListNodes implements blockdv1connect.NodeServiceHandler.
func (a api) ListNodes(ctx context.Context, req *connect.Request[blockdv1.ListNodesRequest]) (*connect.Response[blockdv1.ListNodesResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListNodesResponse{Nodes: []*blockdv1.Node{a.node(s)}}
	for _, n := range askAround(ctx, a.d, a.others(s, req), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Node, error) {
		r, err := blockdv1connect.NewNodeServiceClient(p, p.URL).ListNodes(ctx, connect.NewRequest(&blockdv1.ListNodesRequest{}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetNodes(), nil
	}) {
		if n.err != nil {
			n.value = []*blockdv1.Node{{Name: n.node.Name, Id: n.node.ID.String(), Roles: n.node.Roles, State: "unreachable",
				Version: n.node.Release, ApiAddress: n.node.Address, Iqn: s.IQN, Nqn: s.NQN}}
		}
		out.Nodes = append(out.Nodes, n.value...)
	}
	slices.SortFunc(out.Nodes, func(a, b *blockdv1.Node) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return connect.NewResponse(out), nil
}

// disks are those of this node.
func (a api) disks() []*blockdv1.Disk {
	var out []*blockdv1.Disk
	for _, st := range a.d.disks {
		s, scrub := st.store.Stats(), st.scrub.get()
		out = append(out, &blockdv1.Disk{Name: diskName(a.d.catalog.State(), catalog.ID(s.UUID)), Path: st.path, State: s.State.String(), Reason: s.Failure,
			Driver: s.Disk.Driver, Direct: s.Disk.Direct, DriverReason: s.Disk.Reason, CapacityBytes: s.CapacityBytes,
			UsedBytes: s.UsedBytes, LogBytes: s.LogBytes, LogUsedBytes: s.LogUsedBytes,
			WriteAmplification: s.WriteAmplification(), Checkpoints: uint64(s.Checkpoints), Uuid: catalog.ID(s.UUID).String(),
			Scrub: &blockdv1.Scrub{Running: scrub.running, Bytes: scrub.bytes, Errors: scrub.errors, Rounds: scrub.rounds,
				LastFinished: timeText(scrub.lastFinished), LastError: scrub.lastError}})
	}
	for _, lost := range a.d.lostDisks {
		out = append(out, &blockdv1.Disk{Name: diskName(a.d.catalog.State(), lost.disk.ID), Path: lost.disk.Path, State: "failed",
			Reason: lost.reason, CapacityBytes: lost.disk.CapacityBytes, Uuid: lost.disk.ID.String()})
	}
	for _, d := range out {
		a.placeDisk(d)
	}
	return out
}

// ListDisks implements blockdv1connect.NodeServiceHandler.
func (a api) ListDisks(ctx context.Context, req *connect.Request[blockdv1.ListDisksRequest]) (*connect.Response[blockdv1.ListDisksResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListDisksResponse{Disks: a.disks()}
	for _, n := range askAround(ctx, a.d, a.others(s, req), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Disk, error) {
		r, err := blockdv1connect.NewNodeServiceClient(p, p.URL).ListDisks(ctx, connect.NewRequest(&blockdv1.ListDisksRequest{}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetDisks(), nil
	}) {
		if n.err != nil {
			n.value = unheardDisks(s, &n.node, n.err)
		}
		out.Disks = append(out.Disks, n.value...)
	}
	slices.SortStableFunc(out.Disks, func(a, b *blockdv1.Disk) int { return cmp.Compare(a.GetName(), b.GetName()) })
	return connect.NewResponse(out), nil
}

// unheardDisks are a node's disks as the catalog knows them.
func unheardDisks(s *catalog.State, n *catalog.Node, err error) []*blockdv1.Disk {
	var out []*blockdv1.Disk
	for i := range s.Disks {
		if d := &s.Disks[i]; d.Node == n.ID {
			out = append(out, &blockdv1.Disk{Name: diskName(s, d.ID), Path: d.Path, State: "unknown", CapacityBytes: d.CapacityBytes,
				Reason: reasonOfDisk(s, d, fmt.Sprintf("node %s does not answer: %v", n.Name, err)), Uuid: d.ID.String(), Node: n.Name, Service: string(d.State), Extents: s.Map().Used(d.Number)})
		}
	}
	return out
}

// ListSessions implements blockdv1connect.NodeServiceHandler.
func (a api) ListSessions(ctx context.Context, req *connect.Request[blockdv1.ListSessionsRequest]) (*connect.Response[blockdv1.ListSessionsResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListSessionsResponse{}
	for _, i := range a.d.sessions() {
		e := &blockdv1.Session{Id: fmt.Sprint(i.TSIH), Protocol: "iscsi", Initiator: i.Initiator,
			RemoteAddress: i.Remote.String(), LocalAddress: i.Local.String(), Since: timeText(i.Since),
			Commands: uint32(i.Stats.InFlight), Parameters: sessionParameters(&i)}
		if h := s.HostByIQN(i.Initiator); h != nil {
			e.Host = h.Name
		}
		out.Sessions = append(out.Sessions, e)
	}
	out.Sessions = append(out.Sessions, a.d.nvmeSessions(s)...)
	for _, n := range askAround(ctx, a.d, a.others(s, req), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Session, error) {
		r, err := blockdv1connect.NewNodeServiceClient(p, p.URL).ListSessions(ctx, connect.NewRequest(&blockdv1.ListSessionsRequest{}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetSessions(), nil
	}) {
		out.Sessions = append(out.Sessions, n.value...) // those of a silent node end anyway
	}
	return connect.NewResponse(out), nil
}

// Diagnose implements blockdv1connect.NodeServiceHandler.
func (a api) Diagnose(ctx context.Context, req *connect.Request[blockdv1.DiagnoseRequest]) (*connect.Response[blockdv1.DiagnoseResponse], error) {
	out := append(a.d.diagnose(), a.d.diagnoseNetwork()...)
	for _, n := range askAround(ctx, a.d, a.others(a.d.catalog.State(), req), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Finding, error) {
		r, err := blockdv1connect.NewNodeServiceClient(p, p.URL).Diagnose(ctx, connect.NewRequest(&blockdv1.DiagnoseRequest{}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetFindings(), nil
	}) {
		if n.err != nil {
			out = append(out, &blockdv1.Finding{Level: string(levelError), Subject: "node " + n.node.Name, Message: fmt.Sprintf("it does not answer: %v", n.err),
				Advice: "see whether it runs, and whether its address " + n.node.Address + " can be reached from node " + a.d.nodeName()})
		}
		for _, f := range n.value {
			f.Subject = n.node.Name + ": " + f.GetSubject()
			out = append(out, f)
		}
	}
	return connect.NewResponse(&blockdv1.DiagnoseResponse{Findings: out}), nil
}

// WatchEvents implements blockdv1connect.EventServiceHandler.
func (a api) WatchEvents(ctx context.Context, req *connect.Request[blockdv1.WatchEventsRequest], stream *connect.ServerStream[blockdv1.WatchEventsResponse]) error {
	return a.d.events.follow(ctx, req.Msg.GetFollow(), func(e event) error {
		return stream.Send(&blockdv1.WatchEventsResponse{Event: &blockdv1.Event{Sequence: e.seq, Time: timeText(e.time),
			Level: string(e.level), Kind: e.kind, Subject: e.subject, Message: e.message}})
	})
}

// ListAudit implements blockdv1connect.EventServiceHandler.
func (a api) ListAudit(context.Context, *connect.Request[blockdv1.ListAuditRequest]) (*connect.Response[blockdv1.ListAuditResponse], error) {
	out := &blockdv1.ListAuditResponse{}
	for _, e := range a.d.catalog.State().Audits {
		out.Entries = append(out.Entries, &blockdv1.AuditEntry{Revision: e.Revision, Time: timeText(e.Time), Actor: e.Actor,
			Action: e.Action, Subject: e.Subject, Detail: e.Detail, Source: e.Source, Refused: e.Refused})
	}
	return connect.NewResponse(out), nil
}
