package auth

import (
	"errors"
)

// ErrNotAllowed is a Directory's answer for a host that may not log in.
var ErrNotAllowed = errors.New("auth: host is not allowed")

// Directory says what a host must show. Implementations answer from memory,
// from any goroutine; they are asked once for each login.
type Directory interface {
	// Host returns what the host of that name must present to log in to the
	// target, or ErrNotAllowed. name is normalised to lower case.
	Host(name string) (Policy, error)
	// Discovery returns what the host must present to ask for the list of
	// targets, or ErrNotAllowed.
	Discovery(name string) (Policy, error)
}

// Credentials are a CHAP name and its secret.
type Credentials struct {
	Name   string
	Secret Secret
}

// IsZero reports whether there are no credentials.
func (c Credentials) IsZero() bool { return c.Secret.IsZero() }

// Policy is what one host must present and what it may ask of the target. The
// zero value lets it in without proof.
type Policy struct {
	// Host is what the host proves to know. Zero means no authentication.
	Host Credentials
	// Target is what the target proves when the host asks for it. Zero means
	// that mutual authentication is refused.
	Target Credentials
	// RequireMutual refuses a host that does not ask the target for proof.
	RequireMutual bool
	// Algorithms are those the target agrees to; nil means all but MD5 where
	// crypto/fips140 is on, else all.
	Algorithms []Algorithm
}

// Validate checks that the parts of the policy go together.
func (p *Policy) Validate() error {
	if p.Host.IsZero() && !p.Target.IsZero() {
		return errors.New("auth: a secret of the target without one of the host: CHAP authenticates the host first; set its secret too")
	}
	if !p.Host.IsZero() && p.Host.Secret.Equal(p.Target.Secret) {
		return errSameSecret
	}
	if p.RequireMutual && p.Target.IsZero() {
		return errors.New("auth: mutual authentication is required but the target has no secret: set one")
	}
	return nil
}

// AllowAll is a Directory that lets every host in without proof.
type AllowAll struct{}

// Host returns the zero Policy.
func (AllowAll) Host(string) (Policy, error) { return Policy{}, nil }

// Discovery returns the zero Policy.
func (AllowAll) Discovery(string) (Policy, error) { return Policy{}, nil }
