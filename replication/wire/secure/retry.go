package secure

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"blockd.dev/internal/clock"
)

const (
	// RetryTokenLen is the length of a retry token in bytes.
	RetryTokenLen = 1 + 8 + 16
	// RetryTokenLife is for how long a retry token is taken.
	RetryTokenLife = 10 * time.Second

	retrySecretLife = 2 * time.Minute
)

// RetryTokens makes and checks tokens that show that a client receives what is
// sent to the address it says it has. The node keeps nothing per token:
//
//	generation of the secret (1) | time of issue (8) | HMAC-SHA256, first half (16)
//
// The MAC also covers the address, and what the caller binds it to. The secret
// is random and is replaced every two minutes, a token of the one before still
// being taken. It is safe for concurrent use.
type RetryTokens struct {
	mu struct {
		sync.Mutex
		generation uint8
		since      clock.Mono
		secrets    [2][32]byte // by the generation's lowest bit
	}
}

// NewRetryTokens makes a maker of tokens with a fresh secret.
func NewRetryTokens(now clock.Mono) *RetryTokens {
	t := &RetryTokens{}
	t.mu.since = now
	fill(&t.mu.secrets[0])
	fill(&t.mu.secrets[1])
	return t
}

// Append appends the token for a client at peer to dst. bound is anything that
// must be the same when the token comes back, such as a connection's ID.
func (t *RetryTokens) Append(dst []byte, now clock.Mono, peer netip.AddrPort, bound []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.mu.since) >= retrySecretLife {
		t.mu.generation++
		t.mu.since = now
		fill(&t.mu.secrets[t.mu.generation&1])
	}
	start := len(dst)
	dst = append(dst, t.mu.generation)
	dst = binary.BigEndian.AppendUint64(dst, uint64(now))
	tag := retryTag(&t.mu.secrets[t.mu.generation&1], dst[start:], peer, bound)
	return append(dst, tag[:]...)
}

// Valid tells whether token was made here, for peer and bound, and not longer
// than RetryTokenLife ago.
func (t *RetryTokens) Valid(now clock.Mono, peer netip.AddrPort, bound, token []byte) bool {
	if len(token) != RetryTokenLen {
		return false
	}
	issued := clock.Mono(binary.BigEndian.Uint64(token[1:]))
	if issued > now || now.Sub(issued) > RetryTokenLife {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if age := t.mu.generation - token[0]; age > 1 {
		return false
	}
	tag := retryTag(&t.mu.secrets[token[0]&1], token[:9], peer, bound)
	return hmac.Equal(tag[:], token[9:])
}

func retryTag(secret *[32]byte, head []byte, peer netip.AddrPort, bound []byte) [16]byte {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(head)
	addr := peer.Addr().As16()
	mac.Write(addr[:])
	mac.Write(binary.BigEndian.AppendUint16(nil, peer.Port()))
	mac.Write(bound)
	return [16]byte(mac.Sum(nil))
}

func fill(secret *[32]byte) { _, _ = rand.Read(secret[:]) } // crypto/rand.Read never fails
