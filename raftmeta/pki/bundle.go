package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
)

// Bundle is what a cluster trusts: one authority, or two during a rotation.
// The one that signs comes first. It is immutable; the zero Bundle trusts nobody.
type Bundle struct {
	certs []*x509.Certificate
}

// NewBundle trusts ca alone.
func NewBundle(ca *x509.Certificate) Bundle { return Bundle{[]*x509.Certificate{ca}} }

// With also trusts next, and keeps who signs. It fails while another rotation is under way.
func (b Bundle) With(next *x509.Certificate) (Bundle, error) {
	if len(b.certs) != 1 {
		return b, errors.New("a rotation of the authority is under way; finish it by retiring the old one")
	}
	return Bundle{[]*x509.Certificate{b.certs[0], next}}, nil
}

// Switched makes the other authority the one that signs.
func (b Bundle) Switched() (Bundle, error) {
	if len(b.certs) != 2 {
		return b, errors.New("no rotation of the authority is under way; prepare one first")
	}
	return Bundle{[]*x509.Certificate{b.certs[1], b.certs[0]}}, nil
}

// Without trusts only who signs now.
func (b Bundle) Without() Bundle { return Bundle{b.certs[:1]} }

// Signer returns the authority that signs now, nil for the zero Bundle.
func (b Bundle) Signer() *x509.Certificate {
	if len(b.certs) == 0 {
		return nil
	}
	return b.certs[0]
}

// Len is 1, or 2 during a rotation.
func (b Bundle) Len() int { return len(b.certs) }

// Pool returns the authorities for TLS.
func (b Bundle) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range b.certs {
		pool.AddCert(c)
	}
	return pool
}

// PEM returns the bundle's text form, the signer first.
func (b Bundle) PEM() []byte { return marshalCertificates(b.certs...) }

// ParseBundle is the inverse of PEM.
func ParseBundle(text []byte) (Bundle, error) {
	certs, _, err := parseCertificates(text)
	if err != nil {
		return Bundle{}, err
	}
	if len(certs) > 2 {
		return Bundle{}, fmt.Errorf("a bundle has one or two authorities, not %d", len(certs))
	}
	for _, c := range certs {
		if !c.IsCA {
			return Bundle{}, fmt.Errorf("certificate %q is not of an authority", c.Subject)
		}
	}
	return Bundle{certs}, nil
}
