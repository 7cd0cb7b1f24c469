package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// fake is a control API that answers the same to everybody, and keeps what it
// was asked. What it does not implement answers "unimplemented".
type fake struct {
	blockdv1connect.UnimplementedVolumeServiceHandler
	blockdv1connect.UnimplementedPoolServiceHandler
	blockdv1connect.UnimplementedHostServiceHandler
	blockdv1connect.UnimplementedMappingServiceHandler
	blockdv1connect.UnimplementedNodeServiceHandler
	blockdv1connect.UnimplementedEventServiceHandler
	blockdv1connect.UnimplementedClusterServiceHandler
	blockdv1connect.UnimplementedMembershipServiceHandler
	blockdv1connect.UnimplementedJobServiceHandler
	blockdv1connect.UnimplementedLeaseServiceHandler
	blockdv1connect.UnimplementedExplainServiceHandler

	mu      sync.Mutex
	asked   []connect.AnyRequest
	fail    error      // what every call answers, if set
	streams [][]uint64 // the events of each watch to come, by sequence; then all
	scrapes int
	issue   func(*blockdv1.IssueClientCertificateRequest) *blockdv1.IssueClientCertificateResponse
	init    *blockdv1.InitClusterResponse
	cluster *blockdv1.Cluster // theCluster unless it is set
	meet    chan struct{}     // if set, a scrape waits for another one
	jobs    []*blockdv1.Job   // what looks at a job see, one after the other; then drainJob
}

const when = "2026-03-04T05:06:07Z"

var (
	db1 = &blockdv1.Volume{Name: "db1", Id: "4ab6e09ede2a404086df5c9d4e9d4a34", SizeBytes: 10 << 30, UsedBytes: 3 << 29, BlockSize: 512,
		Iqn: "iqn.2026-01.dev.blockd:e5b131bdd7ad", Nqn: "nqn.2014-08.org.nvmexpress:uuid:e5b131bd-d7ad-48c0-b3fa-ba94cd8929f0", Nsid: 1,
		Uuid: "4ab6e09e-de2a-4040-86df-5c9d4e9d4a34", Pool: "default", State: "online", Created: when, Protection: "none", Access: "optimized", Node: "n2", Epoch: 4, MovingTo: "n1", Limits: &blockdv1.Limits{Iops: 5000, BytesPerSecond: 200 << 20, BurstSeconds: 30},
		Replicas: []*blockdv1.Replica{{Disk: "ccb6e09ede2a404086df5c9d4e9d4a34", Number: 1, Node: "n1", State: "in-sync"}, {Disk: "ddb6e09ede2a404086df5c9d4e9d4a34", Number: 2, Node: "n2", State: "rebuilding",
			Resync:   &blockdv1.Resync{Since: when, RegionsTotal: 65536, RegionsLeft: 24576, BytesTotal: 1 << 32, BytesLeft: 3 << 29, BytesPerSecond: 80 << 20, EstimatedEnd: "2026-03-04T05:06:27Z"},
			Obstacle: &blockdv1.Obstacle{What: "slow", Now: true, Times: 1, Since: when, TookMs: 350, OthersMs: 9}}},
		Mappings: []*blockdv1.Mapping{{Volume: "db1", Host: "web1"}, {Volume: "db1", Host: "web2", Lun: 7}}}
	logs = &blockdv1.Volume{Name: "logs-of-the-web-servers-in-the-east", Id: "00b6e09ede2a404086df5c9d4e9d4a35", SizeBytes: 1 << 40, BlockSize: 4096, Lun: 1,
		Iqn: db1.Iqn, Nqn: db1.Nqn, Nsid: 2, Uuid: "00b6e09e-de2a-4040-86df-5c9d4e9d4a35", Pool: "archive", State: "failed",
		Reason: "the disk is gone", Created: when, Protection: "permanent", Access: "inaccessible"}
	pool = &blockdv1.Pool{Name: "default", Id: "aab6e09ede2a404086df5c9d4e9d4a34", Replicas: 1, MinInSync: 1, Domain: "host", Media: "disk", Volumes: 2, ProvisionedBytes: 11 << 30, UsedBytes: 3 << 29, CapacityBytes: 16 << 30, Created: when}
	web1 = &blockdv1.Host{Name: "web1", Id: "bbb6e09ede2a404086df5c9d4e9d4a34", Iqn: "iqn.1993-08.org.debian:01:4b2f", ChapUser: "web1", MutualChapUser: "target",
		Created: when, Mappings: []*blockdv1.Mapping{{Volume: "db1", Host: "web1"}}, Sessions: 2, Dhchap: true}
	members = []*blockdv1.Member{
		{Name: "n1", Id: "f2a3e4dfb06648e8bd868e68e9604f36", Address: "10.0.0.1:7480", Suffrage: "voter", State: "up", Leader: true, Labels: map[string]string{"zone": "east", "rack": "r1"},
			Roles: []string{"meta", "store"}, Version: "1.2.3", Service: "draining", AppliedIndex: 1234},
		{Name: "n2", Id: "8f4efeaccfd24ef9b07202285499a841", Address: "10.0.0.2:7480", Suffrage: "voter", State: "down", Reason: "silent for 12s; the leader has sent it heartbeats at 10.0.0.2:7480 in vain",
			Roles: []string{"meta"}, Version: "1.2.3", AppliedIndex: 1200, LastHeard: when},
	}
	theCluster = &blockdv1.Cluster{Name: "prod", Id: "e98383ed463b47ae8715b277078bf14e", State: "degraded", Reason: "1 of 2 voters are up", Leader: "n1", Term: 3,
		Revision: 77, Members: members, FormatVersion: 1, FormatVersionSupported: 2, Incarnation: 1}
)

