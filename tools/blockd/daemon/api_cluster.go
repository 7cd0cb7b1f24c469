package daemon

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/pki"
)

// adminLife is for how long the first administrator's certificate is valid,
// and clientLife for how long others are when nothing is said, and tokenLife.
const (
	adminLife  = pki.ClientLifeMax
	clientLife = 90 * 24 * time.Hour
	tokenLife  = time.Hour
)

// clusterNameDefault is the name of a cluster that was given none.
const clusterNameDefault = "blockd"

// InitCluster implements blockdv1connect.ClusterServiceHandler.
func (a api) InitCluster(ctx context.Context, req *connect.Request[blockdv1.InitClusterRequest]) (*connect.Response[blockdv1.InitClusterResponse], error) {
	d := a.d
	if err := d.mayBecomeMember(); err != nil {
		return nil, err
	}
	by := callerOf(ctx, req, req.Msg.GetRequestId())
	ca, bundle, err := d.makeAuthority(ctx, by, cmp.Or(req.Msg.GetName(), clusterNameDefault))
	if err != nil {
		return nil, apiError(err)
	}
	cert, key, err := issue(ca, pki.Identity{Cluster: d.plane.self.Cluster, Node: d.plane.self.ID}, time.Now(), pki.NodeLife)
	if err != nil {
		return nil, apiError(err)
	}
	admin, adminKey, err := issue(ca, pki.Identity{Cluster: d.plane.self.Cluster, Role: pki.RoleAdmin, Name: "admin"}, time.Now(), adminLife)
	if err != nil {
		return nil, apiError(err)
	}
	adminPEM, err := keyPEM(adminKey)
	if err != nil {
		return nil, apiError(err)
	}
	keys := d.plane.keys
	now, err := d.renew(func(data *dataDir) error {
		return pki.Files{Dir: data.join(dirPKI)}.Save(pki.Member{Certificate: cert, Key: key, Bundle: bundle, Keyring: keys})
	})
	if err != nil {
		return nil, apiError(fmt.Errorf("the cluster was made, and this node could not start as its member: %w", err))
	}
	by.requestID = "" // the cluster was made by it
	now.noteDone(ctx, by, issued("certificate.issue", now.nodeName(), "of a node", cert), nil)
	now.noteDone(ctx, by, issued("certificate.issue", "admin", "role admin", admin), nil)
	return connect.NewResponse(&blockdv1.InitClusterResponse{Cluster: now.cluster(), AdminCertificatePem: certificatePEM(admin.Raw),
		AdminKeyPem: adminPEM, CaPem: bundle.PEM()}), nil
}

// JoinCluster implements blockdv1connect.ClusterServiceHandler.
func (a api) JoinCluster(ctx context.Context, req *connect.Request[blockdv1.JoinClusterRequest]) (*connect.Response[blockdv1.JoinClusterResponse], error) {
	token, err := pki.ParseToken(req.Msg.GetToken())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	now, err := a.d.join(ctx, token, req.Msg.GetAddresses())
	if err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&blockdv1.JoinClusterResponse{Cluster: now.cluster()}), nil
}

// CreateJoinToken implements blockdv1connect.ClusterServiceHandler.
func (a api) CreateJoinToken(ctx context.Context, req *connect.Request[blockdv1.CreateJoinTokenRequest]) (*connect.Response[blockdv1.CreateJoinTokenResponse], error) {
	ca, _, err := a.d.authority(a.d.catalog.State())
	if err != nil {
		return nil, apiError(err)
	}
	life := time.Duration(req.Msg.GetTtlSeconds()) * time.Second
	if life == 0 {
		life = tokenLife
	}
	if life > pki.TokenLifeMax {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("a token that is valid for %v: at most %v", life, pki.TokenLifeMax))
	}
	token, record, err := pki.NewToken(ca.Certificate(), time.Now().Add(life), a.d.addressesToMeet())
	if err != nil {
		return nil, apiError(err)
	}
	// A token is not given twice: a request that is repeated makes another.
	_, err = a.d.doContext(ctx, callerOf(ctx, req, ""), &catalogpb.Command{Kind: &catalogpb.Command_CreateToken{CreateToken: &catalogpb.CreateToken{
		Id: record.ID[:], Proof: record.Proof[:], ExpiresUnix: record.Expires}}})
	if err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&blockdv1.CreateJoinTokenResponse{Token: token.String(), Expires: timeText(token.Expires)}), nil
}

// addressesMeet is how many members a token names.
const addressesMeet = 5

// addressesToMeet are where a node that joins finds members, this one first.
func (d *Daemon) addressesToMeet() []string {
	out := []string{d.APIAddress()}
	for _, m := range d.plane.group.Stats().Members {
		if m.ID != d.plane.self.ID && len(out) < addressesMeet {
			out = append(out, m.Address)
		}
	}
	return out
}

