package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/director"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pulse"
	"blockd.dev/target/access"
	"blockd.dev/target/auth"
	"blockd.dev/target/identity"
)

// apiReadMax bounds one request to the control API, in bytes.
const apiReadMax = 1 << 20

// apiCompressMin is the shortest answer that is compressed, in bytes: a pulse's answer fits into any packet, and to
// compress it took a fifth of what it cost a leader.
const apiCompressMin = 1400

// caller is who asks for a change.
type caller struct {
	actor     string
	source    string
	requestID string
}

func callerOf[T any](ctx context.Context, req *connect.Request[T], requestID string) *caller {
	who := control.From(ctx).Says(req.Header())
	return &caller{actor: who.Actor, source: who.Source, requestID: requestID}
}

// beside is the same caller for what a request changes beside that which its id is of.
func (c *caller) beside() *caller { return &caller{actor: c.actor, source: c.source} }

// api implements the services of package blockdv1.
type api struct{ d *Daemon }

func (a api) register(mux *http.ServeMux) {
	limit := connect.WithHandlerOptions(connect.WithReadMaxBytes(apiReadMax), connect.WithCompressMinBytes(apiCompressMin), connect.WithInterceptors(control.Interceptor(), a.atRevision()))
	mux.Handle(blockdv1connect.NewVolumeServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewPoolServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewHostServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewMappingServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewNodeServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewEventServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewClusterServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewMembershipServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewJobServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewLeaseServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewExplainServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewPeerServiceHandler(a, limit))
	mux.Handle(blockdv1connect.NewPulseServiceHandler(pulse.Serve(pulses(a)), limit))
}

// apiError gives an error the code that clients act on.
func apiError(err error) error {
	var told *connect.Error
	switch {
	case errors.As(err, &told): // ours, or another node's
		return connect.NewError(told.Code(), err)
	case errors.Is(err, group.ErrOutcomeUnknown):
		return connect.NewError(connect.CodeUnavailable, err)
	}
	for kind, code := range map[error]connect.Code{
		catalog.ErrInvalid: connect.CodeInvalidArgument, catalog.ErrNotFound: connect.CodeNotFound,
		catalog.ErrExists: connect.CodeAlreadyExists, catalog.ErrConflict: connect.CodeFailedPrecondition,
		catalog.ErrFailed: connect.CodeUnavailable, group.ErrNoLeader: connect.CodeUnavailable, group.ErrNotLeader: connect.CodeUnavailable,
		group.ErrRefused: connect.CodeFailedPrecondition, group.ErrClosed: connect.CodeUnavailable, context.Canceled: connect.CodeCanceled,
		context.DeadlineExceeded: connect.CodeDeadlineExceeded,
	} {
		if errors.Is(err, kind) {
			return connect.NewError(code, err)
		}
	}
	return connect.NewError(connect.CodeInternal, err)
}

