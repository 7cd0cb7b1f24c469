package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/pki"
)

// A certificate that is due is replaced while the node runs, and the catalog knows the new
// one. One that was made while the clock was ahead is replaced when it is right again.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	n := startTestNode(t, clusterConfig(t, 1))
	initCluster(t, n)
	d := n.Daemon()
	until(t, "it is ready", d.ready.Load)
	keep := func(now time.Time) {
		t.Helper()
		if kind, err := d.keepCertificate(now); err != nil {
			t.Fatal(kind, err)
		}
		until(t, "the catalog knows the certificate", func() bool {
			return d.catalog.State().Node("n1").Serial == d.plane.creds.Certificate().SerialNumber.Text(16)
		})
	}
	old := d.plane.creds.Certificate()
	if keep(time.Now()); !d.plane.creds.Certificate().Equal(old) {
		t.Error("renewed before it was due")
	}
	if keep(pki.RenewAt(old)); d.plane.creds.Certificate().Equal(old) {
		t.Error("the certificate is still the old one")
	}
	keep(time.Now())
	if err := d.plane.creds.Valid(time.Now()); err != nil {
		t.Errorf("the clock is right again: %v", err)
	}
	// Before there was a cluster, no certificate is any good.
	if kind, err := d.keepCertificate(time.Now().Add(-30 * 24 * time.Hour)); kind != "certificate.invalid" || err == nil {
		t.Error("with a clock that is behind:", kind, err)
	}
}

// A cluster comes back after its nodes were off for longer than certificates are valid: each
// renews its own before it has found the others.
func TestComesBackAfterTheCertificatesHaveEnded(t *testing.T) {
	t.Parallel()
	_, nodes := threeNodes(t)
	for _, n := range nodes {
		n.stop()
	}
	for _, n := range nodes {
		expire(t, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	started := make(chan error)
	for _, n := range nodes {
		go func() {
			node, err := StartNode(ctx, n.cfg, zap.NewNop())
			if err == nil {
				n.Node, n.down = node, false
			}
			started <- err
		}()
	}
	var errs []error
	for range nodes {
		errs = append(errs, <-started)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		d := n.Daemon()
		if err := d.plane.creds.Valid(time.Now()); err != nil {
			t.Error(err)
		}
		until(t, "the catalog knows the certificate of "+n.cfg.Name, func() bool {
			return d.catalog.State().Node(n.cfg.Name).Serial == d.plane.creds.Certificate().SerialNumber.Text(16)
		})
	}
}

// expire gives a node that is down a certificate of two years ago.
func expire(t *testing.T, n *testNode) {
	t.Helper()
	files := pki.Files{Dir: (&dataDir{path: n.cfg.Data}).join(dirPKI)}
	m, err := files.Load()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := files.LoadAuthority()
	if err != nil {
		t.Fatal(err)
	}
	id, err := pki.IdentityOf(m.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	ca, _, err := openAuthority(catalog.Authority{SealedKey: string(sealed), BundlePEM: string(m.Bundle.PEM())}, m.Keyring, id.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := issue(ca, id, time.Now().Add(-2*pki.NodeLife), pki.NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.SaveCertificate(cert, key); err != nil {
		t.Fatal(err)
	}
}
