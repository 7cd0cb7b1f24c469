package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/pki"
)

// Each way in which a token lets nobody in; nothing of it gets into the log.
func TestTokensThatLetNobodyIn(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := startTestNode(t, clusterConfig(t, 1)), startTestNode(t, clusterConfig(t, 2)), startTestNode(t, clusterConfig(t, 3))
	a := initCluster(t, n1)
	good := token(t, a, n1)
	d := n1.Daemon()
	parsed, err := pki.ParseToken(good)
	if err != nil {
		t.Fatal(err)
	}
	s := d.catalog.State()
	for !s.NodeByID(d.plane.id()).Portals.Equal(d.ownPortals()) { // it tells of them by itself, perhaps only now
		if s, err = d.catalog.Wait(t.Context(), s.Revision); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Revision

	wrong := parsed
	wrong.Secret[0]++
	wantCode(t, "a wrong secret", join(t, n2, wrong.String()), connect.CodePermissionDenied, "not known here")
	made, _, err := pki.NewToken(d.plane.creds.Bundle().Signer(), time.Now().Add(time.Hour), parsed.Addresses)
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a token that nobody made", join(t, n2, made.String()), connect.CodePermissionDenied, "not known here")
	if err := join(t, n2, good[:len(good)-4]); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a token that was cut short: %v", err)
	}
	other := parsed
	other.Authority[0]++ // of another cluster: the secret must not be told
	if err := join(t, n2, other.String()); err == nil || !strings.Contains(err.Error(), "authority") {
		t.Errorf("a token of another cluster: %v", err)
	}
	for _, a := range d.catalog.State().Audits {
		if a.Revision > before {
			t.Errorf("refused tokens wrote %+v", a)
		}
	}

	// One that has expired, by the time of the command that made it.
	late, record, err := pki.NewToken(d.plane.creds.Bundle().Signer(), time.Now().Add(-time.Minute), parsed.Addresses)
	if err != nil {
		t.Fatal(err)
	}
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_CreateToken{CreateToken: &catalogpb.CreateToken{Id: record.ID[:], Proof: record.Proof[:], ExpiresUnix: record.Expires}}}
	d.sign(nil, cmd)
	cmd.TimeUnixNano = time.Now().Add(-time.Hour).UnixNano()
	if _, err := d.catalog.Do(cmd); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "an expired token", join(t, n2, late.String()), connect.CodePermissionDenied, "expired")

	if err := join(t, n2, good); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a token for the second time", join(t, n3, good), connect.CodePermissionDenied, "used before")
	wantCode(t, "a member joins", join(t, n2, token(t, a, n1)), connect.CodeAlreadyExists, "belongs to cluster")
	if n3.Daemon().plane.creds != nil {
		t.Error("a node that was refused believes that it is a member")
	}
}

// A node that was not answered in time asks another member. What the first one did comes to light when the
// node works already, and does not void the certificate that it works with.
func TestLateAdmissionVoidsNoCertificate(t *testing.T) {
	t.Parallel()
	n1, n2 := startTestNode(t, clusterConfig(t, 1)), startTestNode(t, clusterConfig(t, 2))
	text := token(t, initCluster(t, n1), n1)
	parsed, err := pki.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	d := n2.Daemon()
	key, err := pki.Files{Dir: d.data.join(dirPKI)}.JoiningKey()
	if err != nil {
		t.Fatal(err)
	}
	id := d.plane.self.ID
	attempt := func() {
		t.Helper()
		if _, err := control.Enter(t.Context(), parsed, nil, id, key, &blockdv1.AdmitNodeRequest{
			Name: "n2", Address: n2.cfg.API, FormatVersionSupported: catalog.CommandVersion, Version: Version()}); err != nil {
			t.Fatal(err)
		}
	}
	attempt()
	if err := join(t, n2, text); err != nil {
		t.Fatal(err)
	}
	attempt()
	s, serial := n1.Daemon().catalog.State(), pki.Serial(n2.Daemon().plane.creds.Certificate())
	if n := s.NodeByID(parseID(id)); n == nil || n.Serial != serial || s.IsRevoked(n.ID, serial) {
		t.Errorf("node %+v has the certificate %s; revoked: %+v", n, serial, s.Revoked)
	}
}