// change runs a command and waits until the node has become what it says, and
// the others, as far as they answer.
func (a api) change(ctx context.Context, by *caller, cmd *catalogpb.Command) (catalog.Result, error) {
	res, err := a.d.doContext(ctx, by, cmd)
	if err == nil {
		err = a.d.applied.wait(ctx, res.Revision)
	}
	if err != nil {
		return catalog.Result{}, apiError(err)
	}
	a.d.spread(ctx, res.Revision)
	return res, nil
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (a api) volume(s *catalog.State, v *catalog.Volume) *blockdv1.Volume {
	out := &blockdv1.Volume{Name: v.Name, Id: v.ID.String(), SizeBytes: v.SizeBytes, BlockSize: int32(v.BlockSize),
		Iqn: s.IQN, Lun: uint32(v.LUN), Nqn: s.NQN, Nsid: v.NSID(), Uuid: identity.UUIDString(v.ID), Pool: v.Pool,
		Created: timeText(v.Created), Mappings: a.mappings(s, func(m catalog.Mapping) bool { return m.Volume == v.ID })}
	out.State, out.Reason = a.d.volumeState(v)
	if n := s.NodeOfVolume(v); n != nil {
		out.Node = n.Name
	}
	if l, ok := s.Lease(v.ID); ok && shared(s, v) {
		if n := s.NodeByID(l.Owner); n != nil {
			out.Node = n.Name
		}
		if n := s.NodeByID(l.MoveTo); n != nil {
			out.MovingTo = n.Name
		}
		out.Epoch = l.Epoch
	}
	out.Replicas = replicas(s, v)
	out.Limits = limitsMessage(v.Limits)
	out.Protection, out.Access = protections[v.Protection].String(), a.d.volumes.accessOf(v.ID).String()
	if open, ok := a.d.volumes.get(v.ID); ok && open.dev != nil {
		out.UsedBytes, _ = open.dev.Provisioning()
	}
	return out
}

func (a api) mappings(s *catalog.State, match func(catalog.Mapping) bool) []*blockdv1.Mapping {
	var out []*blockdv1.Mapping
	for i := range s.Volumes {
		for _, m := range s.Mappings {
			if m.Volume == s.Volumes[i].ID && match(m) {
				out = append(out, mapping(s, m))
			}
		}
	}
	return out
}

func mapping(s *catalog.State, m catalog.Mapping) *blockdv1.Mapping {
	out := &blockdv1.Mapping{Host: catalog.AnyHost, Lun: uint32(m.LUN)}
	if v := s.VolumeByID(m.Volume); v != nil {
		out.Volume = v.Name
	}
	if h := s.HostByID(m.Host); h != nil {
		out.Host = h.Name
	}
	return out
}

func noSuch(what, name string) error {
	return connect.NewError(connect.CodeNotFound, fmt.Errorf("no %s %q; see `blockctl %s list`", what, name, what))
}

func (a api) namedVolume(ctx context.Context, req connect.AnyRequest, name string, revision uint64) (*blockdv1.Volume, error) {
	s := a.d.catalog.State()
	v := s.Volume(name)
	if v == nil {
		return nil, noSuch("volume", name)
	}
	return a.volumeNow(ctx, req, s, v, max(revision, s.Revision)), nil
}

// servedVolume is namedVolume, and an error when its node could not do what the
// catalog says since revision.
func (a api) servedVolume(ctx context.Context, req connect.AnyRequest, name string, revision uint64, did string) (*blockdv1.Volume, error) {
	v, err := a.namedVolume(ctx, req, name, revision)
	s := a.d.catalog.State()
	if cv := s.Volume(name); err == nil && cv != nil && shared(s, cv) {
		// How it is depends on other nodes, and is no answer to the request.
		if open, ok := a.d.volumes.get(cv.ID); !ok || open.err == nil {
			return v, nil
		}
	}
	if err == nil && v.GetReason() != "" {
		where := "this node"
		if cv := s.Volume(name); cv != nil && !a.d.serves(s, cv) {
			where = "its own"
		}
		err = connect.NewError(connect.CodeUnavailable, fmt.Errorf("volume %q is %s in the catalog, but not on %s: %s; it is tried again at the next change and the next start", name, did, where, v.GetReason()))
	}
	return v, err
}

// CreateVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) CreateVolume(ctx context.Context, req *connect.Request[blockdv1.CreateVolumeRequest]) (*connect.Response[blockdv1.CreateVolumeResponse], error) {
	m := req.Msg
	id := newID()
	cmd := &catalogpb.CreateVolume{Id: id[:], Name: m.GetName(), SizeBytes: m.GetSizeBytes(), BlockSize: m.GetBlockSize(), Pool: m.GetPool(), Limits: limitsAsked(m.GetLimits())}
	if cmd.BlockSize == 0 {
		cmd.BlockSize = blockSizeDefault
	}
	if cmd.Pool == "" {
		cmd.Pool = catalog.DefaultPool
	}
	by, create := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_CreateVolume{CreateVolume: cmd}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, create)
		return tried(&blockdv1.CreateVolumeResponse{Changes: changes}, err)
	}
	res, err := a.change(ctx, by, create)
	if err != nil {
		return nil, err
	}
	if err := a.d.owned(ctx, res.ID); err != nil {
		return nil, err
	}
	v, err := a.servedVolume(ctx, req, m.GetName(), res.Revision, "created")
	if err == nil && v.GetId() != res.ID.String() { // a request that is tried again may come that late
		err = connect.NewError(connect.CodeNotFound, fmt.Errorf("volume %q was created by this request, and was deleted since; another one has its name now", m.GetName()))
	}
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.CreateVolumeResponse{Volume: v}), nil
}