// AdmitNode implements blockdv1connect.ClusterServiceHandler.
func (a api) AdmitNode(ctx context.Context, req *connect.Request[blockdv1.AdmitNodeRequest]) (*connect.Response[blockdv1.AdmitNodeResponse], error) {
	d, m := a.d, req.Msg
	ca, bundle, err := d.authority(d.catalog.State())
	if err != nil {
		return nil, apiError(err)
	}
	token, err := pki.ParseToken(m.GetToken())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	id, err := requested(m.GetCsrDer())
	if err != nil {
		return nil, err
	}
	node := parseID(id.Node)
	if !id.IsNode() || node.IsZero() {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the request is for %v, which is no node's name", id))
	}
	if v := m.GetFormatVersionSupported(); v < d.plane.group.Stats().Gate {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("the node understands version %d of commands, and the cluster uses %d; install the release of the others (%s)", v, d.plane.group.Stats().Gate, Version()))
	}
	by := &caller{actor: "node:" + id.Node, source: callerOf(ctx, req, "").source}
	if err := d.checkToken(ctx, token, id.Node); err != nil {
		if d.errorGate.pass("token " + by.source) {
			d.events.add(levelWarning, "node.refused", m.GetName(), fmt.Sprintf("it came from %s: %v", by.source, err))
		}
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	der, err := ca.SignJoin(m.GetCsrDer(), id, time.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, apiError(err)
	}
	proof := token.Proof()
	_, err = d.doContext(ctx, by, &catalogpb.Command{Kind: &catalogpb.Command_AdmitNode{AdmitNode: &catalogpb.AdmitNode{
		Token: token.ID[:], Proof: proof[:], Node: &catalogpb.PutNode{Id: node[:], Name: m.GetName(), Address: m.GetAddress(),
			Labels: labelList(m.GetLabels()), Roles: m.GetRoles(), Release: m.GetVersion(), Serial: pki.Serial(cert)}}}})
	if err != nil {
		return nil, apiError(err)
	}
	d.noteDone(ctx, by, issued("certificate.issue", m.GetName(), "of a node", cert), nil)
	d.events.add(levelInfo, "node.admitted", m.GetName(), fmt.Sprintf("at %s, by token %s", m.GetAddress(), token.Record().Name()))
	members := map[string]string{}
	for _, n := range d.plane.group.Stats().Members {
		members[n.ID] = n.Address
	}
	return connect.NewResponse(&blockdv1.AdmitNodeResponse{CertificatePem: certificatePEM(der), CaPem: bundle.PEM(), ClusterId: id.Cluster, NodeId: id.Node,
		ClusterKey: d.plane.keys.Marshal(), Incarnation: d.plane.group.Incarnation(), MemberAddresses: members}), nil
}

// checkToken looks at a token before anything is written: anybody may come with
// one, and only what is right gets into the log, where it is looked at again.
func (d *Daemon) checkToken(ctx context.Context, token pki.Token, node string) error {
	find := func() (pki.TokenRecord, bool) {
		s := d.catalog.State()
		i := slices.IndexFunc(s.Tokens, func(t catalog.Token) bool { return t.ID == token.ID })
		if i < 0 {
			return pki.TokenRecord{}, false
		}
		t := &s.Tokens[i]
		r := pki.TokenRecord{ID: t.ID, Proof: t.Proof, Expires: t.Expires.Unix()}
		if !t.UsedBy.IsZero() {
			r.UsedBy = t.UsedBy.String()
		}
		return r, true
	}
	r, known := find()
	if !known { // it may have been made a moment ago, through another node
		if err := d.catalog.Barrier(ctx); err != nil {
			return err
		}
		if r, known = find(); !known {
			return fmt.Errorf("%w; make one with `blockctl node token`", pki.ErrTokenUnknown)
		}
	}
	_, err := r.Redeem(token.Proof(), node, time.Now().Unix())
	return err
}

// requested reads for whom a certificate is asked.
func requested(csr []byte) (pki.Identity, error) {
	r, err := x509.ParseCertificateRequest(csr)
	if err == nil && len(r.URIs) != 1 {
		err = errors.New("it names nobody")
	}
	var id pki.Identity
	if err == nil {
		id, err = pki.ParseIdentity(r.URIs[0].String())
	}
	if err != nil {
		return id, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the request for a certificate: %w", err))
	}
	return id, nil
}

func labelList(labels map[string]string) []*catalogpb.Label {
	var out []*catalogpb.Label
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, &catalogpb.Label{Key: k, Value: labels[k]})
	}
	return out
}

