package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/pki"
)

// testNode is a Node of a test, on a loopback address of its own.
type testNode struct {
	*Node
	t    *testing.T
	cfg  Config
	down bool
}

// addresses counts those that tests have used.
var addresses atomic.Int32

// clusterConfig is a node that is called n1, n2 and so on. Its address is used by nobody
// else, so that its port stays free while it is down.
func clusterConfig(t *testing.T, i int) Config {
	t.Helper()
	// Another process of these tests has other addresses: the wire's port is the same everywhere.
	pid := os.Getpid()
	address := fmt.Sprintf("127.%d.%d.%d:0", 1+pid%250, pid/250%250, addresses.Add(1))
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(t.TempDir())
	c.API, c.Name, c.Labels = l.Addr().String(), fmt.Sprintf("n%d", i), map[string]string{"rack": fmt.Sprintf("r%d", i)}
	// All nodes of a test share a machine, which may be busy with others for longer than a lease lasts. None of these
	// tests is about nodes that fall silent (testenv/cluster has those): here they take their leave.
	c.patience = 10 * time.Second
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return c
}

func startTestNode(t *testing.T, cfg Config) *testNode {
	t.Helper()
	n := &testNode{t: t, cfg: cfg, down: true}
	n.start()
	t.Cleanup(n.stop)
	return n
}

func (n *testNode) start() {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	var err error
	if n.Node, err = StartNode(ctx, n.cfg, zap.NewNop()); err != nil {
		n.t.Fatal(err)
	}
	n.down = false
}

func (n *testNode) stop() {
	if n.down {
		return
	}
	n.down = true
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		n.t.Error(err)
	}
}

// local is a client that comes through the node's socket.
func (n *testNode) local() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.cfg.Data, fileSocket))
	}}}
}

const localURL = "http://localhost"

// admin is what InitCluster gives an administrator.
type admin struct {
	cert tls.Certificate
	ca   *x509.CertPool
}

// client comes over TLS with the certificate, which may be none.
func (a admin) client() *http.Client {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}, // the names are blockd's own
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: a.ca, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
			return err
		}}
	if a.cert.Certificate != nil {
		cfg.Certificates = []tls.Certificate{a.cert}
	}
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg}}
}

func (n *testNode) url() string { return "https://" + n.cfg.API }

func initCluster(t *testing.T, n *testNode) admin {
	t.Helper()
	r, err := blockdv1connect.NewClusterServiceClient(n.local(), localURL).InitCluster(t.Context(), connect.NewRequest(&blockdv1.InitClusterRequest{Name: "prod"}))
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Msg.GetCluster(); c.GetName() != "prod" || c.GetState() != "healthy" || len(c.GetMembers()) != 1 || c.GetLeader() != "n1" {
		t.Fatalf("%v", c)
	}
	return bundle(t, r.Msg.GetAdminCertificatePem(), r.Msg.GetAdminKeyPem(), r.Msg.GetCaPem())
}

func bundle(t *testing.T, cert, key, ca []byte) admin {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("no authority")
	}
	return admin{pair, pool}
}

func token(t *testing.T, a admin, n *testNode) string {
	t.Helper()
	r, err := blockdv1connect.NewClusterServiceClient(a.client(), n.url()).CreateJoinToken(t.Context(), connect.NewRequest(&blockdv1.CreateJoinTokenRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return r.Msg.GetToken()
}

func join(t *testing.T, n *testNode, token string) error {
	t.Helper()
	_, err := blockdv1connect.NewClusterServiceClient(n.local(), localURL).JoinCluster(t.Context(), connect.NewRequest(&blockdv1.JoinClusterRequest{Token: token}))
	return err
}

// threeNodes is a cluster of three voters.
func threeNodes(t *testing.T) (admin, []*testNode) { return nodesOf(t, 3, func(*Config) {}) }

// nodesOf is a cluster of three nodes or more, of which three are voters at least.
func nodesOf(t *testing.T, count int, set func(*Config)) (admin, []*testNode) {
	t.Helper()
	nodes := make([]*testNode, count)
	for i := range nodes {
		cfg := clusterConfig(t, i+1)
		set(&cfg)
		nodes[i] = startTestNode(t, cfg)
	}
	a := initCluster(t, nodes[0])
	for _, n := range nodes[1:] {
		if err := join(t, n, token(t, a, nodes[0])); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "three voters are up", func() bool { return healthyVoters(t, leading(nodes)) >= 3 })
	until(t, "all have said where they are reached", func() bool {
		return !slices.ContainsFunc(nodes[0].Daemon().catalog.State().Nodes, func(n catalog.Node) bool { return n.Number == 0 || n.Portals.Equal(catalog.Portals{}) })
	})
	return a, nodes
}

// leading is the node that leads, or nil.
func leading(nodes []*testNode) *testNode {
	for _, n := range nodes {
		if n.down || n.Daemon() == nil {
			continue
		}
		if _, leads := n.Daemon().plane.group.Leads(); leads {
			return n
		}
	}
	return nil
}

func healthyVoters(t *testing.T, n *testNode) (up int) {
	t.Helper()
	if n == nil {
		return 0
	}
	for _, m := range n.Daemon().cluster().GetMembers() {
		if m.GetSuffrage() == "voter" && m.GetState() == "up" {
			up++
		}
	}
	return up
}

// until waits for something that no call tells of.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not after a minute: %s", what)
		}
	}
}

