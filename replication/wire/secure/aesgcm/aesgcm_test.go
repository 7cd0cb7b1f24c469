package aesgcm

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
)

// pair returns this package's AEAD and crypto/cipher's.
func pair(t testing.TB, key []byte) (ours, theirs cipher.AEAD) {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err = cipher.NewGCM(b); err != nil {
		t.Fatal(err)
	}
	if ours, err = New(key); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

// agree checks that both seal and open alike, in place and not.
func agree(t *testing.T, key, nonce, plaintext, additional []byte) {
	t.Helper()
	ours, theirs := pair(t, key)
	want := theirs.Seal(nil, nonce, plaintext, additional)
	if got := ours.Seal([]byte("before"), nonce, plaintext, additional); !bytes.Equal(got, append([]byte("before"), want...)) {
		t.Fatalf("sealed %d bytes with %d to %x, want %x behind \"before\"", len(plaintext), len(additional), got, want)
	}
	// Behind the end there is something that must stay.
	place := append(append(make([]byte, 0, len(want)+64), plaintext...), bytes.Repeat([]byte{0xa5}, 64+tagLen)...)
	if got := ours.Seal(place[:0], nonce, place[:len(plaintext)], additional); !bytes.Equal(got, want) {
		t.Fatalf("sealed %d bytes in place to %x, want %x", len(plaintext), got, want)
	}
	if after := place[len(want):]; !bytes.Equal(after, bytes.Repeat([]byte{0xa5}, 64)) {
		t.Fatalf("%d bytes sealed: what is behind them became %x", len(plaintext), after)
	}
	if got, err := ours.Open([]byte("before"), nonce, want, additional); err != nil || !bytes.Equal(got, append([]byte("before"), plaintext...)) {
		t.Fatalf("opened %x, %v, want %x behind \"before\"", got, err, plaintext)
	}
	if got, err := ours.Open(place[:0], nonce, place[:len(want)], additional); err != nil || !bytes.Equal(got, plaintext) {
		t.Fatalf("opened in place %x, %v, want %x", got, err, plaintext)
	}
}

// fill returns n bytes that the seed determines.
func fill(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = r.Read(b)
	return b
}

func TestAgreesWithTheStandardLibrary(t *testing.T) {
	r := rand.NewChaCha8([32]byte{1})
	for _, keyLen := range []int{16, 24, 32} {
		key := fill(r, keyLen)
		for n := range 600 {
			agree(t, key, fill(r, nonceLen), fill(r, n), fill(r, 16))
		}
		for n := range 300 {
			agree(t, key, fill(r, nonceLen), fill(r, 40), fill(r, n))
		}
		for _, n := range []int{4095, 4096, 4143, 8900, 65000, 1 << 20} {
			agree(t, key, fill(r, nonceLen), fill(r, n), fill(r, 24))
		}
	}
}

// Bits that are all set or all clear, and keys of many kinds, meet the carries
// of the reduction.
func TestAgreesOnExtremes(t *testing.T) {
	r := rand.NewChaCha8([32]byte{2})
	for i := range 400 {
		key := fill(r, 16+i%2*16)
		for _, fillByte := range []byte{0, 0xff, 0x80, 1} {
			agree(t, key, fill(r, nonceLen), bytes.Repeat([]byte{fillByte}, 16*(i%20)+i%3), bytes.Repeat([]byte{fillByte}, i%40))
		}
	}
}

// Every bit of the ciphertext, the tag, the nonce and the additional data counts,
// and what is refused stays as it was.
func TestChangedIsRefused(t *testing.T) {
	r := rand.NewChaCha8([32]byte{3})
	ours, _ := pair(t, fill(r, 16))
	nonce, additional := fill(r, nonceLen), fill(r, 20)
	sealed := ours.Seal(nil, nonce, fill(r, 333), additional)
	refuse := func(what string, changed []byte) {
		for bit := range 8 * len(changed) {
			changed[bit/8] ^= 1 << (bit % 8)
			before := bytes.Clone(sealed)
			if _, err := ours.Open(sealed[:0], nonce, sealed, additional); err == nil {
				t.Fatalf("opened although bit %d of the %s had changed", bit, what)
			}
			if !bytes.Equal(before, sealed) {
				t.Fatalf("bit %d of the %s changed: what was refused was written to", bit, what)
			}
			changed[bit/8] ^= 1 << (bit % 8)
		}
	}
	refuse("ciphertext and tag", sealed)
	refuse("nonce", nonce)
	refuse("additional data", additional)
	for n := range sealed {
		if _, err := ours.Open(nil, nonce, sealed[:n], additional); err == nil {
			t.Fatalf("opened the first %d of %d bytes", n, len(sealed))
		}
	}
}

// Test cases 3, 4 and 15 of "The Galois/Counter Mode of Operation" (McGrew, Viega).
func TestPublishedCases(t *testing.T) {
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
	for _, c := range []struct{ key, plain, additional, want string }{
		{"feffe9928665731c6d6a8f9467308308", plain, "",
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091473f5985" +
				"4d5c2af327cd64a62cf35abd2ba6fab4"},
		{"feffe9928665731c6d6a8f9467308308", plain[:120], "feedfacedeadbeeffeedfacedeadbeefabaddad2",
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091" +
				"5bc94fbc3221a5db94fae95ae7121a47"},
		{"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", plain, "",
			"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad" +
				"b094dac5d93471bdec1a502270e3cc6c"},
	} {
		a, err := New(un(c.key))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.Seal(nil, un("cafebabefacedbaddecaf888"), un(c.plain), un(c.additional)); !bytes.Equal(got, un(c.want)) {
			t.Errorf("key %s: sealed to %x, want %s", c.key, got, c.want)
		}
	}
}

func TestSealAndOpenAllocateNothing(t *testing.T) {
	r := rand.NewChaCha8([32]byte{4})
	ours, _ := pair(t, fill(r, 16))
	nonce, additional, b := fill(r, nonceLen), fill(r, 16), make([]byte, 1000, 1000+tagLen)
	if n := testing.AllocsPerRun(100, func() {
		sealed := ours.Seal(b[:0], nonce, b, additional)
		if _, err := ours.Open(sealed[:0], nonce, sealed, additional); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestKeyOfAnotherLengthIsRefused(t *testing.T) {
	if _, err := New(make([]byte, 17)); err == nil {
		t.Error("took a key of 17 bytes")
	}
}

func FuzzAgreesWithTheStandardLibrary(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("nonce of 12."), []byte("plain"), []byte("additional"))
	f.Fuzz(func(t *testing.T, key, nonce, plaintext, additional []byte) {
		size := 16
		if len(key) > 16 {
			size = 32
		}
		key = append(key, make([]byte, 32)...)[:size]
		nonce = append(nonce, make([]byte, nonceLen)...)[:nonceLen]
		agree(t, key, nonce, plaintext, additional)
	})
}

func BenchmarkSealOpen(b *testing.B) {
	for _, size := range []int{64, 1400, 4096, 8900} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			ours, theirs := pair(b, make([]byte, 16))
			for name, a := range map[string]cipher.AEAD{"ours": ours, "std": theirs} {
				b.Run(name, func(b *testing.B) {
					nonce, additional, p := make([]byte, nonceLen), make([]byte, 16), make([]byte, size, size+tagLen)
					b.SetBytes(int64(size))
					for range b.N {
						sealed := a.Seal(p[:0], nonce, p, additional)
						if _, err := a.Open(sealed[:0], nonce, sealed, additional); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
