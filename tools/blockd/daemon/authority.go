package daemon

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pki"
)

// authority opens the cluster's authority, whose key every member can unseal,
// and returns it with what is trusted.
func (d *Daemon) authority(s *catalog.State) (*pki.Authority, pki.Bundle, error) {
	if len(s.Authority.SealedKey) == 0 {
		return nil, pki.Bundle{}, connect.NewError(connect.CodeFailedPrecondition, errors.New("this node belongs to no cluster, so nobody signs certificates; make one with `blockctl cluster init`"))
	}
	return openAuthority(s.Authority, d.plane.keys, d.plane.self.Cluster)
}

// openAuthority unseals the authority of cluster.
func openAuthority(a catalog.Authority, keys pki.Keyring, cluster string) (*pki.Authority, pki.Bundle, error) {
	text, err := keys.Open(catalog.AuthorityLabel, []byte(a.SealedKey))
	if err != nil {
		return nil, pki.Bundle{}, fmt.Errorf("the authority's key: %w; is cluster.keys the one of this cluster?", err)
	}
	ca, err := pki.ParseAuthority(cluster, text)
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	bundle, err := pki.ParseBundle([]byte(a.BundlePEM))
	return ca, bundle, err
}

// makeAuthority gives the cluster its authority and its name. A node that was
// killed while it made a cluster finds the authority that it made then.
func (d *Daemon) makeAuthority(ctx context.Context, by *caller, name string) (*pki.Authority, pki.Bundle, error) {
	s := d.catalog.State()
	if len(s.Authority.SealedKey) > 0 {
		return d.authority(s)
	}
	ca, err := pki.NewAuthority(d.plane.self.Cluster, time.Now())
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	text, err := ca.Marshal()
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	sealed, err := d.plane.keys.Seal(catalog.AuthorityLabel, text)
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	bundle := pki.NewBundle(ca.Certificate())
	_, err = d.doContext(ctx, by, &catalogpb.Command{Kind: &catalogpb.Command_SetAuthority{SetAuthority: &catalogpb.SetAuthority{
		ClusterName: name, SealedKey: sealed, BundlePem: bundle.PEM(), ExpectRevision: s.Authority.Revision}}})
	return ca, bundle, err
}

// issue makes a key for id and has it signed.
func issue(ca *pki.Authority, id pki.Identity, now time.Time, life time.Duration) (*x509.Certificate, ed25519.PrivateKey, error) {
	key, csr, err := pki.NewRequest(id)
	if err != nil {
		return nil, nil, err
	}
	der, err := ca.Sign(csr, id, now, life)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// renewEvery is how often the node looks whether its certificate is due. It is as
// often because the clock may be set at any time.
const renewEvery = 10 * time.Second

// renewTell is how often it says that something is still wrong with it.
const renewTell = time.Hour

// renewLoop replaces the node's certificate before it ends, until ctx does. It runs
// before the node has found its cluster, too: the certificate may be why it does not.
func (d *Daemon) renewLoop(ctx context.Context) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	var told time.Time // zero while all is well
	for {
		switch kind, err := d.keepCertificate(time.Now()); {
		case err == nil:
			told = time.Time{}
		case told.IsZero() || time.Since(told) >= renewTell:
			told = time.Now()
			d.events.add(levelError, kind, d.nodeName(), err.Error())
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// keepCertificate sees to it that the node has a valid certificate, which the
// catalog knows. The kind of event that an error is comes with it.
func (d *Daemon) keepCertificate(now time.Time) (kind string, _ error) {
	if err := d.renewCertificate(now); err != nil {
		return "certificate.renew", fmt.Errorf("it is valid until %s, and could not be renewed: %w; this is tried again every %v",
			timeText(d.plane.creds.Certificate().NotAfter), err, renewEvery)
	}
	if err := d.plane.creds.Valid(now); err != nil {
		return "certificate.invalid", fmt.Errorf("new connections between this node and others are refused, and those that exist go on: %w", err)
	}
	if n := d.catalog.State().NodeByID(d.plane.id()); d.ready.Load() && n != nil && n.Serial != pki.Serial(d.plane.creds.Certificate()) {
		if err := d.introduce(); err != nil {
			return "certificate.renew", fmt.Errorf("it was renewed, and the catalog could not be told: %w", err)
		}
	}
	return "", nil
}

// renewCertificate has a certificate that is due replaced by one for a new key.
func (d *Daemon) renewCertificate(now time.Time) error {
	p := &d.plane
	if !p.creds.Due(now) {
		return nil
	}
	ca, bundle, err := d.renewer()
	if err != nil {
		return err
	}
	cert, key, err := issue(ca, p.creds.Self(), now, pki.NodeLife)
	if err != nil {
		return err
	}
	files := pki.Files{Dir: d.data.join(dirPKI)}
	if err := errors.Join(files.SaveBundle(bundle), files.SaveCertificate(cert, key), p.creds.Replace(cert, key, bundle)); err != nil {
		return err
	}
	if s := d.shared.Load(); s != nil {
		if err := s.network.renew(p.creds); err != nil {
			return err
		}
	}
	done := issued("certificate.renew", d.nodeName(), "of a node", cert)
	if d.ready.Load() {
		d.noteDone(context.Background(), nil, done, nil)
	} else { // it may be renewed so that a majority can be found
		d.events.add(levelInfo, done.GetAction(), done.GetSubject(), done.GetDetail())
	}
	return nil
}

// renewer is the authority for the node's own certificate: before the node has
// found its cluster, the catalog may not have it yet.
func (d *Daemon) renewer() (*pki.Authority, pki.Bundle, error) {
	if s := d.catalog.State(); len(s.Authority.SealedKey) > 0 {
		return d.authority(s)
	}
	sealed, err := pki.Files{Dir: d.data.join(dirPKI)}.LoadAuthority()
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	return openAuthority(catalog.Authority{SealedKey: string(sealed), BundlePEM: string(d.plane.creds.Bundle().PEM())}, d.plane.keys, d.plane.self.Cluster)
}

// keepAuthority writes down what renewer needs at the next start.
func (d *Daemon) keepAuthority() error {
	sealed := d.catalog.State().Authority.SealedKey
	if d.plane.creds == nil || len(sealed) == 0 {
		return nil
	}
	return pki.Files{Dir: d.data.join(dirPKI)}.SaveAuthority([]byte(sealed))
}
