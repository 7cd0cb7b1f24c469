package secure

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Credentials are what a node shows and what it trusts. They are not changed
// once in use; renewal makes new ones.
type Credentials struct {
	Cluster     string          // its name, as certificates spell it
	Certificate tls.Certificate // of this node, with its key
	Roots       *x509.CertPool  // of the cluster's CA; two while it changes
}

// Identity is who a certificate says its holder is.
type Identity struct {
	Cluster string
	Node    string
}

// URI is the name of a node in its certificate, a URI among the subject's
// alternative names: blockd://CLUSTER/node/ID.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "blockd", Host: id.Cluster, Path: "/node/" + id.Node}
}

// Self is who the credentials say this node is. It fails when the certificate
// can't be used to talk to nodes.
func (c *Credentials) Self() (Identity, error) {
	if len(c.Certificate.Certificate) == 0 || c.Certificate.PrivateKey == nil {
		return Identity{}, fmt.Errorf("%w: this node has none, or no key for it; give it one of the cluster", ErrCertificate)
	}
	if c.Roots == nil {
		return Identity{}, fmt.Errorf("%w: this node trusts no CA; give it the cluster's", ErrCertificate)
	}
	leaf := c.Certificate.Leaf
	if leaf == nil {
		var err error
		if leaf, err = x509.ParseCertificate(c.Certificate.Certificate[0]); err != nil {
			return Identity{}, fmt.Errorf("%w: this node's: %v", ErrCertificate, err)
		}
	}
	id, err := identityOf(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("this node's own: %w", err)
	}
	if id.Cluster != c.Cluster {
		return Identity{}, fmt.Errorf("%w: this node's is of cluster %q, not %q", ErrCertificate, id.Cluster, c.Cluster)
	}
	return id, nil
}

// Peer is who the other end of a connection is.
type Peer struct {
	Identity
	Version string // of the protocol, agreed
}

// verify checks the chain that a peer has shown, leaf first. now is wall-clock
// time; asServer tells whether the peer is the server of the connection;
// wantNode is who it must be, if not empty.
func (c *Credentials) verify(chain []*x509.Certificate, now time.Time, asServer bool, wantNode string) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, fmt.Errorf("%w: the peer has shown none", ErrCertificate)
	}
	leaf := chain[0]
	usage := x509.ExtKeyUsageClientAuth
	if asServer {
		usage = x509.ExtKeyUsageServerAuth
	}
	opts := x509.VerifyOptions{
		Roots:         c.Roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, ca := range chain[1:] {
		opts.Intermediates.AddCert(ca)
	}
	if _, err := leaf.Verify(opts); err != nil {
		return Identity{}, chainError(leaf, now, err)
	}
	id, err := identityOf(leaf)
	if err != nil {
		return Identity{}, err
	}
	if id.Cluster != c.Cluster {
		return Identity{}, fmt.Errorf("%w: %s is of cluster %q, this node is of %q; check the address",
			ErrCertificate, describe(leaf), id.Cluster, c.Cluster)
	}
	if wantNode != "" && id.Node != wantNode {
		return Identity{}, fmt.Errorf("%w: %s answers where node %q was expected; check the address",
			ErrCertificate, describe(leaf), wantNode)
	}
	return id, nil
}

// chainError puts what crypto/x509 has found into words.
func chainError(leaf *x509.Certificate, now time.Time, err error) error {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		cert := leaf
		if invalid.Cert != nil {
			cert = invalid.Cert
		}
		if now.Before(cert.NotBefore) {
			return fmt.Errorf("%w: %s is not valid before %s, and here it is %s; compare the clocks",
				ErrCertificate, describe(cert), stamp(cert.NotBefore), stamp(now))
		}
		return fmt.Errorf("%w: %s was valid until %s, and here it is %s; renew it, or compare the clocks",
			ErrCertificate, describe(cert), stamp(cert.NotAfter), stamp(now))
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %s is signed by %q, which is not the cluster's CA; give the node a certificate of this cluster",
			ErrCertificate, describe(leaf), leaf.Issuer.String())
	}
	return fmt.Errorf("%w: %s: %v", ErrCertificate, describe(leaf), err)
}

// identityOf reads the name of a node out of its certificate.
func identityOf(cert *x509.Certificate) (Identity, error) {
	for _, uri := range cert.URIs {
		if uri.Scheme != "blockd" {
			continue
		}
		node, ok := strings.CutPrefix(uri.Path, "/node/")
		if !ok || node == "" || strings.Contains(node, "/") || uri.Host == "" {
			return Identity{}, fmt.Errorf("%w: %s names %q, which is no node; only nodes talk here",
				ErrCertificate, describe(cert), uri.String())
		}
		return Identity{Cluster: uri.Host, Node: node}, nil
	}
	return Identity{}, fmt.Errorf("%w: %s has no name blockd://CLUSTER/node/ID", ErrCertificate, describe(cert))
}

// describe names a certificate so that an operator finds it.
func describe(cert *x509.Certificate) string {
	name := cert.Subject.String()
	if len(cert.URIs) > 0 {
		name = cert.URIs[0].String()
	}
	return fmt.Sprintf("certificate %q (serial %x)", name, cert.SerialNumber)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