// ListVolumes implements blockdv1connect.VolumeServiceHandler.
func (a api) ListVolumes(ctx context.Context, req *connect.Request[blockdv1.ListVolumesRequest]) (*connect.Response[blockdv1.ListVolumesResponse], error) {
	return connect.NewResponse(&blockdv1.ListVolumesResponse{Volumes: a.volumesNow(ctx, req, a.d.catalog.State())}), nil
}

// GetVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) GetVolume(ctx context.Context, req *connect.Request[blockdv1.GetVolumeRequest]) (*connect.Response[blockdv1.GetVolumeResponse], error) {
	v, err := a.namedVolume(ctx, req, req.Msg.GetName(), 0)
	if err != nil {
		return nil, err
	}
	if s := a.d.catalog.State(); s.Volume(v.GetName()) != nil {
		addTold(s, v, a.toldByOwner(ctx, req, s, s.Volume(v.GetName())))
	}
	return connect.NewResponse(&blockdv1.GetVolumeResponse{Volume: v}), nil
}

// ResizeVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) ResizeVolume(ctx context.Context, req *connect.Request[blockdv1.ResizeVolumeRequest]) (*connect.Response[blockdv1.ResizeVolumeResponse], error) {
	m := req.Msg
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_ResizeVolume{
		ResizeVolume: &catalogpb.ResizeVolume{Name: m.GetName(), SizeBytes: m.GetSizeBytes()}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.ResizeVolumeResponse{Changes: changes}, err)
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	v, err := a.servedVolume(ctx, req, m.GetName(), res.Revision, "resized")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.ResizeVolumeResponse{Volume: v}), nil
}

// ProtectVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) ProtectVolume(ctx context.Context, req *connect.Request[blockdv1.ProtectVolumeRequest]) (*connect.Response[blockdv1.ProtectVolumeResponse], error) {
	m := req.Msg
	cmd := &catalogpb.ProtectVolume{Name: m.GetName(), Protection: m.GetProtection()}
	if cmd.Protection == access.Unprotected.String() {
		cmd.Protection = string(catalog.Unprotected)
	}
	by := callerOf(ctx, req, m.GetRequestId())
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, protectCommand(cmd))
		return tried(&blockdv1.ProtectVolumeResponse{Changes: changes}, err)
	}
	res, err := a.change(ctx, by, protectCommand(cmd))
	if err != nil {
		return nil, err
	}
	v, err := a.servedVolume(ctx, req, m.GetName(), res.Revision, "protected as asked")
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.ProtectVolumeResponse{Volume: v}), nil
}

// DeleteVolume implements blockdv1connect.VolumeServiceHandler.
func (a api) DeleteVolume(ctx context.Context, req *connect.Request[blockdv1.DeleteVolumeRequest]) (*connect.Response[blockdv1.DeleteVolumeResponse], error) {
	m := req.Msg
	s := a.d.catalog.State()
	v := s.Volume(m.GetName())
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_RetireVolume{
		RetireVolume: &catalogpb.RetireVolume{Name: m.GetName()}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.DeleteVolumeResponse{Changes: changes}, err)
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	if v != nil && v.ID != res.ID {
		v = nil // this request is tried again, and another volume has the name by now
	}
	if (v == nil || !a.d.serves(s, v) || shared(s, v)) && !a.d.gone(ctx, res.ID) {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("volume %q is gone for its hosts, but the node that has its data has not removed it yet; it does when it is up", m.GetName()))
	}
	if v != nil && a.d.catalog.State().VolumeByID(v.ID) != nil {
		_, reason := a.d.volumeState(v)
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("volume %q is gone for its hosts, but its data could not be removed: %s; it is tried again at the next change and the next start", m.GetName(), reason))
	}
	return connect.NewResponse(&blockdv1.DeleteVolumeResponse{}), nil
}

