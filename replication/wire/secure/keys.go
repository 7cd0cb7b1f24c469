package secure

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	tagLen      = 16
	nonceLen    = 12
	labelPrefix = "blockd1 "
)

// suite is what a TLS cipher suite means for packets.
type suite struct {
	hash    func() hash.Hash
	hashLen int
	keyLen  int
	aead    func(key []byte) (cipher.AEAD, error)
	// forgedMax is how many forged packets all keys of a connection together
	// may be tried with: RFC 9001 §6.6, for packets of any length.
	forgedMax uint64
}

func suiteOf(id uint16) (*suite, error) {
	switch id {
	case tls.TLS_AES_128_GCM_SHA256:
		return &suite{sha256.New, sha256.Size, 16, aesGCM, 1 << 52}, nil
	case tls.TLS_AES_256_GCM_SHA384:
		return &suite{sha512.New384, sha512.Size384, 32, aesGCM, 1 << 52}, nil
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		return &suite{sha256.New, sha256.Size, chacha20poly1305.KeySize, chacha20poly1305.New, 1 << 36}, nil
	}
	return nil, fmt.Errorf("%w: cipher suite %s is not known here", ErrHandshake, tls.CipherSuiteName(id))
}

func aesGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expand is HKDF-Expand-Label (RFC 8446 §7.1) with an empty context.
func (s *suite) expand(secret []byte, label string, length int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(length))
	info = append(info, byte(len(labelPrefix)+len(label)))
	info = append(info, labelPrefix...)
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash, secret, string(info), length)
}

// key is what packets of one direction are protected with, for a time.
type key struct {
	suite  *suite
	secret []byte
	aead   cipher.AEAD
	iv     [nonceLen]byte
}

// newKey derives a key from a traffic secret, which it keeps.
func newKey(s *suite, secret []byte) (*key, error) {
	raw, err := s.expand(secret, "key", s.keyLen)
	if err != nil {
		return nil, err
	}
	aead, err := s.aead(raw)
	clear(raw)
	if err != nil {
		return nil, err
	}
	iv, err := s.expand(secret, "iv", nonceLen)
	if err != nil {
		return nil, err
	}
	if aead.NonceSize() != nonceLen || aead.Overhead() != tagLen {
		return nil, fmt.Errorf("nonce of %d bytes and tag of %d", aead.NonceSize(), aead.Overhead())
	}
	return &key{suite: s, secret: secret, aead: aead, iv: [nonceLen]byte(iv)}, nil
}

// next is the key after k. Who has it can't find k.
func (k *key) next() *key {
	secret, err := k.suite.expand(k.secret, "next", k.suite.hashLen)
	if err == nil {
		k, err = newKey(k.suite, secret)
	}
	if err != nil {
		panic("secure: key of the same suite as one before: " + err.Error()) // lengths are constants
	}
	return k
}

// setNonce makes IV xor number, the number being right-aligned (RFC 9001 §5.3).
func (k *key) setNonce(into *[nonceLen]byte, number uint64) {
	*into = k.iv
	tail := into[nonceLen-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^number)
}
