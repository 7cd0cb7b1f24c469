package auth

import (
	"crypto/subtle"
	"errors"
	"fmt"
)

// Limits of a CHAP secret in bytes. RFC 7143 §9.2.1 wants at least 96 bits
// where IPsec is not in use; hosts truncate what is longer than 255.
const (
	SecretMin = 12
	SecretMax = 255
)

// hidden stands for every secret.
const hidden = "[secret]"

// Secret is a shared secret. It never prints.
type Secret struct{ b []byte }

// NewSecret copies b into a Secret. The error, for a length outside SecretMin
// to SecretMax, does not contain it.
func NewSecret(b []byte) (Secret, error) {
	if len(b) < SecretMin || len(b) > SecretMax {
		return Secret{}, fmt.Errorf("auth: secret of %d bytes: use %d to %d bytes", len(b), SecretMin, SecretMax)
	}
	return Secret{b: append([]byte(nil), b...)}, nil
}

// IsZero reports whether there is no secret.
func (s Secret) IsZero() bool { return len(s.b) == 0 }

// Equal compares in constant time.
func (s Secret) Equal(t Secret) bool { return subtle.ConstantTimeCompare(s.b, t.b) == 1 }

// Reveal returns a copy of the secret's bytes, for those who store it.
func (s Secret) Reveal() []byte { return append([]byte(nil), s.b...) }

// String hides the secret.
func (s Secret) String() string { return hidden }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return hidden }

// Format hides the secret from every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText hides the secret from encoders. What stores secrets uses Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// errSameSecret: RFC 7143 §9.2.1 forbids one secret for both directions,
// since a reflected challenge would then be answered.
var errSameSecret = errors.New("auth: the host's secret and the target's are the same: set two different ones")
