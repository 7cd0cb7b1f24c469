package pki

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// How long certificates last. Nodes renew theirs by themselves after two
// thirds of it (RenewAt), or when they are started later than that.
const (
	AuthorityLife = 10 * 365 * 24 * time.Hour
	NodeLife      = 365 * 24 * time.Hour
	ClientLifeMax = 365 * 24 * time.Hour
)

// clockSkew is by how much certificates are dated back: clocks of members
// differ, and one that just joined should not be refused by the slowest.
const clockSkew = time.Hour

// ErrRequest is wrapped by errors about requests for certificates.
var ErrRequest = errors.New("certificate request refused")

// SPKIHash is the SHA-256 of a certificate's SubjectPublicKeyInfo (RFC 5280
// §4.1.2.7): it names a key whatever certificate it is in.
type SPKIHash [sha256.Size]byte

// HashOf returns the hash of cert's key.
func HashOf(cert *x509.Certificate) SPKIHash { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// Authority signs certificates of one cluster. It is immutable.
type Authority struct {
	cluster string
	cert    *x509.Certificate
	key     ed25519.PrivateKey
}

// NewAuthority makes an authority for cluster, valid from now for AuthorityLife.
func NewAuthority(cluster string, now time.Time) (*Authority, error) {
	if err := checkName("cluster", cluster); err != nil {
		return nil, err
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{Organization: []string{"blockd"}, CommonName: cluster + " authority " + now.UTC().Format("2006-01-02")},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(AuthorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // it signs holders, not further authorities
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cluster: cluster, cert: cert, key: key}, nil
}

// Certificate returns the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Marshal returns the authority with its key as PEM. It belongs nowhere but
// into a Keyring's Seal.
func (a *Authority) Marshal() ([]byte, error) {
	key, err := marshalKey(a.key)
	if err != nil {
		return nil, err
	}
	return append(marshalCertificates(a.cert), key...), nil
}

// ParseAuthority is the inverse of Marshal, for the authority of cluster.
func ParseAuthority(cluster string, b []byte) (*Authority, error) {
	certs, rest, err := parseCertificates(b)
	if err != nil {
		return nil, err
	}
	if len(certs) != 1 || !certs[0].IsCA {
		return nil, errors.New("an authority is one CA certificate and its key; this is not")
	}
	key, err := parseKey(rest)
	if err != nil {
		return nil, err
	}
	if !key.Public().(ed25519.PublicKey).Equal(certs[0].PublicKey) {
		return nil, errors.New("the authority's key is not that of its certificate")
	}
	return &Authority{cluster: cluster, cert: certs[0], key: key}, nil
}

// NewRequest makes a key, and a request to sign it for id (PKCS #10,
// RFC 2986), as DER. The key never leaves who asks.
func NewRequest(id Identity) (key ed25519.PrivateKey, csr []byte, err error) {
	if _, key, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, nil, err
	}
	csr, err = RequestFor(key, id)
	return key, csr, err
}

// RequestFor is NewRequest for a key that there is.
func RequestFor(key ed25519.PrivateKey, id Identity) (csr []byte, err error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URI()}}, key)
}

// Sign issues a certificate for the key in csr, valid from now for life, to
// id, and returns it as DER. The caller decides who id is: by a token that was
// redeemed, by the certificate of who asks for a renewal, or because an
// administrator said so. What the request says about itself must agree with id, and
// nothing else of it is used.
func (a *Authority) Sign(csr []byte, id Identity, now time.Time, life time.Duration) ([]byte, error) {
	return a.sign(csr, id, now, life, func(ed25519.PublicKey) *big.Int { return newSerial() })
}

