package auth

import (
	"crypto/fips140"
	"crypto/md5"  //nolint:gosec // CHAP with MD5 is what RFC 7143 makes mandatory
	"crypto/sha1" //nolint:gosec // registered for CHAP
	"crypto/sha256"
	"crypto/sha3"
	"strconv"
	"strings"
)

// Algorithm is a hash of CHAP, by its number in IANA's "PPP Authentication
// Algorithms".
type Algorithm uint8

// The algorithms.
const (
	MD5      Algorithm = 5
	SHA1     Algorithm = 6
	SHA256   Algorithm = 7
	SHA3_256 Algorithm = 8
)

// Algorithms are all that are known, strongest first.
func Algorithms() []Algorithm { return []Algorithm{SHA3_256, SHA256, SHA1, MD5} }

// String returns the algorithm's name.
func (a Algorithm) String() string {
	switch a {
	case MD5:
		return "MD5"
	case SHA1:
		return "SHA1"
	case SHA256:
		return "SHA-256"
	case SHA3_256:
		return "SHA3-256"
	}
	return "algorithm " + strconv.Itoa(int(a))
}

// Size is the length of a response in bytes, 0 for an unknown algorithm.
func (a Algorithm) Size() int {
	switch a {
	case MD5:
		return md5.Size
	case SHA1:
		return sha1.Size
	case SHA256, SHA3_256:
		return sha256.Size
	}
	return 0
}

// Response computes a CHAP response: the hash of identifier, secret and
// challenge (RFC 1994 §4.1). It returns nil for an unknown algorithm.
func (a Algorithm) Response(id byte, s Secret, challenge []byte) []byte {
	in := make([]byte, 0, 1+len(s.b)+len(challenge))
	in = append(in, id)
	in = append(in, s.b...)
	in = append(in, challenge...)
	defer clear(in)
	switch a {
	case MD5:
		h := md5.Sum(in) //nolint:gosec // see above
		return h[:]
	case SHA1:
		h := sha1.Sum(in) //nolint:gosec // see above
		return h[:]
	case SHA256:
		h := sha256.Sum256(in)
		return h[:]
	case SHA3_256:
		h := sha3.Sum256(in)
		return h[:]
	}
	return nil
}

// allowed reports whether the policy agrees to a.
func (p *Policy) allowed(a Algorithm) bool {
	if p.Algorithms == nil {
		return a.Size() != 0 && (a > SHA1 || !fips140.Enabled())
	}
	for _, b := range p.Algorithms {
		if a == b {
			return a.Size() != 0
		}
	}
	return false
}

// Choose picks from the host's list, "5,7" in its order of preference, the
// first algorithm that the policy agrees to.
func (p *Policy) Choose(list string) (Algorithm, bool) {
	for item := range strings.SplitSeq(list, ",") {
		n, err := strconv.ParseUint(item, 0, 8)
		if err == nil && p.allowed(Algorithm(n)) {
			return Algorithm(n), true
		}
	}
	return 0, false
}