// IssueClientCertificate implements blockdv1connect.ClusterServiceHandler.
func (a api) IssueClientCertificate(ctx context.Context, req *connect.Request[blockdv1.IssueClientCertificateRequest]) (*connect.Response[blockdv1.IssueClientCertificateResponse], error) {
	d, m := a.d, req.Msg
	ca, bundle, err := d.authority(d.catalog.State())
	if err != nil {
		return nil, apiError(err)
	}
	role, err := pki.ParseRole(m.GetRole())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	life := time.Duration(m.GetTtlSeconds()) * time.Second
	if life == 0 {
		life = clientLife
	}
	id := pki.Identity{Cluster: d.plane.self.Cluster, Role: role, Name: m.GetName()}
	der, err := ca.Sign(m.GetCsrDer(), id, time.Now(), life)
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, apiError(err)
	}
	// It is handed out only when the audit log has it.
	if err := d.note(ctx, callerOf(ctx, req, ""), issued("certificate.issue", m.GetName(), fmt.Sprintf("role %v", role), cert)); err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&blockdv1.IssueClientCertificateResponse{CertificatePem: certificatePEM(der), CaPem: bundle.PEM()}), nil
}

// issued says what the audit log has of a certificate.
func issued(action, to, what string, cert *x509.Certificate) *catalogpb.Note {
	return &catalogpb.Note{Action: action, Subject: to, Detail: fmt.Sprintf("%s, serial %s, valid until %s", what, pki.Serial(cert), timeText(cert.NotAfter))}
}

// TransferLeadership implements blockdv1connect.ClusterServiceHandler.
func (a api) TransferLeadership(ctx context.Context, req *connect.Request[blockdv1.TransferLeadershipRequest]) (*connect.Response[blockdv1.TransferLeadershipResponse], error) {
	to := ""
	if name := req.Msg.GetTo(); name != "" {
		n := a.d.catalog.State().Node(name)
		if n == nil {
			return nil, noSuch("node", name)
		}
		to = n.ID.String()
	}
	from := a.d.leaderName()
	err := a.d.plane.group.TransferLeadership(ctx, to)
	leader := a.d.leaderName()
	a.d.noteDone(ctx, callerOf(ctx, req, ""), &catalogpb.Note{Action: "cluster.transfer", Subject: cmp.Or(req.Msg.GetTo(), leader, "nobody yet"),
		Detail: fmt.Sprintf("leadership is handed over by %s", cmp.Or(from, "nobody"))}, err)
	if err != nil {
		return nil, apiError(err)
	}
	return connect.NewResponse(&blockdv1.TransferLeadershipResponse{Leader: leader}), nil
}

// backupChunk is how much of a backup one message carries, in bytes.
const backupChunk = 256 << 10

// backupStream cuts what is written into messages.
type backupStream struct {
	stream *connect.ServerStream[blockdv1.BackupMetaResponse]
}

// Write implements io.Writer.
func (b backupStream) Write(p []byte) (n int, err error) {
	for chunk := range slices.Chunk(p, backupChunk) {
		if err := b.stream.Send(&blockdv1.BackupMetaResponse{Chunk: chunk}); err != nil {
			return n, err
		}
		n += len(chunk)
	}
	return n, nil
}

// BackupMeta implements blockdv1connect.ClusterServiceHandler.
func (a api) BackupMeta(ctx context.Context, req *connect.Request[blockdv1.BackupMetaRequest], stream *connect.ServerStream[blockdv1.BackupMetaResponse]) error {
	h, err := a.d.plane.group.Backup(ctx, backupStream{stream}, time.Now())
	a.d.noteDone(ctx, callerOf(ctx, req, ""), &catalogpb.Note{Action: "cluster.backup", Subject: a.d.nodeName(), Detail: fmt.Sprintf("the state up to index %d", h.Index)}, err)
	if err != nil {
		return apiError(err)
	}
	return nil
}

// GetCluster implements blockdv1connect.ClusterServiceHandler. The leader alone
// knows who is up, so another node asks it, and answers by itself when that fails.
func (a api) GetCluster(ctx context.Context, req *connect.Request[blockdv1.GetClusterRequest]) (*connect.Response[blockdv1.GetClusterResponse], error) {
	s := a.d.catalog.State()
	if req.Msg.GetLinearizable() {
		if err := a.d.catalog.Barrier(ctx); err != nil {
			return nil, apiError(err)
		}
	}
	leader := s.NodeByID(parseID(a.d.plane.group.Leader().ID))
	if leader == nil || leader.ID == a.d.plane.id() || len(a.others(s, req)) == 0 {
		return connect.NewResponse(&blockdv1.GetClusterResponse{Cluster: a.d.cluster()}), nil
	}
	answer := askAround(ctx, a.d, []catalog.Node{*leader}, func(ctx context.Context, p *control.Peer) (*blockdv1.Cluster, error) {
		r, err := blockdv1connect.NewClusterServiceClient(p, p.URL).GetCluster(ctx, connect.NewRequest(req.Msg))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetCluster(), nil
	})[0]
	if answer.err != nil {
		answer.value = a.d.cluster()
		answer.value.Reason = strings.TrimPrefix(answer.value.GetReason()+"; "+unheardLeader(leader, answer.err), "; ")
	}
	return connect.NewResponse(&blockdv1.GetClusterResponse{Cluster: answer.value}), nil
}

func unheardLeader(n *catalog.Node, err error) string {
	return fmt.Sprintf("the leader, %s, does not say how the others are: %v", n.Name, err)
}