// SignJoin is Sign for a node that joins. Whoever of the members is asked, and however often, the certificate for
// a key has the same serial number, by which the catalog knows it: a node asks another when the first does
// not answer, and what the first did may come to light later, when the node works with what the second gave it.
func (a *Authority) SignJoin(csr []byte, id Identity, now time.Time) ([]byte, error) {
	return a.sign(csr, id, now, NodeLife, func(public ed25519.PublicKey) *big.Int {
		sum := sha256.New()
		sum.Write([]byte("blockd join serial 1\x00"))
		for _, part := range [][]byte{a.cert.Raw, []byte(id.String()), public} {
			part := sha256.Sum256(part)
			sum.Write(part[:])
		}
		return serialOf([16]byte(sum.Sum(nil)))
	})
}

func (a *Authority) sign(csr []byte, id Identity, now time.Time, life time.Duration, serial func(ed25519.PublicKey) *big.Int) ([]byte, error) {
	if err := id.Validate(); err != nil {
		return nil, err
	}
	if id.Cluster != a.cluster {
		return nil, fmt.Errorf("%w: it is for cluster %q, and this is %q", ErrRequest, id.Cluster, a.cluster)
	}
	if life <= 0 || !id.IsNode() && life > ClientLifeMax || id.IsNode() && life > NodeLife {
		return nil, fmt.Errorf("%w: a life of %v; at most %v", ErrRequest, life, ClientLifeMax)
	}
	if end := a.cert.NotAfter; now.Add(life).After(end) {
		if !now.Before(end) {
			return nil, fmt.Errorf("%w: the authority was valid until %s, and here it is %s; compare the clocks",
				ErrRequest, end.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
		life = end.Sub(now) // what outlives its authority is refused anyhow
	}
	public, err := checkRequest(csr, id)
	if err != nil {
		return nil, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.IsNode() {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	return x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          serial(public),
		Subject:               pkix.Name{Organization: []string{"blockd"}, CommonName: id.Node + id.Name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		URIs:                  []*url.URL{id.URI()},
	}, a.cert, public, a.key)
}

// checkRequest verifies that who made csr has the key, that the key is
// Ed25519, and that it asks to be id.
func checkRequest(csr []byte, id Identity) (ed25519.PublicKey, error) {
	if len(csr) > 16<<10 {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrRequest, len(csr))
	}
	req, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: it can't be parsed: %v", ErrRequest, err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("%w: it is not signed by the key it shows", ErrRequest)
	}
	public, ok := req.PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: its key is %s; make an Ed25519 key", ErrRequest, req.PublicKeyAlgorithm)
	}
	if len(req.URIs) != 1 || req.URIs[0].String() != id.String() {
		return nil, fmt.Errorf("%w: it asks for %v, but may only be %s", ErrRequest, req.URIs, id)
	}
	return public, nil
}

// RenewAt is when a certificate should be replaced: after two thirds of its
// life, which leaves the last third for trying again.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) * 2 / 3)
}

// Serial is how the catalog and operators call a certificate: its serial number, in hexadecimal.
func Serial(cert *x509.Certificate) string { return cert.SerialNumber.Text(16) }

func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails, see crypto/rand
	return serialOf(b)
}

func serialOf(b [16]byte) *big.Int {
	b[0] &= 0x7f // positive, RFC 5280 §4.1.2.2
	b[0] |= 0x40 // and never zero
	return new(big.Int).SetBytes(b[:])
}

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

func marshalCertificates(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: c.Raw})...)
	}
	return b
}

func marshalKey(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// parseCertificates reads certificates from the start of b, as PEM, and
// returns what follows them.
func parseCertificates(b []byte) (certs []*x509.Certificate, rest []byte, err error) {
	for {
		block, after := pem.Decode(b)
		if block == nil || block.Type != pemCertificate {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("certificate %d of the file: %w", len(certs)+1, err)
		}
		certs, b = append(certs, c), after
	}
	if len(certs) == 0 {
		return nil, nil, errors.New("no certificate in PEM found")
	}
	return certs, b, nil
}

func parseKey(b []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemKey {
		return nil, errors.New("no private key in PEM found")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the private key is a %T; it must be Ed25519", key)
	}
	return k, nil
}
