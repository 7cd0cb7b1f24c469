package pki

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// ErrPeer is wrapped by errors about the certificate that a peer has shown.
var ErrPeer = errors.New("peer refused")

// Credentials are what a member shows and whom it trusts. Renewal and rotation
// replace them under living TLS configurations; connections that exist keep
// what they were made with. Safe for concurrent use.
type Credentials struct {
	// Now is the wall clock that certificates are checked by; set it before use. nil is time.Now.
	Now     func() time.Time
	current atomic.Pointer[credentials]
}

type credentials struct {
	self   Identity
	cert   tls.Certificate
	bundle Bundle
}

// NewCredentials returns credentials that show cert, whose key is key, and trust bundle.
func NewCredentials(cert *x509.Certificate, key ed25519.PrivateKey, bundle Bundle) (*Credentials, error) {
	c := &Credentials{}
	return c, c.Replace(cert, key, bundle)
}

// Replace is for renewals and rotations. On error nothing has changed.
func (c *Credentials) Replace(cert *x509.Certificate, key ed25519.PrivateKey, bundle Bundle) error {
	self, err := IdentityOf(cert)
	if err != nil {
		return err
	}
	if !key.Public().(ed25519.PublicKey).Equal(cert.PublicKey) {
		return errors.New("the key is not that of the certificate")
	}
	if bundle.Len() == 0 {
		return errors.New("credentials need an authority to trust")
	}
	if old := c.current.Load(); old != nil && old.self != self {
		return fmt.Errorf("a certificate of %s can't replace one of %s", self, old.self)
	}
	// The authorities are shown as well: a joiner knows only the hash of one.
	chain := [][]byte{cert.Raw}
	for _, ca := range bundle.certs {
		chain = append(chain, ca.Raw)
	}
	c.current.Store(&credentials{self, tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: cert}, bundle})
	return nil
}

// Self is who the holder is.
func (c *Credentials) Self() Identity { return c.current.Load().self }

// Bundle is whom the holder trusts.
func (c *Credentials) Bundle() Bundle { return c.current.Load().bundle }

// Certificate is what the holder shows.
func (c *Credentials) Certificate() *x509.Certificate { return c.current.Load().cert.Leaf }

// Due reports whether the certificate should be replaced: from RenewAt on, if another
// would last longer; when it is not signed by the authority that signs now; and when it
// is not valid yet, which it is when it was made while the clock was ahead. Before its
// authority is valid the clock is wrong, and another certificate would be refused as well.
func (c *Credentials) Due(now time.Time) bool {
	cur := c.current.Load()
	leaf, signer := cur.cert.Leaf, cur.bundle.Signer()
	if now.Before(signer.NotBefore) {
		return false
	}
	old := !now.Before(RenewAt(leaf)) && leaf.NotAfter.Before(signer.NotAfter)
	return old || now.Before(leaf.NotBefore) || leaf.CheckSignatureFrom(signer) != nil
}

// Valid says in words why others would refuse the certificate, if they had the
// clock now; nil when they would not.
func (c *Credentials) Valid(now time.Time) error {
	cur := c.current.Load()
	return wrongTime(cur.self, cur.cert.Leaf, cur.bundle, now)
}

// ServerConfig is for a listener that speaks protocols (ALPN, RFC 7301), of
// which those in open may be spoken without a certificate: whoever answers
// there decides by PeerIdentity what a client may do. A certificate that is shown
// must always be valid.
func (c *Credentials) ServerConfig(protocols, open []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protocols,
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // a removed node must not come back on an old session
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &c.current.Load().cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				if s.NegotiatedProtocol == "" || slices.Contains(open, s.NegotiatedProtocol) {
					return nil
				}
				return fmt.Errorf("%w: it has shown no certificate, which %s needs", ErrPeer, s.NegotiatedProtocol)
			}
			id, err := c.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth)
			if err != nil {
				return err
			}
			if !id.IsNode() && s.NegotiatedProtocol != "" && !slices.Contains(open, s.NegotiatedProtocol) {
				return fmt.Errorf("%w: %s is no node, which %s needs", ErrPeer, id, s.NegotiatedProtocol)
			}
			return nil
		},
	}
}