// A node that has volumes does not throw them away.
func TestNodeWithVolumesDoesNotJoin(t *testing.T) {
	t.Parallel()
	n1, n2 := startTestNode(t, clusterConfig(t, 1)), startTestNode(t, clusterConfig(t, 2))
	a := initCluster(t, n1)
	if _, err := createVolume(t.Context(), n2.local(), localURL, "mine", "1"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "join with a volume", join(t, n2, token(t, a, n1)), connect.CodeFailedPrecondition, "1 volumes and 0 hosts")
	if n2.Daemon().catalog.State().Volume("mine") == nil {
		t.Error("the volume is gone")
	}
}

// What an administrator had before the cluster was made is there after it, and
// so is a node that is started with its token.
func TestInitKeepsAndJoinByFlag(t *testing.T) {
	t.Parallel()
	n1 := startTestNode(t, clusterConfig(t, 1))
	if _, err := createVolume(t.Context(), n1.local(), localURL, "old", "1"); err != nil {
		t.Fatal(err)
	}
	a := initCluster(t, n1)
	if v, err := blockdv1connect.NewVolumeServiceClient(a.client(), n1.url()).GetVolume(t.Context(), connect.NewRequest(&blockdv1.GetVolumeRequest{Name: "old"})); err != nil || v.Msg.GetVolume().GetState() != "online" {
		t.Errorf("%v: %v", v, err)
	}
	cfg := clusterConfig(t, 2)
	cfg.Join = token(t, a, n1)
	n2 := startTestNode(t, cfg)
	if n2.Daemon().catalog.State().Volume("old") == nil {
		t.Error("it has not joined")
	}
	n2.stop()
	n2.start() // the token is used up, and not needed any more
}

// Labels and removal, tried first without effect.
func TestMembershipAndDryRun(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	members := blockdv1connect.NewMembershipServiceClient(a.client(), nodes[0].url())
	d := nodes[0].Daemon()
	before := d.catalog.State().Revision
	r, err := members.SetNodeLabels(t.Context(), connect.NewRequest(&blockdv1.SetNodeLabelsRequest{Node: "n3", Labels: map[string]string{"zone": "z"}, DryRun: true}))
	if err != nil || len(r.Msg.GetChanges()) == 0 || r.Msg.GetMember().GetLabels()["zone"] != "" {
		t.Errorf("%v: %v", r, err)
	}
	if _, err := members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{Node: "n3", Force: true, DryRun: true})); err != nil {
		t.Error(err)
	}
	if now := d.catalog.State().Revision; now != before || len(d.plane.group.Stats().Members) != 3 {
		t.Errorf("trying changed something: revision %d to %d", before, now)
	}
	r, err = members.SetNodeLabels(t.Context(), connect.NewRequest(&blockdv1.SetNodeLabelsRequest{Node: "n3", Labels: map[string]string{"zone": "z"}}))
	if err != nil || r.Msg.GetMember().GetLabels()["zone"] != "z" || r.Msg.GetMember().GetLabels()["rack"] != "r3" {
		t.Errorf("%v: %v", r, err)
	}
	list := must[blockdv1.ListNodesResponse](t)(blockdv1connect.NewNodeServiceClient(a.client(), nodes[0].url()).ListNodes(t.Context(), connect.NewRequest(&blockdv1.ListNodesRequest{})))
	for i, n := range list.GetNodes() {
		if want := timeText(nodes[i].Daemon().plane.creds.Certificate().NotAfter); n.GetCertificateExpires() != want {
			t.Errorf("the certificate of %s is said to end %q, and ends %s", n.GetName(), n.GetCertificateExpires(), want)
		}
	}

	// What the third one may ask of the first by its certificate ends with its removal.
	asN3 := func() error {
		p := nodes[2].Daemon().plane.peers.At(d.plane.self.ID, d.APIAddress())
		_, err := blockdv1connect.NewPoolServiceClient(p, p.URL).GetPool(t.Context(), connect.NewRequest(&blockdv1.GetPoolRequest{Name: catalog.DefaultPool}))
		return err
	}
	if err := asN3(); err != nil {
		t.Error(err)
	}
	_, err = members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{Node: "n3"}))
	wantCode(t, "removal of a node that is not drained", err, connect.CodeFailedPrecondition, "remove it with --force")
	if _, err := members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{Node: "n3", Force: true})); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "a node that was removed asks", asN3(), connect.CodeUnauthenticated, "revoked")
	until(t, "the removed node has stopped", func() bool { return nodes[2].Daemon().catalog.Err() != nil })
	if s := d.catalog.State(); len(s.Nodes) != 2 || len(s.Revoked) != 1 {
		t.Errorf("%d nodes, %d revoked", len(s.Nodes), len(s.Revoked))
	}
	if c := d.cluster(); len(c.GetMembers()) != 2 {
		t.Errorf("%v", c)
	}
}

