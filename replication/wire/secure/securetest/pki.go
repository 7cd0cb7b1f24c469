// Package securetest makes a CA and certificates for tests. Keys are derived
// from names, so that a run can be repeated; nothing it makes is secret.
package securetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"net/url"
	"time"

	"blockd.dev/replication/wire/secure"
)

// Epoch is a moment at which the certificates of this package are valid, unless
// Valid says otherwise.
var Epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// PKI is a cluster's certificate authority.
type PKI struct {
	Cluster string
	key     ed25519.PrivateKey
	cert    *x509.Certificate
	pool    *x509.CertPool
}

// Leaf changes what a certificate says before it is signed.
type Leaf func(*x509.Certificate)

// Valid makes a certificate valid from and until.
func Valid(from, until time.Time) Leaf {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = from, until }
}

// Named makes a certificate carry the given URIs rather than the node's.
func Named(uris ...string) Leaf {
	return func(c *x509.Certificate) {
		c.URIs = nil
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, parsed)
		}
	}
}

// ForServersOnly makes a certificate that clients must not show.
func ForServersOnly() Leaf {
	return func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
}

// New makes the authority of a cluster. Authorities of two seeds don't trust
// each other, whatever their clusters are called.
func New(cluster, seed string) *PKI {
	key := keyOf("ca " + cluster + " " + seed)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "blockd CA of " + cluster},
		NotBefore:             Epoch.AddDate(-36, 0, 0),
		NotAfter:              Epoch.AddDate(100, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert := sign(template, template, key.Public(), key)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &PKI{Cluster: cluster, key: key, cert: cert, pool: pool}
}

// Node makes the credentials of a node. Without Valid they hold from 1990 to a
// hundred years after Epoch, so that tests may use real time and the time of
// testing/synctest, which begins in 2000.
func (p *PKI) Node(id string, change ...Leaf) *secure.Credentials {
	key := keyOf("node " + p.Cluster + " " + id)
	template := &x509.Certificate{
		SerialNumber: serialOf(id),
		Subject:      pkix.Name{CommonName: id},
		NotBefore:    Epoch.AddDate(-36, 0, 0),
		NotAfter:     Epoch.AddDate(100, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{secure.Identity{Cluster: p.Cluster, Node: id}.URI()},
	}
	for _, c := range change {
		c(template)
	}
	leaf := sign(template, p.cert, key.Public(), p.key)
	return &secure.Credentials{
		Cluster:     p.Cluster,
		Certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		Roots:       p.pool,
	}
}

func sign(template, parent *x509.Certificate, public any, key ed25519.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return cert
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func serialOf(id string) *big.Int {
	sum := sha256.Sum256([]byte(id))
	return new(big.Int).SetUint64(binary.BigEndian.Uint64(sum[:]) | 1)
}