// ClientConfig is for a connection to node, or to any node of the cluster when node is "".
func (c *Credentials) ClientConfig(node string, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: protocols,
		// Nodes are known by their names in the cluster, not by those of DNS;
		// VerifyConnection does all of the verification.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &c.current.Load().cert, nil
		},
		VerifyConnection: func(s tls.ConnectionState) error {
			id, err := c.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth)
			switch {
			case err != nil:
				return err
			case !id.IsNode():
				return fmt.Errorf("%w: %s is no node", ErrPeer, id)
			case node != "" && id.Node != node:
				return fmt.Errorf("%w: %s answers where node %q was expected; check the address", ErrPeer, id, node)
			}
			return nil
		},
	}
}

func (c *Credentials) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (Identity, error) {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	cur := c.current.Load()
	id, err := verifyChain(cur.bundle, chain, now(), usage)
	if err == nil && id.Cluster != cur.self.Cluster {
		err = fmt.Errorf("%w: %s is of another cluster than %s", ErrPeer, id, cur.self)
	}
	return id, err
}

// PeerIdentity is who is at the other end of a connection made with
// ServerConfig or ClientConfig; ok is false for a client without a certificate.
func PeerIdentity(s *tls.ConnectionState) (id Identity, ok bool) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return Identity{}, false
	}
	id, err := IdentityOf(s.PeerCertificates[0])
	return id, err == nil
}

// JoinConfig is for the joiner's first connection: it trusts who the token's
// authority has signed, and shows nothing. PeerCertificates of the connection
// then verify by Token.VerifyCluster.
func (t Token) JoinConfig(now func() time.Time, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         protocols,
		InsecureSkipVerify: true, // VerifyConnection does all of it
		VerifyConnection: func(s tls.ConnectionState) error {
			_, _, err := t.VerifyCluster(s.PeerCertificates, now())
			return err
		},
	}
}

// verifyChain checks that the first of chain is valid now, for usage, and
// signed by one of bundle.
func verifyChain(bundle Bundle, chain []*x509.Certificate, now time.Time, usage x509.ExtKeyUsage) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, fmt.Errorf("%w: it has shown no certificate", ErrPeer)
	}
	leaf := chain[0]
	id, err := IdentityOf(leaf)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrPeer, err)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: bundle.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err == nil {
		return id, nil
	}
	// That an authority is not valid now is to x509 one that nobody knows.
	if wrong := wrongTime(id, leaf, bundle, now); wrong != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrPeer, wrong)
	}
	if errors.As(err, new(x509.UnknownAuthorityError)) {
		return Identity{}, fmt.Errorf("%w: the certificate of %s is signed by %q, which is not this cluster's authority", ErrPeer, id, leaf.Issuer.CommonName)
	}
	return Identity{}, fmt.Errorf("%w: the certificate of %s: %w", ErrPeer, id, err)
}

// wrongTime says in words why the certificate of id, or the authority in bundle that
// has signed it, is not valid now; nil when they are.
func wrongTime(id Identity, leaf *x509.Certificate, bundle Bundle, now time.Time) error {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	const (
		early = "%s is not valid before %s, and here it is %s; compare the clocks"
		late  = "%s was valid until %s, and here it is %s; compare the clocks"
	)
	what, advice := fmt.Sprintf("the certificate of %s", id), "; if they are right, have another issued"
	if id.IsNode() {
		advice = "; if they are right, look there why it is not renewed (blockctl events)"
	}
	for _, c := range append([]*x509.Certificate{leaf}, bundle.certs...) {
		if c != leaf {
			what, advice = fmt.Sprintf("the authority that signed the certificate of %s", id), ""
			if leaf.CheckSignatureFrom(c) != nil {
				continue
			}
		}
		switch {
		case now.Before(c.NotBefore):
			return fmt.Errorf(early, what, at(c.NotBefore), at(now))
		case now.After(c.NotAfter):
			return fmt.Errorf(late+advice, what, at(c.NotAfter), at(now))
		}
	}
	return nil
}
