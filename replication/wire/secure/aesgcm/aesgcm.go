package aesgcm

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

const (
	nonceLen = 12
	tagLen   = 16
)

var errOpen = errors.New("aesgcm: message authentication failed")

// New returns the AEAD of an AES-128 or AES-256 key. Its methods allocate
// nothing when dst has room, and may be called by several goroutines. dst may
// be the start of what is sealed or opened, or must not overlap it at all.
func New(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	if !wide || len(key) == 24 {
		return cipher.NewGCM(b)
	}
	return newWide(key, b), nil
}
