package pki

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Errors of Open.
var (
	ErrSealKey  = errors.New("sealed by a cluster key that this node does not have")
	ErrSealOpen = errors.New("sealed value is damaged, or was moved from where it belongs")
)

// A sealed value:
//
//	| 1 version=1 | 4 key id, big-endian | 12 nonce | ciphertext | 16 tag |
//
// AES-256-GCM (NIST SP 800-38D) with a random nonce, which is safe for 2^32
// values a key. Version and key id are authenticated along with the label.
const (
	sealVersion  = 1
	sealHeader   = 1 + 4 + 12
	sealOverhead = sealHeader + 16
	keysMax      = 8
)

// Keyring is the cluster's keys. The newest seals, all open. It is immutable:
// Add and Drop return another.
type Keyring struct {
	keys []clusterKey // ascending by id
}

type clusterKey struct {
	id  uint32 // 1 and up
	key [32]byte
}

// NewKeyring makes a keyring with one new key.
func NewKeyring() Keyring {
	k, _ := Keyring{}.Add()
	return k
}

// Add makes a new key, which seals from now on. There are at most 8.
func (k Keyring) Add() (Keyring, error) {
	if len(k.keys) >= keysMax {
		return k, fmt.Errorf("the cluster has %d keys; seal everything again and drop old ones first", len(k.keys))
	}
	next := clusterKey{id: k.Newest() + 1}
	_, _ = rand.Read(next.key[:]) // never fails, see crypto/rand
	return Keyring{append(k.keys[:len(k.keys):len(k.keys)], next)}, nil
}

// Drop forgets all keys but the newest.
func (k Keyring) Drop() Keyring {
	return Keyring{k.keys[len(k.keys)-1:]}
}

// Newest is the id of the key that seals, 0 when there is none.
func (k Keyring) Newest() uint32 {
	if len(k.keys) == 0 {
		return 0
	}
	return k.keys[len(k.keys)-1].id
}

// Seal encrypts plain so that only who has the keyring reads it. label says
// where the value belongs ("host/esx1/chap"): Open needs the same, so that a
// value can't be moved to another place.
func (k Keyring) Seal(label string, plain []byte) ([]byte, error) {
	if len(k.keys) == 0 {
		return nil, errors.New("nothing can be sealed without a cluster key")
	}
	key := &k.keys[len(k.keys)-1]
	sealed := make([]byte, sealHeader, sealOverhead+len(plain))
	sealed[0] = sealVersion
	binary.BigEndian.PutUint32(sealed[1:], key.id)
	_, _ = rand.Read(sealed[5:sealHeader])
	return key.aead().Seal(sealed, sealed[5:sealHeader], plain, sealLabel(sealed, label)), nil
}

// Open decrypts what Seal made for label.
func (k Keyring) Open(label string, sealed []byte) ([]byte, error) {
	id, err := SealedBy(sealed)
	if err != nil {
		return nil, err
	}
	for i := range k.keys {
		if k.keys[i].id != id {
			continue
		}
		plain, err := k.keys[i].aead().Open(nil, sealed[5:sealHeader], sealed[sealHeader:], sealLabel(sealed, label))
		if err != nil {
			return nil, fmt.Errorf("%w: %q", ErrSealOpen, label)
		}
		return plain, nil
	}
	return nil, fmt.Errorf("%w: %q needs key %d", ErrSealKey, label, id)
}

// SealedBy is the id of the key that a sealed value needs: a rotation seals
// again what needs an older one than Newest.
func SealedBy(sealed []byte) (uint32, error) {
	if len(sealed) < sealOverhead || sealed[0] != sealVersion {
		return 0, ErrSealOpen
	}
	return binary.BigEndian.Uint32(sealed[1:]), nil
}

func sealLabel(sealed []byte, label string) []byte {
	return append(bytes.Clone(sealed[:5]), label...)
}

func (c *clusterKey) aead() cipher.AEAD {
	block, err := aes.NewCipher(c.key[:])
	if err != nil {
		panic("pki: " + err.Error()) // the length of the key is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("pki: " + err.Error()) // AES has GCM's block size
	}
	return aead
}

const keyringHeader = "blockd cluster keys 1"

// Marshal returns the keyring's text form: a header line, then ID KEY lines.
func (k Keyring) Marshal() []byte {
	var b bytes.Buffer
	b.WriteString(keyringHeader + "\n")
	for _, key := range k.keys {
		fmt.Fprintf(&b, "%d %s\n", key.id, base64.StdEncoding.EncodeToString(key.key[:]))
	}
	return b.Bytes()
}

// ParseKeyring is the inverse of Marshal. Its errors never quote the text.
func ParseKeyring(text []byte) (Keyring, error) {
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if lines[0] != keyringHeader {
		return Keyring{}, fmt.Errorf("cluster keys begin with the line %q; these do not", keyringHeader)
	}
	if len(lines) < 2 || len(lines)-1 > keysMax {
		return Keyring{}, fmt.Errorf("cluster keys: 1 to %d, not %d", keysMax, len(lines)-1)
	}
	var k Keyring
	for i, line := range lines[1:] {
		number, text, _ := strings.Cut(line, " ")
		id, err := strconv.ParseUint(number, 10, 32)
		raw, err2 := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil || err2 != nil || len(raw) != 32 || uint32(id) <= k.Newest() {
			return Keyring{}, fmt.Errorf("cluster keys: line %d is not a key with a number above the last", i+2)
		}
		k.keys = append(k.keys, clusterKey{id: uint32(id), key: [32]byte(raw)})
	}
	return k, nil
}