// ownedWithin is how long a new volume may take to get disks and an owner while
// somebody waits.
const ownedWithin = 10 * time.Second

// owned waits until a volume of several copies has an owner.
func (d *Daemon) owned(ctx context.Context, id catalog.ID) error {
	ctx, cancel := context.WithTimeout(ctx, ownedWithin)
	defer cancel()
	s := d.catalog.State()
	for {
		v := s.VolumeByID(id)
		if v == nil || !shared(s, v) {
			return nil
		}
		if l, ok := s.Lease(id); ok && !l.Owner.IsZero() {
			return nil
		}
		next, err := d.catalog.Wait(ctx, s.Revision)
		if err != nil {
			e, _ := director.Explain(s, d.shared.Load().views(), id, d.cfg.RebuildAfter)
			return connect.NewError(connect.CodeUnavailable, fmt.Errorf("volume %q is created, but no node serves it yet: %s; it is served as soon as that is possible", v.Name, strings.Join(e.Because, "; ")))
		}
		s = next
	}
}

// removedWithin is how long another node may take to remove a volume's data
// while somebody waits.
const removedWithin = 5 * time.Second

// gone waits until the catalog has a volume no more, and reports whether that is so.
func (d *Daemon) gone(ctx context.Context, id catalog.ID) bool {
	ctx, cancel := context.WithTimeout(ctx, max(removedWithin, d.cfg.patience))
	defer cancel()
	s := d.catalog.State()
	for s.VolumeByID(id) != nil {
		var err error
		if s, err = d.catalog.Wait(ctx, s.Revision); err != nil {
			return false
		}
	}
	return true
}

func (a api) pool(s *catalog.State, p *catalog.Pool, volumes []*blockdv1.Volume) *blockdv1.Pool {
	out := &blockdv1.Pool{Name: p.Name, Id: p.ID.String(), Replicas: p.Replicas, MinInSync: p.MinInSync, Domain: p.Domain, Media: string(p.Media), Created: timeText(p.Created)}
	for _, v := range volumes {
		if v.GetPool() == p.Name {
			out.Volumes++
			out.ProvisionedBytes += v.GetSizeBytes()
			out.UsedBytes += v.GetUsedBytes()
		}
	}
	if p.Media == catalog.MediaDisk {
		for i := range s.Disks {
			out.CapacityBytes += s.Disks[i].CapacityBytes
		}
	}
	return out
}

func (a api) namedPool(ctx context.Context, req connect.AnyRequest, name string) (*blockdv1.Pool, error) {
	s := a.d.catalog.State()
	p := s.Pool(name)
	if p == nil {
		return nil, noSuch("pool", name)
	}
	return a.pool(s, p, a.volumesNow(ctx, req, s)), nil
}

// CreatePool implements blockdv1connect.PoolServiceHandler.
func (a api) CreatePool(ctx context.Context, req *connect.Request[blockdv1.CreatePoolRequest]) (*connect.Response[blockdv1.CreatePoolResponse], error) {
	m := req.Msg
	id := newID()
	cmd := &catalogpb.CreatePool{Id: id[:], Name: m.GetName(), Replicas: max(m.GetReplicas(), 1), MinInSync: m.GetMinInSync(), Domain: m.GetDomain(), Media: m.GetMedia()}
	if m.GetEc() != "" {
		return nil, refuseErasure(m.GetEc())
	}
	if cmd.Media == "" {
		cmd.Media = string(a.d.cfg.Media)
	}
	if cmd.Media == string(catalog.MediaDisk) && len(a.d.disks) == 0 {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this node has no disk; start it with --disks, or use --media ram"))
	}
	by, create := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_CreatePool{CreatePool: cmd}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, create)
		return tried(&blockdv1.CreatePoolResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, create); err != nil {
		return nil, err
	}
	p, err := a.namedPool(ctx, req, m.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.CreatePoolResponse{Pool: p}), nil
}