func createVolume(ctx context.Context, client *http.Client, url, name, request string) (*blockdv1.Volume, error) {
	r, err := blockdv1connect.NewVolumeServiceClient(client, url).CreateVolume(ctx, connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: name, SizeBytes: 1 << 20, RequestId: request}))
	if err != nil {
		return nil, err
	}
	return r.Msg.GetVolume(), nil
}

// A cluster is made, two nodes join in place, volumes are created through any of
// them and served by one, the leader stops, and every node starts again.
func TestClusterOfThree(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	client := a.client()
	homes := map[catalog.ID]int{}
	for i, n := range nodes {
		name := fmt.Sprintf("v%d", i)
		v, err := createVolume(t.Context(), client, n.url(), name, name)
		if err != nil {
			t.Fatal(err)
		}
		if v.GetState() != "online" {
			t.Errorf("%s, created through %s: %v", name, n.cfg.Name, v)
		}
		s := n.Daemon().catalog.State()
		home := s.NodeOfVolume(s.Volume(name))
		homes[home.ID]++
		if v.GetNode() != home.Name {
			t.Errorf("%s is said to be on %q, not on %s", name, v.GetNode(), home.Name)
		}
	}
	if len(homes) != 3 {
		t.Errorf("three volumes are on %d nodes", len(homes))
	}
	for _, n := range nodes {
		r, err := blockdv1connect.NewVolumeServiceClient(client, n.url()).ListVolumes(t.Context(), connect.NewRequest(&blockdv1.ListVolumesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range r.Msg.GetVolumes() {
			if v.GetState() != "online" {
				t.Errorf("%s sees %v", n.cfg.Name, v)
			}
		}
		if open := len(n.Daemon().volumes.all()); open != 1 {
			t.Errorf("%s serves %d volumes", n.cfg.Name, open)
		}
	}

	first := leading(nodes)
	first.stop()
	until(t, "another leads", func() bool { return leading(nodes) != nil })
	if _, err := blockdv1connect.NewPoolServiceClient(client, leading(nodes).url()).CreatePool(t.Context(), connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "p", Media: "ram"})); err != nil {
		t.Error(err)
	}
	first.start()
	if first.Daemon().catalog.State().Pool("p") == nil {
		t.Error("a node that comes back is ready before it has the others' changes")
	}
	// All at once: no node is ready before there is a majority.
	for _, n := range nodes {
		n.stop()
	}
	started := make(chan struct{}, 3)
	for _, n := range nodes {
		go func() { n.start(); started <- struct{}{} }()
	}
	for range nodes {
		<-started
	}
	ids := map[uint16]bool{}
	for _, n := range nodes {
		ids[n.Daemon().nvme.idMin] = true
		if s := n.Daemon().catalog.State(); len(s.Volumes) != 3 || s.Pool("p") == nil {
			t.Errorf("%s has %d volumes", n.cfg.Name, len(s.Volumes))
		}
	}
	if len(ids) != 3 {
		t.Error("two nodes hand out the same NVMe controller ids")
	}
}

// certificate has a client's certificate issued.
func certificate(t *testing.T, a admin, n *testNode, role, name string) admin {
	t.Helper()
	r, err := pki.ParseRole(role)
	if err != nil {
		t.Fatal(err)
	}
	key, csr, err := pki.NewRequest(pki.Identity{Cluster: n.Daemon().plane.self.Cluster, Role: r, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	res, err := blockdv1connect.NewClusterServiceClient(a.client(), n.url()).IssueClientCertificate(t.Context(), connect.NewRequest(&blockdv1.IssueClientCertificateRequest{Name: name, Role: role, CsrDer: csr}))
	if err != nil {
		t.Fatal(err)
	}
	text, err := keyPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return bundle(t, res.Msg.GetCertificatePem(), text, res.Msg.GetCaPem())
}

func wantCode(t *testing.T, what string, err error, code connect.Code, text string) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: %v, want %v with %q", what, err, code, text)
	}
}

