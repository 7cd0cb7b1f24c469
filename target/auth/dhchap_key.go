package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strings"
)

// DHHash is a hash function of DH-HMAC-CHAP; the values are the hash
// identifiers of NVMe base 2.0 §8.13.5.3.
type DHHash uint8

// The hash functions. DHHashNone stands in a key that is used as it is.
const (
	DHHashNone DHHash = 0
	DHSHA256   DHHash = 1
	DHSHA384   DHHash = 2
	DHSHA512   DHHash = 3
)

// Size is the length of the hash in bytes, 0 for DHHashNone and unknown ones.
func (h DHHash) Size() int {
	switch h {
	case DHSHA256:
		return sha256.Size
	case DHSHA384:
		return sha512.Size384
	case DHSHA512:
		return sha512.Size
	}
	return 0
}

// String is the name of the hash function.
func (h DHHash) String() string {
	switch h {
	case DHHashNone:
		return "none"
	case DHSHA256:
		return "SHA-256"
	case DHSHA384:
		return "SHA-384"
	case DHSHA512:
		return "SHA-512"
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

func (h DHHash) constructor() func() hash.Hash {
	switch h {
	case DHSHA384:
		return sha512.New384
	case DHSHA512:
		return sha512.New
	}
	return sha256.New
}

// mac is HMAC over the parts with the given key.
func (h DHHash) mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(h.constructor(), key)
	for _, p := range parts {
		_, _ = m.Write(p) // a hash never fails
	}
	return m.Sum(nil)
}

// DHKey is a key of DH-HMAC-CHAP with the hash that its transformation uses.
// The zero value is no key. It never prints.
type DHKey struct {
	Secret Secret
	Hash   DHHash
}

// errDHKey does not contain the key.
var errDHKey = errors.New("auth: malformed DH-HMAC-CHAP key: want DHHC-1:hh:base64: as `nvme gen-dhchap-key` prints it")

// ParseDHKey reads a key in its text form, DHHC-1:hh:base64: (NVMe base 2.0
// §8.13.5.8): hh is the hash of the transformation, the base64 holds 32, 48 or
// 64 bytes and their CRC-32. Space around it is ignored. The error does not
// contain the key.
func ParseDHKey(s string) (DHKey, error) {
	part := strings.Split(strings.TrimSpace(s), ":")
	if len(part) != 4 || part[0] != "DHHC-1" || part[3] != "" || len(part[1]) != 2 {
		return DHKey{}, errDHKey
	}
	h := DHHash(part[1][1] - '0')
	if part[1][0] != '0' || h > DHSHA512 {
		return DHKey{}, fmt.Errorf("auth: DH-HMAC-CHAP key with transformation %q: use 00, 01, 02 or 03", part[1])
	}
	b, err := base64.StdEncoding.DecodeString(part[2])
	if err != nil {
		return DHKey{}, errDHKey
	}
	n := len(b) - crc32.Size
	if n != 32 && n != 48 && n != 64 {
		return DHKey{}, fmt.Errorf("auth: DH-HMAC-CHAP key of %d bytes: use 32, 48 or 64", max(n, 0))
	}
	if crc32.ChecksumIEEE(b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return DHKey{}, errors.New("auth: DH-HMAC-CHAP key with a wrong checksum: copy it again")
	}
	secret, err := NewSecret(b[:n])
	return DHKey{Secret: secret, Hash: h}, err
}

// NewDHKey makes a random key of n bytes, 32, 48 or 64, in its text form.
func NewDHKey(n int, h DHHash) (string, error) {
	if n != 32 && n != 48 && n != 64 || h > DHSHA512 {
		return "", fmt.Errorf("auth: DH-HMAC-CHAP key of %d bytes for %v: use 32, 48 or 64 and a known hash", n, h)
	}
	b := make([]byte, n, n+crc32.Size)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return formatDHKey(b, h), nil
}

func formatDHKey(b []byte, h DHHash) string {
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return fmt.Sprintf("DHHC-1:%02d:%s:", h, base64.StdEncoding.EncodeToString(b))
}

// IsZero reports whether there is no key.
func (k DHKey) IsZero() bool { return k.Secret.IsZero() }

// Reveal returns the key in its text form, for those who store it.
func (k DHKey) Reveal() string { return formatDHKey(k.Secret.Reveal(), k.Hash) }

// transformed is the key as responses use it: bound to the NQN of its owner,
// unless its hash is DHHashNone.
func (k DHKey) transformed(nqn string) []byte {
	if k.Hash == DHHashNone {
		return k.Secret.Reveal()
	}
	return k.Hash.mac(k.Secret.b, []byte(nqn), []byte("NVMe-over-Fabrics"))
}