// ListPools implements blockdv1connect.PoolServiceHandler.
func (a api) ListPools(ctx context.Context, req *connect.Request[blockdv1.ListPoolsRequest]) (*connect.Response[blockdv1.ListPoolsResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListPoolsResponse{}
	volumes := a.volumesNow(ctx, req, s)
	for i := range s.Pools {
		out.Pools = append(out.Pools, a.pool(s, &s.Pools[i], volumes))
	}
	return connect.NewResponse(out), nil
}

// GetPool implements blockdv1connect.PoolServiceHandler.
func (a api) GetPool(ctx context.Context, req *connect.Request[blockdv1.GetPoolRequest]) (*connect.Response[blockdv1.GetPoolResponse], error) {
	p, err := a.namedPool(ctx, req, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.GetPoolResponse{Pool: p}), nil
}

func (a api) host(s *catalog.State, h *catalog.Host) *blockdv1.Host {
	out := &blockdv1.Host{Name: h.Name, Id: h.ID.String(), Iqn: h.IQN, Nqn: h.NQN, ChapUser: h.Chap.User,
		MutualChapUser: h.Mutual.User, Dhchap: h.DHChap.HasKey(), DhchapController: h.DHChap.HasControllerKey(), Created: timeText(h.Created),
		Mappings: a.mappings(s, func(m catalog.Mapping) bool { return m.Host == h.ID })}
	for _, session := range a.d.sessions() {
		if h.IQN != "" && session.Initiator == h.IQN && !session.Discovery {
			out.Sessions++
		}
	}
	out.Sessions += a.d.nvmeControllersOf(h.NQN)
	return out
}

func (a api) namedHost(name string) (*blockdv1.Host, error) {
	s := a.d.catalog.State()
	h := s.Host(name)
	if h == nil {
		return nil, noSuch("host", name)
	}
	return a.host(s, h), nil
}

func chapMessage(c *blockdv1.Chap) *catalogpb.Chap {
	if c == nil {
		return nil
	}
	return &catalogpb.Chap{User: c.GetUser(), Secret: c.GetSecret()}
}

// dhchapMessage takes keys whose checksum is right.
func dhchapMessage(c *blockdv1.DhChap) (*catalogpb.DhChap, error) {
	if c == nil {
		return nil, nil
	}
	for _, k := range []string{c.GetKey(), c.GetControllerKey()} {
		if k == "" {
			continue
		}
		if _, err := auth.ParseDHKey(k); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
	}
	return &catalogpb.DhChap{Key: c.GetKey(), ControllerKey: c.GetControllerKey()}, nil
}

// CreateHost implements blockdv1connect.HostServiceHandler.
func (a api) CreateHost(ctx context.Context, req *connect.Request[blockdv1.CreateHostRequest]) (*connect.Response[blockdv1.CreateHostResponse], error) {
	m := req.Msg
	dhchap, err := dhchapMessage(m.GetDhchap())
	if err != nil {
		return nil, err
	}
	id := newID()
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_CreateHost{CreateHost: &catalogpb.CreateHost{
		Id: id[:], Name: m.GetName(), Iqn: m.GetIqn(), Nqn: m.GetNqn(),
		Chap: chapMessage(m.GetChap()), MutualChap: chapMessage(m.GetMutualChap()), Dhchap: dhchap}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.CreateHostResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, cmd); err != nil {
		return nil, err
	}
	h, err := a.namedHost(m.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.CreateHostResponse{Host: h}), nil
}

// ListHosts implements blockdv1connect.HostServiceHandler.
func (a api) ListHosts(context.Context, *connect.Request[blockdv1.ListHostsRequest]) (*connect.Response[blockdv1.ListHostsResponse], error) {
	s := a.d.catalog.State()
	out := &blockdv1.ListHostsResponse{}
	for i := range s.Hosts {
		out.Hosts = append(out.Hosts, a.host(s, &s.Hosts[i]))
	}
	return connect.NewResponse(out), nil
}

// GetHost implements blockdv1connect.HostServiceHandler.
func (a api) GetHost(_ context.Context, req *connect.Request[blockdv1.GetHostRequest]) (*connect.Response[blockdv1.GetHostResponse], error) {
	h, err := a.namedHost(req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.GetHostResponse{Host: h}), nil
}

// UpdateHost implements blockdv1connect.HostServiceHandler.
func (a api) UpdateHost(ctx context.Context, req *connect.Request[blockdv1.UpdateHostRequest]) (*connect.Response[blockdv1.UpdateHostResponse], error) {
	m := req.Msg
	dhchap, err := dhchapMessage(m.GetDhchap())
	if err != nil {
		return nil, err
	}
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_UpdateHost{UpdateHost: &catalogpb.UpdateHost{
		Name: m.GetName(), Iqn: m.Iqn, Nqn: m.Nqn,
		Chap: chapMessage(m.GetChap()), MutualChap: chapMessage(m.GetMutualChap()), Dhchap: dhchap}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.UpdateHostResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, cmd); err != nil {
		return nil, err
	}
	h, err := a.namedHost(m.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.UpdateHostResponse{Host: h}), nil
}

// DeleteHost implements blockdv1connect.HostServiceHandler.
func (a api) DeleteHost(ctx context.Context, req *connect.Request[blockdv1.DeleteHostRequest]) (*connect.Response[blockdv1.DeleteHostResponse], error) {
	m := req.Msg
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_DeleteHost{
		DeleteHost: &catalogpb.DeleteHost{Name: m.GetName()}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.DeleteHostResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, cmd); err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.DeleteHostResponse{}), nil
}

