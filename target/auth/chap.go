package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
)

// ChallengeMax is the longest challenge, in bytes (RFC 7143 §12.1.3).
const ChallengeMax = 1024

// The ways that CHAP fails. All of them are one answer to the host.
var (
	// ErrAuth means that the host did not prove to be who it says.
	ErrAuth = errors.New("auth: wrong name or response")
	// ErrReflected means that the host's challenge is one the target itself
	// gave out: it wants the target to compute an answer for it.
	ErrReflected = errors.New("auth: challenge is one of the target's own")
	// ErrNoMutual means that the host wants proof and the target has no secret.
	ErrNoMutual = errors.New("auth: the target has no secret for this host")
	// ErrNeedMutual means that the host must ask the target for proof.
	ErrNeedMutual = errors.New("auth: this host must use mutual authentication")
)

// remembered is how many challenges a Challenges keeps: more than there are
// logins at once.
const remembered = 1024

// Challenges remembers the challenges that were given out lately by all
// connections, so that one that comes back from another connection is
// recognised (RFC 7143 §9.2.1). The zero value is ready to use.
type Challenges struct {
	mu   sync.Mutex
	ring [remembered][sha256.Size]byte
	set  map[[sha256.Size]byte]struct{}
	next int
}

func (c *Challenges) add(challenge []byte) {
	h := sha256.Sum256(challenge)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set == nil {
		c.set = make(map[[sha256.Size]byte]struct{}, remembered)
	}
	delete(c.set, c.ring[c.next])
	c.ring[c.next] = h
	c.set[h] = struct{}{}
	c.next = (c.next + 1) % remembered
}

func (c *Challenges) has(challenge []byte) bool {
	h := sha256.Sum256(challenge)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.set[h]
	return ok
}

// CHAP is the target's side of one authentication: Challenge, then Verify,
// then Answer if the host wants proof as well.
type CHAP struct {
	policy    Policy
	given     *Challenges
	algorithm Algorithm
	id        byte
	challenge [32]byte
}

// NewCHAP begins an authentication with the algorithm that Policy.Choose
// picked. given is shared by all connections of a server.
func NewCHAP(p Policy, a Algorithm, given *Challenges) *CHAP {
	return &CHAP{policy: p, algorithm: a, given: given}
}

// Challenge makes the identifier and the challenge for the host.
func (c *CHAP) Challenge() (id byte, challenge []byte) {
	var r [1]byte
	_, _ = rand.Read(r[:]) // crypto/rand.Read never fails
	_, _ = rand.Read(c.challenge[:])
	c.id = r[0]
	c.given.add(c.challenge[:])
	return c.id, c.challenge[:]
}

// Verify checks the host's name and response. It takes the same time whatever
// is wrong.
func (c *CHAP) Verify(name string, response []byte) error {
	want := c.algorithm.Response(c.id, c.policy.Host.Secret, c.challenge[:])
	nameOK := subtle.ConstantTimeCompare([]byte(name), []byte(c.policy.Host.Name))
	respOK := subtle.ConstantTimeCompare(response, want)
	if nameOK&respOK != 1 || c.policy.Host.IsZero() {
		return ErrAuth
	}
	return nil
}

// MutualRequired reports whether the host must ask for proof.
func (c *CHAP) MutualRequired() bool { return c.policy.RequireMutual }

// Answer proves the target to the host. The challenge must not be one that
// the target gave out.
func (c *CHAP) Answer(id byte, challenge []byte) (name string, response []byte, err error) {
	if c.policy.Target.IsZero() {
		return "", nil, ErrNoMutual
	}
	if bytes.Equal(challenge, c.challenge[:]) || c.given.has(challenge) {
		return "", nil, ErrReflected
	}
	return c.policy.Target.Name, c.algorithm.Response(id, c.policy.Target.Secret, challenge), nil
}