// A node that is lost with volumes on it is removed by force, and they with it, each by
// name; while it is up that is refused, and trying changes nothing.
func TestLostNodeIsGivenUp(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	client := a.client()
	for i := range nodes {
		if _, err := createVolume(t.Context(), client, nodes[0].url(), fmt.Sprintf("v%d", i), fmt.Sprintf("v%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	d := nodes[0].Daemon()
	lost := ""
	for _, v := range d.catalog.State().Volumes {
		if d.catalog.State().NodeOfVolume(&v).Name == "n3" {
			lost = v.Name
		}
	}
	members := blockdv1connect.NewMembershipServiceClient(client, nodes[0].url())
	remove := func(force, dry bool) ([]string, error) {
		r, err := members.RemoveNode(t.Context(), connect.NewRequest(&blockdv1.RemoveNodeRequest{RequestId: "lost", Node: "n3", Force: force, DryRun: dry}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetChanges(), nil
	}
	before := d.catalog.State().Revision
	for _, dry := range []bool{true, false} {
		_, err := remove(true, dry)
		wantCode(t, "giving up a node that is up", err, connect.CodeFailedPrecondition, "this one is up")
	}
	nodes[2].stop()
	until(t, "n3 is down", func() bool {
		n := leading(nodes)
		return n != nil && slices.ContainsFunc(n.Daemon().cluster().GetMembers(), func(m *blockdv1.Member) bool { return m.GetName() == "n3" && m.GetState() == "down" })
	})
	_, err := remove(false, false)
	wantCode(t, "removal of a lost node without force", err, connect.CodeFailedPrecondition, "delete them first")
	told, err := remove(true, true)
	if err != nil || len(told) != 3 || !strings.Contains(told[1], "disk0 of node n3, is forgotten") || !strings.HasPrefix(told[0], "volume "+lost+" ") {
		t.Fatalf("%q: %v", told, err)
	}
	if s := d.catalog.State(); len(s.Volumes) != 3 || len(s.Nodes) != 3 || s.Volume(lost).Retired {
		t.Fatalf("trying changed something: revision %d to %d", before, s.Revision)
	}
	if told, err = remove(true, false); err != nil || len(told) != 3 || !strings.HasPrefix(told[0], "volume "+lost+" ") {
		t.Fatalf("%q: %v", told, err)
	}
	if told, err = remove(true, false); err != nil {
		t.Errorf("the same request again: %q: %v", told, err)
	}
	s := d.catalog.State()
	if s.Node("n3") != nil || s.Volume(lost) != nil || len(s.Volumes) != 2 || len(d.plane.group.Stats().Members) != 2 {
		t.Errorf("%d volumes, nodes %v", len(s.Volumes), s.Nodes)
	}
	audit, err := blockdv1connect.NewEventServiceClient(client, nodes[0].url()).ListAudit(t.Context(), connect.NewRequest(&blockdv1.ListAuditRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"volume.delete " + lost, "volume.removed " + lost, "node.remove n3"} {
		if !slices.ContainsFunc(audit.Msg.GetEntries(), func(e *blockdv1.AuditEntry) bool {
			return e.GetAction()+" "+e.GetSubject() == want && strings.Contains(e.GetActor(), "admin") && e.GetRefused() == ""
		}) {
			t.Errorf("no %s by the administrator in the audit log", want)
		}
	}
}

// A leader that is told to stop hands over first, while it is there: the others have a
// leader when it has stopped.
func TestStopHandsOver(t *testing.T) {
	t.Parallel()
	_, nodes := threeNodes(t)
	var first *testNode
	until(t, "somebody leads", func() bool { first = leading(nodes); return first != nil })
	term := first.Daemon().plane.group.Stats().Term
	first.Daemon().leave(t.Context())
	until(t, "it has handed over", func() bool { _, leads := first.Daemon().plane.group.Leads(); return !leads })
	first.stop()
	for _, n := range nodes {
		if n == first {
			continue
		}
		if err := n.Daemon().catalog.Barrier(t.Context()); err != nil {
			t.Error(err)
		}
		if l := n.Daemon().plane.group.Leader(); l.ID == first.Daemon().plane.self.ID || l.Term <= term {
			t.Errorf("%s sees leader %+v after term %d", n.cfg.Name, l, term)
		}
	}
}
