package aesgcm

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"slices"

	"golang.org/x/sys/cpu"
)

// wide tells whether the processor does AES and carry-less products on 512 bits.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL && cpu.X86.HasBMI2 &&
	cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ

type block [16]byte

// keys are the round keys: that of the start, four that only AES-256 has, and
// ten.
type keys [15]block

// powers are those of the hash key H, prepared: H^16 to H, then zeros, since
// four are read at a time.
type powers [16 + 3]block

// The assembly. Any n from 0 on is good, and so is dst equal to src.

// subWord is AES's substitution on four bytes (FIPS 197 §5.2).
//
//go:noescape
func subWord(w uint32) uint32

// ctr makes n bytes of dst those of src xor the key stream that begins with the
// block of counter.
//
//go:noescape
func ctr(k *keys, long bool, nonce *byte, counter uint32, dst, src *byte, n int)

// ghash adds n bytes, and zeros to the end of their last block, to a sum, which
// has its bytes reversed.
//
//go:noescape
func ghash(p *powers, sum *block, data *byte, n int)

// aead is a cipher.AEAD.
type aead struct {
	keys   keys
	long   bool // AES-256
	powers powers
}

func newWide(key []byte, b cipher.Block) cipher.AEAD {
	a := &aead{long: len(key) == 32}
	a.expand(key)
	var h block
	b.Encrypt(h[:], h[:])
	slices.Reverse(h[:])
	// Only the last power is there at first, and hashing a block of zeros is to
	// multiply by it.
	var zeros block
	for i := 15; i >= 0; i-- {
		a.powers[i] = prepare(h)
		ghash(&a.powers, &h, &zeros[0], len(zeros))
	}
	return a
}

// expand makes the round keys (FIPS 197 §5.2), words being little-endian.
func (a *aead) expand(key []byte) {
	words := len(key) / 4
	w := make([]uint32, 0, 4*len(a.keys))
	for i := range words {
		w = append(w, binary.LittleEndian.Uint32(key[4*i:]))
	}
	rounds, constant := words+6, uint32(1)
	for i := words; i < 4*(rounds+1); i++ {
		last := w[i-1]
		switch {
		case i%words == 0:
			last = bits.RotateLeft32(subWord(last), -8) ^ constant
			constant = constant<<1 ^ constant>>7*0x11b
		case words == 8 && i%words == 4:
			last = subWord(last)
		}
		w = append(w, w[i-words]^last)
	}
	for i := range rounds + 1 {
		at := i
		if i > 0 {
			at += len(a.keys) - 1 - rounds
		}
		for j, v := range w[4*i : 4*i+4] {
			binary.LittleEndian.PutUint32(a.keys[at][4*j:], v)
		}
	}
}

// prepare multiplies by x, in constant time.
func prepare(b block) block {
	low, high := binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])
	over := -(high >> 63)
	high = high<<1 | low>>63
	low = low << 1
	binary.LittleEndian.PutUint64(b[:], low^over&1)
	binary.LittleEndian.PutUint64(b[8:], high^over&0xc2<<56)
	return b
}

func (a *aead) NonceSize() int { return nonceLen }
func (a *aead) Overhead() int  { return tagLen }

// Seal is cipher.AEAD's.
func (a *aead) Seal(dst, nonce, plaintext, additional []byte) []byte {
	if len(nonce) != nonceLen {
		panic("aesgcm: a nonce has 12 bytes")
	}
	n := len(plaintext)
	dst = slices.Grow(dst, n+tagLen)
	out := dst[len(dst) : len(dst)+n+tagLen]
	if n > 0 {
		ctr(&a.keys, a.long, &nonce[0], 2, &out[0], &plaintext[0], n)
	}
	tag := a.tag(nonce, out[:n], additional)
	copy(out[n:], tag[:])
	return dst[:len(dst)+n+tagLen]
}

// Open is cipher.AEAD's. What is not authentic is not decrypted.
func (a *aead) Open(dst, nonce, ciphertext, additional []byte) ([]byte, error) {
	if len(nonce) != nonceLen {
		panic("aesgcm: a nonce has 12 bytes")
	}
	n := len(ciphertext) - tagLen
	if n < 0 {
		return nil, errOpen
	}
	tag := a.tag(nonce, ciphertext[:n], additional)
	if subtle.ConstantTimeCompare(tag[:], ciphertext[n:]) == 0 {
		return nil, errOpen
	}
	dst = slices.Grow(dst, n)
	out := dst[len(dst) : len(dst)+n]
	if n > 0 {
		ctr(&a.keys, a.long, &nonce[0], 2, &out[0], &ciphertext[0], n)
	}
	return dst[:len(dst)+n], nil
}

// tag authenticates (NIST SP 800-38D §7.1).
func (a *aead) tag(nonce, ciphertext, additional []byte) (tag block) {
	var sum, lengths block
	if len(additional) > 0 {
		ghash(&a.powers, &sum, &additional[0], len(additional))
	}
	if len(ciphertext) > 0 {
		ghash(&a.powers, &sum, &ciphertext[0], len(ciphertext))
	}
	binary.BigEndian.PutUint64(lengths[:], 8*uint64(len(additional)))
	binary.BigEndian.PutUint64(lengths[8:], 8*uint64(len(ciphertext)))
	ghash(&a.powers, &sum, &lengths[0], len(lengths))
	slices.Reverse(sum[:])
	ctr(&a.keys, a.long, &nonce[0], 1, &tag[0], &sum[0], len(tag))
	return tag
}

var _ cipher.AEAD = (*aead)(nil)