// MapVolume implements blockdv1connect.MappingServiceHandler.
func (a api) MapVolume(ctx context.Context, req *connect.Request[blockdv1.MapVolumeRequest]) (*connect.Response[blockdv1.MapVolumeResponse], error) {
	m := req.Msg
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_MapVolume{MapVolume: &catalogpb.MapVolume{
		Volume: m.GetVolume(), Host: m.GetHost(), Lun: m.Lun}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.MapVolumeResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, cmd); err != nil {
		return nil, err
	}
	s := a.d.catalog.State()
	for _, have := range s.Mappings {
		if out := mapping(s, have); out.GetVolume() == m.GetVolume() && out.GetHost() == m.GetHost() {
			return connect.NewResponse(&blockdv1.MapVolumeResponse{Mapping: out}), nil
		}
	}
	return nil, connect.NewError(connect.CodeAborted, fmt.Errorf("volume %q was unmapped from %s meanwhile", m.GetVolume(), m.GetHost()))
}

// UnmapVolume implements blockdv1connect.MappingServiceHandler.
func (a api) UnmapVolume(ctx context.Context, req *connect.Request[blockdv1.UnmapVolumeRequest]) (*connect.Response[blockdv1.UnmapVolumeResponse], error) {
	m := req.Msg
	by, cmd := callerOf(ctx, req, m.GetRequestId()), &catalogpb.Command{Kind: &catalogpb.Command_UnmapVolume{UnmapVolume: &catalogpb.UnmapVolume{
		Volume: m.GetVolume(), Host: m.GetHost()}}}
	if m.GetDryRun() {
		changes, err := a.try(ctx, by, cmd)
		return tried(&blockdv1.UnmapVolumeResponse{Changes: changes}, err)
	}
	if _, err := a.change(ctx, by, cmd); err != nil {
		return nil, err
	}
	return connect.NewResponse(&blockdv1.UnmapVolumeResponse{}), nil
}

// ListMappings implements blockdv1connect.MappingServiceHandler.
func (a api) ListMappings(context.Context, *connect.Request[blockdv1.ListMappingsRequest]) (*connect.Response[blockdv1.ListMappingsResponse], error) {
	s := a.d.catalog.State()
	return connect.NewResponse(&blockdv1.ListMappingsResponse{
		Mappings: a.mappings(s, func(catalog.Mapping) bool { return true })}), nil
}
