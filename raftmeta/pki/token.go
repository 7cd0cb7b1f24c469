package pki

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

// TokenLifeMax is the longest that a token may let somebody in.
const TokenLifeMax = 7 * 24 * time.Hour

// Why a token lets nobody in. Text that wraps them says more.
var (
	ErrToken        = errors.New("not a join token")
	ErrTokenUnknown = errors.New("the join token is not known here") // or its secret is wrong
	ErrTokenExpired = errors.New("the join token has expired")
	ErrTokenUsed    = errors.New("the join token was used before")
	ErrTokenCluster = errors.New("this is not the cluster of the join token")
)

// Token lets one node into a cluster until it expires. Whoever holds it can
// join, so it is treated as a password; it also tells the joiner whom to
// trust, so it must come from the cluster on a way that nobody can change.
type Token struct {
	ID        [8]byte
	Secret    [16]byte
	Authority SPKIHash  // of the authority that signed when it was made
	Expires   time.Time // in whole seconds
	Addresses []string  // of control ports, HOST:PORT; 1 to 8
}

// The text form: "blockd-join-" and, in unpadded base64url (RFC 4648 §5),
//
//	| 1 version=1 | 8 id | 16 secret | 32 authority | 8 expires, seconds |
//	| 1 count | count times: 1 length, address | 4 CRC32C of all before |
//
// Numbers are big-endian. The checksum is for what was cut short in copying.
const (
	tokenPrefix    = "blockd-join-"
	tokenVersion   = 1
	tokenFixed     = 1 + 8 + 16 + 32 + 8 + 1
	addressesMax   = 8
	addressLenMax  = 255
	tokenBinaryMax = tokenFixed + addressesMax*(1+addressLenMax) + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NewToken makes a token for the cluster whose authority is ca, and the record
// of it for the replicated state.
func NewToken(ca *x509.Certificate, expires time.Time, addresses []string) (Token, TokenRecord, error) {
	t := Token{Authority: HashOf(ca), Expires: expires.Truncate(time.Second).UTC(), Addresses: addresses}
	if len(addresses) == 0 || len(addresses) > addressesMax {
		return Token{}, TokenRecord{}, fmt.Errorf("a join token names 1 to %d addresses, not %d", addressesMax, len(addresses))
	}
	for _, a := range addresses {
		if a == "" || len(a) > addressLenMax {
			return Token{}, TokenRecord{}, fmt.Errorf("a join token can't name the address %q", a)
		}
	}
	_, _ = rand.Read(t.ID[:]) // never fails, see crypto/rand
	_, _ = rand.Read(t.Secret[:])
	return t, t.Record(), nil
}

// String returns the text that is given to the node.
func (t Token) String() string {
	b := make([]byte, 0, tokenFixed+64)
	b = append(b, tokenVersion)
	b = append(b, t.ID[:]...)
	b = append(b, t.Secret[:]...)
	b = append(b, t.Authority[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	b = append(b, byte(len(t.Addresses)))
	for _, a := range t.Addresses {
		b = append(b, byte(len(a)))
		b = append(b, a...)
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken is the inverse of String. It doesn't check whether t has expired.
func ParseToken(s string) (t Token, err error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it begins with %s", ErrToken, tokenPrefix)
	}
	if len(text) > base64.RawURLEncoding.EncodedLen(tokenBinaryMax) {
		return Token{}, fmt.Errorf("%w: it is too long", ErrToken)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < tokenFixed+4 {
		return Token{}, fmt.Errorf("%w: it is cut short or has a wrong character; copy it again", ErrToken)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return Token{}, fmt.Errorf("%w: its checksum is wrong; copy it again", ErrToken)
	}
	if body[0] != tokenVersion {
		return Token{}, fmt.Errorf("%w: version %d, this blockd knows %d; use the same release", ErrToken, body[0], tokenVersion)
	}
	copy(t.ID[:], body[1:])
	copy(t.Secret[:], body[9:])
	copy(t.Authority[:], body[25:])
	seconds := binary.BigEndian.Uint64(body[57:])
	if seconds > 1<<40 {
		return Token{}, fmt.Errorf("%w: it has no sensible expiry", ErrToken)
	}
	t.Expires = time.Unix(int64(seconds), 0).UTC()
	count, rest := int(body[65]), body[66:]
	if count == 0 || count > addressesMax {
		return Token{}, fmt.Errorf("%w: it names %d addresses", ErrToken, count)
	}
	for range count {
		if len(rest) == 0 || rest[0] == 0 || len(rest) < 1+int(rest[0]) {
			return Token{}, fmt.Errorf("%w: its addresses are cut short", ErrToken)
		}
		t.Addresses = append(t.Addresses, string(rest[1:1+rest[0]]))
		rest = rest[1+rest[0]:]
	}
	if len(rest) != 0 {
		return Token{}, fmt.Errorf("%w: %d bytes too many", ErrToken, len(rest))
	}
	return t, nil
}

// VerifyCluster is the joiner's first check, on the chain that a member showed
// in the TLS handshake (leaf first, then the cluster's authorities): that it is signed by the
// authority the token names, and is a node's. Only then may the secret be
// sent. It returns the authority, with which the joiner verifies all further connections.
func (t Token) VerifyCluster(chain []*x509.Certificate, now time.Time) (*x509.Certificate, Identity, error) {
	if len(chain) == 0 {
		return nil, Identity{}, fmt.Errorf("%w: the server has shown no certificate", ErrTokenCluster)
	}
	for _, ca := range chain[1:] {
		if HashOf(ca) != t.Authority {
			continue
		}
		id, err := verifyChain(NewBundle(ca), chain, now, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return nil, Identity{}, err
		}
		if !id.IsNode() {
			return nil, Identity{}, fmt.Errorf("%w: the server is %s, no node", ErrTokenCluster, id)
		}
		return ca, id, nil
	}
	return nil, Identity{}, fmt.Errorf("%w: its authority is another, or was rotated since the token was made; make a new token", ErrTokenCluster)
}

// TokenRecord is what the replicated state keeps of a token. It does not have
// the secret. Tokens have 128 random bits, so a plain keyed hash keeps the
// secret from who reads the state; there is nothing to guess.
type TokenRecord struct {
	ID      [8]byte
	Proof   [32]byte // Token.Proof
	Expires int64    // seconds since 1970 UTC
	UsedBy  string   // the node that it let in; "" before
}

// Proof is what a joiner's secret is compared by. Members compute it from the secret
// they were sent, and put it into the command; the secret stays out of the log.
func (t Token) Proof() [32]byte {
	mac := hmac.New(sha256.New, t.Secret[:])
	mac.Write([]byte("blockd join token 1\x00"))
	mac.Write(t.ID[:])
	return [32]byte(mac.Sum(nil))
}

// Record is the token's record, not used yet.
func (t Token) Record() TokenRecord {
	return TokenRecord{ID: t.ID, Proof: t.Proof(), Expires: t.Expires.Unix()}
}

// Name is the token's id for people: what lists and the audit log show.
func (r TokenRecord) Name() string { return hex.EncodeToString(r.ID[:]) }

// Redeem lets node in and returns the record as it is afterwards, which the
// state machine stores. It is a pure function: now (seconds since 1970 UTC)
// comes with the command. The same node may come again with the same token,
// as it does when the answer to its first attempt was lost; another may not.
func (r TokenRecord) Redeem(proof [32]byte, node string, now int64) (TokenRecord, error) {
	switch {
	case subtle.ConstantTimeCompare(proof[:], r.Proof[:]) != 1:
		return r, ErrTokenUnknown
	case r.UsedBy != "" && r.UsedBy != node:
		return r, fmt.Errorf("%w, by node %q; make a new one", ErrTokenUsed, r.UsedBy)
	case now >= r.Expires:
		return r, fmt.Errorf("%w at %s; make a new one", ErrTokenExpired, time.Unix(r.Expires, 0).UTC().Format(time.RFC3339))
	}
	r.UsedBy = node
	return r, nil
}
