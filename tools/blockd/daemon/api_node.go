package daemon

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
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
	case v.dev == nil:
		return "failed", reason
	}
	if v.media == catalog.MediaDisk && d.storage != nil {
		if st := d.storage.store.Stats(); st.Failure != "" {
			return "failed", fmt.Sprintf("disk %s: %s", d.storage.path, st.Failure)
		}
	}
	if v.dev.Geometry().ReadOnly {
		return "read-only", reason
	}
	return "online", reason
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

// ListNodes implements blockdv1connect.NodeServiceHandler.
func (a api) ListNodes(context.Context, *connect.Request[blockdv1.ListNodesRequest]) (*connect.Response[blockdv1.ListNodesResponse], error) {
	s := a.d.catalog.State()
	return connect.NewResponse(&blockdv1.ListNodesResponse{Nodes: []*blockdv1.Node{{
		Name: a.d.nodeName(), Id: s.ClusterID.String(), Roles: a.d.cfg.Roles, State: a.d.nodeState(), Version: Version(),
		Started: timeText(a.d.started), IscsiPortals: a.d.ISCSIAddresses(), ApiAddress: a.d.APIAddress(),
		Iqn: s.IQN, Nqn: s.NQN, Media: string(a.d.cfg.Media)}}}), nil
}

// ListDisks implements blockdv1connect.NodeServiceHandler.
func (a api) ListDisks(context.Context, *connect.Request[blockdv1.ListDisksRequest]) (*connect.Response[blockdv1.ListDisksResponse], error) {
	out := &blockdv1.ListDisksResponse{}
	if st := a.d.storage; st != nil {
		s := st.store.Stats()
		scrub := st.scrub.get()
		out.Disks = append(out.Disks, &blockdv1.Disk{Name: "disk0", Path: st.path, State: s.State.String(), Reason: s.Failure,
			Driver: s.Disk.Driver, Direct: s.Disk.Direct, DriverReason: s.Disk.Reason, CapacityBytes: s.CapacityBytes,
			UsedBytes: s.UsedBytes, LogBytes: s.LogBytes, LogUsedBytes: s.LogUsedBytes,
			WriteAmplification: s.WriteAmplification(), Checkpoints: uint64(s.Checkpoints), Uuid: catalog.ID(s.UUID).String(),
			Scrub: &blockdv1.Scrub{Running: scrub.running, Bytes: scrub.bytes, Errors: scrub.errors, Rounds: scrub.rounds,
				LastFinished: timeText(scrub.lastFinished), LastError: scrub.lastError}})
	}
	return connect.NewResponse(out), nil
}

// ListSessions implements blockdv1connect.NodeServiceHandler.
func (a api) ListSessions(context.Context, *connect.Request[blockdv1.ListSessionsRequest]) (*connect.Response[blockdv1.ListSessionsResponse], error) {
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
	return connect.NewResponse(out), nil
}

// Diagnose implements blockdv1connect.NodeServiceHandler.
func (a api) Diagnose(context.Context, *connect.Request[blockdv1.DiagnoseRequest]) (*connect.Response[blockdv1.DiagnoseResponse], error) {
	return connect.NewResponse(&blockdv1.DiagnoseResponse{Findings: append(a.d.diagnose(), diagnoseNetwork()...)}), nil
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
			Action: e.Action, Subject: e.Subject, Detail: e.Detail})
	}
	return connect.NewResponse(out), nil
}