// start serves f on a listener and returns its address.
func (f *fake) start(t *testing.T, l net.Listener) string {
	t.Helper()
	mux := http.NewServeMux()
	with := connect.WithInterceptors(f)
	mux.Handle(blockdv1connect.NewVolumeServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewPoolServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewHostServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewMappingServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewNodeServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewEventServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewClusterServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewMembershipServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewJobServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewLeaseServiceHandler(f, with))
	mux.Handle(blockdv1connect.NewExplainServiceHandler(f, with))
	mux.HandleFunc("GET /metrics", f.metrics)
	s := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return l.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (f *fake) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		f.mu.Lock()
		f.asked = append(f.asked, req)
		err := f.fail
		f.mu.Unlock()
		if err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

func (f *fake) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (f *fake) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// metrics answers as a node that does 100 reads of 4 KiB, each 2 ms long, and
// one write between two scrapes.
func (f *fake) metrics(w http.ResponseWriter, r *http.Request) {
	if f.meet != nil {
		select {
		case f.meet <- struct{}{}:
		case <-f.meet:
		case <-r.Context().Done():
			return
		}
	}
	f.mu.Lock()
	f.scrapes++
	n := f.scrapes
	f.mu.Unlock()
	fmt.Fprintf(w, "# TYPE blockd_volume_ops_total counter\ngo_threads 7\nblockd_iscsi_sessions 2\nblockd_nvme_controllers{type=\"nvm\"} 1\nblockd_nvme_controllers{type=\"discovery\"} 9\n")
	for _, s := range []struct {
		name, op string
		each     float64
	}{{"ops_total", "read", 100}, {"bytes_total", "read", 409600}, {"latency_seconds_sum", "read", 0.02}, {"latency_seconds_count", "read", 10}, {"ops_total", "write", 1}, {"ops_total", "flush", 1000}} {
		fmt.Fprintf(w, "blockd_volume_%s{op=%q,volume=\"db1\"} %g\n", s.name, s.op, 1e6+float64(n)*s.each)
	}
}

func respond[T any](m *T) (*connect.Response[T], error) { return connect.NewResponse(m), nil }

func missing(name string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no volume %q", name))
}

func (f *fake) CreateVolume(_ context.Context, r *connect.Request[blockdv1.CreateVolumeRequest]) (*connect.Response[blockdv1.CreateVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.CreateVolumeResponse{Changes: []string{"volume.create " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.CreateVolumeResponse{Volume: db1})
}

func (f *fake) ListVolumes(context.Context, *connect.Request[blockdv1.ListVolumesRequest]) (*connect.Response[blockdv1.ListVolumesResponse], error) {
	return respond(&blockdv1.ListVolumesResponse{Volumes: []*blockdv1.Volume{db1, logs}})
}

func (f *fake) GetVolume(_ context.Context, r *connect.Request[blockdv1.GetVolumeRequest]) (*connect.Response[blockdv1.GetVolumeResponse], error) {
	if r.Msg.GetName() != "db1" {
		return nil, missing(r.Msg.GetName())
	}
	return respond(&blockdv1.GetVolumeResponse{Volume: db1})
}

func (f *fake) ResizeVolume(_ context.Context, r *connect.Request[blockdv1.ResizeVolumeRequest]) (*connect.Response[blockdv1.ResizeVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.ResizeVolumeResponse{Changes: []string{"ResizeVolume " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.ResizeVolumeResponse{Volume: db1})
}

func (f *fake) SetVolumeLimits(_ context.Context, r *connect.Request[blockdv1.SetVolumeLimitsRequest]) (*connect.Response[blockdv1.SetVolumeLimitsResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.SetVolumeLimitsResponse{Changes: []string{fmt.Sprintf("SetVolumeLimits %s: %d, %d, %d", r.Msg.GetName(), r.Msg.GetIops(), r.Msg.GetBytesPerSecond(), r.Msg.GetBurstSeconds())}})
	}
	return respond(&blockdv1.SetVolumeLimitsResponse{Volume: db1})
}

func (f *fake) ProtectVolume(_ context.Context, r *connect.Request[blockdv1.ProtectVolumeRequest]) (*connect.Response[blockdv1.ProtectVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.ProtectVolumeResponse{Changes: []string{"ProtectVolume " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.ProtectVolumeResponse{Volume: logs})
}

func (f *fake) TrustVolume(_ context.Context, r *connect.Request[blockdv1.TrustVolumeRequest]) (*connect.Response[blockdv1.TrustVolumeResponse], error) {
	return respond(&blockdv1.TrustVolumeResponse{Changes: []string{"disk n1/disk0 is taken at its word", "what only disk n2/disk0 had is lost"}})
}

func (f *fake) DeleteVolume(_ context.Context, r *connect.Request[blockdv1.DeleteVolumeRequest]) (*connect.Response[blockdv1.DeleteVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.DeleteVolumeResponse{Changes: []string{"DeleteVolume " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.DeleteVolumeResponse{})
}

func (f *fake) CreatePool(_ context.Context, req *connect.Request[blockdv1.CreatePoolRequest]) (*connect.Response[blockdv1.CreatePoolResponse], error) {
	switch {
	case req.Msg.GetDryRun():
		return respond(&blockdv1.CreatePoolResponse{Changes: []string{"pool.create " + req.Msg.GetName() + " across " + req.Msg.GetDomain() + "s"}})
	case req.Msg.GetEc() != "":
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("erasure coding %s: no node can serve it", req.Msg.GetEc()))
	}
	p := proto.CloneOf(pool)
	p.Name, p.Replicas, p.MinInSync = req.Msg.GetName(), req.Msg.GetReplicas(), cmp.Or(req.Msg.GetMinInSync(), 1)
	return respond(&blockdv1.CreatePoolResponse{Pool: p})
}

func (f *fake) ListPools(context.Context, *connect.Request[blockdv1.ListPoolsRequest]) (*connect.Response[blockdv1.ListPoolsResponse], error) {
	return respond(&blockdv1.ListPoolsResponse{Pools: []*blockdv1.Pool{pool}})
}

func (f *fake) GetPool(context.Context, *connect.Request[blockdv1.GetPoolRequest]) (*connect.Response[blockdv1.GetPoolResponse], error) {
	return respond(&blockdv1.GetPoolResponse{Pool: pool})
}

func (f *fake) CreateHost(_ context.Context, r *connect.Request[blockdv1.CreateHostRequest]) (*connect.Response[blockdv1.CreateHostResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.CreateHostResponse{Changes: []string{"CreateHost " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.CreateHostResponse{Host: web1})
}

func (f *fake) ListHosts(context.Context, *connect.Request[blockdv1.ListHostsRequest]) (*connect.Response[blockdv1.ListHostsResponse], error) {
	return respond(&blockdv1.ListHostsResponse{Hosts: []*blockdv1.Host{web1}})
}

func (f *fake) GetHost(context.Context, *connect.Request[blockdv1.GetHostRequest]) (*connect.Response[blockdv1.GetHostResponse], error) {
	return respond(&blockdv1.GetHostResponse{Host: web1})
}

func (f *fake) UpdateHost(_ context.Context, r *connect.Request[blockdv1.UpdateHostRequest]) (*connect.Response[blockdv1.UpdateHostResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.UpdateHostResponse{Changes: []string{"UpdateHost " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.UpdateHostResponse{Host: web1})
}

func (f *fake) DeleteHost(_ context.Context, r *connect.Request[blockdv1.DeleteHostRequest]) (*connect.Response[blockdv1.DeleteHostResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.DeleteHostResponse{Changes: []string{"DeleteHost " + r.Msg.GetName()}})
	}
	return respond(&blockdv1.DeleteHostResponse{})
}

func (f *fake) MapVolume(_ context.Context, r *connect.Request[blockdv1.MapVolumeRequest]) (*connect.Response[blockdv1.MapVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.MapVolumeResponse{Changes: []string{"map " + r.Msg.GetVolume() + " " + r.Msg.GetHost()}})
	}
	return respond(&blockdv1.MapVolumeResponse{Mapping: &blockdv1.Mapping{Volume: r.Msg.GetVolume(), Host: r.Msg.GetHost(), Lun: r.Msg.GetLun()}})
}

func (f *fake) UnmapVolume(_ context.Context, r *connect.Request[blockdv1.UnmapVolumeRequest]) (*connect.Response[blockdv1.UnmapVolumeResponse], error) {
	if r.Msg.GetDryRun() {
		return respond(&blockdv1.UnmapVolumeResponse{Changes: []string{"unmap " + r.Msg.GetVolume() + " " + r.Msg.GetHost()}})
	}
	return respond(&blockdv1.UnmapVolumeResponse{})
}

func (f *fake) ListMappings(context.Context, *connect.Request[blockdv1.ListMappingsRequest]) (*connect.Response[blockdv1.ListMappingsResponse], error) {
	return respond(&blockdv1.ListMappingsResponse{Mappings: db1.GetMappings()})
}

func (f *fake) ListNodes(context.Context, *connect.Request[blockdv1.ListNodesRequest]) (*connect.Response[blockdv1.ListNodesResponse], error) {
	return respond(&blockdv1.ListNodesResponse{Nodes: []*blockdv1.Node{{Name: "n1", Id: theCluster.Id, Roles: []string{"meta", "store"}, State: "ready", Version: "1.2.3", Started: when, CertificateExpires: "2027-03-04T05:06:07Z",
		IscsiPortals: []string{"10.0.0.1:3260"}, ApiAddress: "10.0.0.1:7480", Iqn: db1.Iqn, Nqn: db1.Nqn, Media: "disk"}}})
}

func (f *fake) ListDisks(context.Context, *connect.Request[blockdv1.ListDisksRequest]) (*connect.Response[blockdv1.ListDisksResponse], error) {
	return respond(&blockdv1.ListDisksResponse{Disks: []*blockdv1.Disk{{Name: "disk0", Path: "/var/lib/blockd/disk0", Uuid: "ccb6e09ede2a404086df5c9d4e9d4a34", State: "online", Driver: "io_uring", Direct: true,
		CapacityBytes: 16 << 30, UsedBytes: 1 << 30, LogBytes: 1 << 28, WriteAmplification: 1.25, Checkpoints: 3, Scrub: &blockdv1.Scrub{LastFinished: when, Rounds: 1}, Node: "n1", Service: "active", Extents: 12}}})
}

func (f *fake) ListSessions(context.Context, *connect.Request[blockdv1.ListSessionsRequest]) (*connect.Response[blockdv1.ListSessionsResponse], error) {
	return respond(&blockdv1.ListSessionsResponse{Sessions: []*blockdv1.Session{{Id: "iscsi-1", Protocol: "iscsi", Initiator: web1.Iqn, Host: "web1", RemoteAddress: "10.0.0.9:40000",
		LocalAddress: "10.0.0.1:3260", Since: when, Commands: 3, Parameters: map[string]string{"HeaderDigest": "CRC32C"}}}})
}

func (f *fake) Diagnose(context.Context, *connect.Request[blockdv1.DiagnoseRequest]) (*connect.Response[blockdv1.DiagnoseResponse], error) {
	return respond(&blockdv1.DiagnoseResponse{Findings: []*blockdv1.Finding{{Level: "ok", Subject: "catalog", Message: "revision 77"},
		{Level: "error", Subject: "disk disk0", Message: "a write that durability depends on failed, and its volumes are read-only", Advice: "repair or replace the disk, and restart blockd"}}})
}

func (f *fake) WatchEvents(ctx context.Context, r *connect.Request[blockdv1.WatchEventsRequest], s *connect.ServerStream[blockdv1.WatchEventsResponse]) error {
	f.mu.Lock()
	list := []uint64{1, 2, 3}
	if len(f.streams) > 0 {
		list, f.streams = f.streams[0], f.streams[1:]
	}
	f.mu.Unlock()
	for _, n := range list {
		level := []string{"info", "info", "warning", "error"}[min(n, 3)]
		e := &blockdv1.Event{Sequence: n, Time: fmt.Sprintf("2026-03-04T05:06:%02dZ", n), Level: level, Kind: "volume.state", Subject: "db1", Message: fmt.Sprintf("event %d of this volume, in more words than fit into a line of it", n)}
		if err := s.Send(&blockdv1.WatchEventsResponse{Event: e}); err != nil {
			return err
		}
	}
	if r.Msg.GetFollow() {
		return connect.NewError(connect.CodeUnavailable, errors.New("the node is stopping"))
	}
	return nil
}

func (f *fake) ListAudit(context.Context, *connect.Request[blockdv1.ListAuditRequest]) (*connect.Response[blockdv1.ListAuditResponse], error) {
	return respond(&blockdv1.ListAuditResponse{Entries: []*blockdv1.AuditEntry{
		{Revision: 5, Time: "2026-03-01T00:00:00Z", Actor: "alice", Action: "volume.create", Subject: "db1", Detail: "size 10737418240, block size 512, pool default, lun 0"},
		{Revision: 6, Time: when, Actor: "bob", Action: "host.create", Subject: "web1", Source: "10.0.0.7:5000", Refused: "host web1 exists"}}})
}

func (f *fake) InitCluster(context.Context, *connect.Request[blockdv1.InitClusterRequest]) (*connect.Response[blockdv1.InitClusterResponse], error) {
	return respond(f.init)
}

func (f *fake) GetCluster(context.Context, *connect.Request[blockdv1.GetClusterRequest]) (*connect.Response[blockdv1.GetClusterResponse], error) {
	return respond(&blockdv1.GetClusterResponse{Cluster: cmp.Or(f.cluster, theCluster)})
}

func (f *fake) CreateJoinToken(context.Context, *connect.Request[blockdv1.CreateJoinTokenRequest]) (*connect.Response[blockdv1.CreateJoinTokenResponse], error) {
	return respond(&blockdv1.CreateJoinTokenResponse{Token: "blockd-join-secret", Expires: when})
}

func (f *fake) JoinCluster(context.Context, *connect.Request[blockdv1.JoinClusterRequest]) (*connect.Response[blockdv1.JoinClusterResponse], error) {
	return respond(&blockdv1.JoinClusterResponse{Cluster: theCluster})
}

func (f *fake) IssueClientCertificate(_ context.Context, r *connect.Request[blockdv1.IssueClientCertificateRequest]) (*connect.Response[blockdv1.IssueClientCertificateResponse], error) {
	return respond(f.issue(r.Msg))
}

func (f *fake) TransferLeadership(_ context.Context, r *connect.Request[blockdv1.TransferLeadershipRequest]) (*connect.Response[blockdv1.TransferLeadershipResponse], error) {
	return respond(&blockdv1.TransferLeadershipResponse{Leader: r.Msg.GetTo()})
}

func (f *fake) BackupMeta(_ context.Context, _ *connect.Request[blockdv1.BackupMetaRequest], s *connect.ServerStream[blockdv1.BackupMetaResponse]) error {
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	if err := s.Send(&blockdv1.BackupMetaResponse{Chunk: []byte("first ")}); err != nil || fail != nil {
		return errors.Join(err, fail)
	}
	return s.Send(&blockdv1.BackupMetaResponse{Chunk: []byte("second")})
}

func (f *fake) SetNodeLabels(_ context.Context, r *connect.Request[blockdv1.SetNodeLabelsRequest]) (*connect.Response[blockdv1.SetNodeLabelsResponse], error) {
	return respond(&blockdv1.SetNodeLabelsResponse{Member: members[0], Changes: []string{fmt.Sprintf("node %s gets %s", r.Msg.GetNode(), labelsText(r.Msg.GetLabels()))}})
}

func (f *fake) RemoveNode(_ context.Context, r *connect.Request[blockdv1.RemoveNodeRequest]) (*connect.Response[blockdv1.RemoveNodeResponse], error) {
	return respond(&blockdv1.RemoveNodeResponse{Changes: []string{"node " + r.Msg.GetNode() + " leaves"}})
}