// What changes nothing in the catalog is in the audit log as well: who did what, from
// where, and what came of it.
func TestAuditOfWhatIsNoChange(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	n := nodes[0]
	certificate(t, a, n, "operator", "otto")
	cluster := blockdv1connect.NewClusterServiceClient(a.client(), n.url())
	other := nodes[1]
	if leading(nodes) == other {
		other = n
	}
	if _, err := cluster.TransferLeadership(t.Context(), connect.NewRequest(&blockdv1.TransferLeadershipRequest{To: other.cfg.Name})); err != nil {
		t.Fatal(err)
	}
	backup(t, a, n)
	for _, want := range []struct{ action, actor, subject, detail string }{
		{"certificate.issue", "local:", "admin", "role admin, serial "},
		{"certificate.issue", "admin", "otto", "role operator, serial "},
		{"certificate.issue", "local:", nodes[0].cfg.Name, "of a node, serial "},
		{"certificate.issue", "node:", nodes[1].cfg.Name, "of a node, serial "},
		{"cluster.transfer", "admin", other.cfg.Name, "handed over by "},
		{"cluster.backup", "admin", n.cfg.Name, "the state up to index "},
	} {
		until(t, want.action+" of "+want.subject+" is in the audit log", func() bool {
			for _, e := range n.Daemon().catalog.State().Audits {
				if e.Action == want.action && strings.HasPrefix(e.Actor, want.actor) && e.Subject == want.subject && strings.Contains(e.Detail, want.detail) {
					if e.Source == "" || e.Refused != "" {
						t.Errorf("%+v", e)
					}
					return true
				}
			}
			return false
		})
	}
}

// Who may do what over the network, and what the audit log says of it.
func TestRolesOverTheNetwork(t *testing.T) {
	t.Parallel()
	n := startTestNode(t, clusterConfig(t, 1))
	a := initCluster(t, n)
	viewer, operator := certificate(t, a, n, "viewer", "vera"), certificate(t, a, n, "operator", "otto")
	nobody := admin{ca: a.ca}

	if _, err := createVolume(t.Context(), operator.client(), n.url(), "v", "1"); err != nil {
		t.Fatal(err)
	}
	audits := n.Daemon().catalog.State().Audits
	if e := audits[len(audits)-1]; e.Actor != "otto" || !strings.HasPrefix(e.Source, "127.0.0.1:") || e.Action != "volume.create" {
		t.Errorf("audit: %+v", e)
	}
	_, err := createVolume(t.Context(), viewer.client(), n.url(), "w", "2")
	wantCode(t, "a viewer creates", err, connect.CodePermissionDenied, "needs an operator, and vera is viewer")
	_, err = createVolume(t.Context(), nobody.client(), n.url(), "w", "3")
	wantCode(t, "nobody creates", err, connect.CodeUnauthenticated, "none was shown")
	_, err = blockdv1connect.NewClusterServiceClient(operator.client(), n.url()).CreateJoinToken(t.Context(), connect.NewRequest(&blockdv1.CreateJoinTokenRequest{}))
	wantCode(t, "an operator makes a token", err, connect.CodePermissionDenied, "needs an administrator")
	_, err = blockdv1connect.NewClusterServiceClient(a.client(), n.url()).InitCluster(t.Context(), connect.NewRequest(&blockdv1.InitClusterRequest{}))
	wantCode(t, "a cluster is made from afar", err, connect.CodePermissionDenied, "control.sock")
	for path, want := range map[string]int{"/healthz": http.StatusOK, "/metrics": http.StatusUnauthorized} {
		r, err := nobody.client().Get(n.url() + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s without a certificate: %d", path, r.StatusCode)
		}
	}
	r, err := viewer.client().Get(n.url() + "/metrics")
	if err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("metrics for a viewer: %v", err)
	}
	r.Body.Close()

	// A certificate of another cluster opens nothing.
	other := startTestNode(t, clusterConfig(t, 2))
	r2, err := blockdv1connect.NewClusterServiceClient(other.local(), localURL).InitCluster(t.Context(), connect.NewRequest(&blockdv1.InitClusterRequest{Name: "other"}))
	if err != nil {
		t.Fatal(err)
	}
	strange := bundle(t, r2.Msg.GetAdminCertificatePem(), r2.Msg.GetAdminKeyPem(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.Daemon().plane.creds.Bundle().Signer().Raw}))
	if _, err := createVolume(t.Context(), strange.client(), n.url(), "x", "4"); err == nil {
		t.Error("the administrator of another cluster may create a volume")
	}
	if len(n.Daemon().catalog.State().Volumes) != 1 {
		t.Error("a refused call created a volume")
	}
}

// No two nodes hand out one controller id, and a node that comes changes
// nothing for those before it.
func TestControllerSlots(t *testing.T) {
	var nodes []catalog.Node
	slots := map[int]bool{}
	before := map[catalog.ID]int{}
	for i := range idSlots {
		n := catalog.Node{ID: newID(), Created: time.Unix(int64(i), 0)}
		if i%2 == 1 {
			n.ID[0] = nodes[i-1].ID[0] // the same wish
		}
		nodes = append(nodes, n)
		slots[controllerSlot(nodes, n.ID)] = true
		before[n.ID] = controllerSlot(nodes, n.ID)
	}
	if len(slots) != idSlots {
		t.Errorf("%d nodes have %d slots", idSlots, len(slots))
	}
	for id, slot := range before {
		if now := controllerSlot(nodes, id); now != slot {
			t.Errorf("slot %d became %d", slot, now)
		}
	}
	more := append(nodes, catalog.Node{ID: newID(), Created: time.Unix(1000, 0)})
	if last := controllerSlot(more, more[idSlots].ID); last >= idSlots || last*idsPerSlot+idsPerSlot > 0xffef {
		t.Errorf("slot %d", last)
	}
}
