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
	return openAuthority(s, d.plane.keys, d.plane.self.Cluster)
}

// openAuthority unseals the authority of cluster.
func openAuthority(s *catalog.State, keys pki.Keyring, cluster string) (*pki.Authority, pki.Bundle, error) {
	text, err := keys.Open(catalog.AuthorityLabel, []byte(s.Authority.SealedKey))
	if err != nil {
		return nil, pki.Bundle{}, fmt.Errorf("the authority's key: %w; is cluster.keys the one of this cluster?", err)
	}
	ca, err := pki.ParseAuthority(cluster, text)
	if err != nil {
		return nil, pki.Bundle{}, err
	}
	bundle, err := pki.ParseBundle([]byte(s.Authority.BundlePEM))
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

// renewEvery is how often the node looks at the age of its certificate.
const renewEvery = time.Hour

// renewLoop replaces the node's certificate before it ends, until ctx does.
func (d *Daemon) renewLoop(ctx context.Context) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		if err := d.renewCertificate(time.Now()); err != nil {
			d.events.add(levelError, "certificate.renew", d.nodeName(), fmt.Sprintf("it is valid until %s, and could not be renewed: %v; this is tried again every hour",
				timeText(d.plane.creds.Certificate().NotAfter), err))
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// renewCertificate has a certificate that is due replaced by one for a new key.
func (d *Daemon) renewCertificate(now time.Time) error {
	p := &d.plane
	if now.Before(p.creds.RenewAt()) {
		return nil
	}
	ca, bundle, err := d.authority(d.catalog.State())
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
	if d.shared.Load() != nil {
		if err := d.shared.Load().network.renew(p.creds); err != nil {
			return err
		}
	}
	d.noteDone(context.Background(), nil, issued("certificate.renew", d.nodeName(), "of a node", cert), nil)
	return d.introduce()
}
