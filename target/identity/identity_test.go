package identity

import (
	"encoding/hex"
	"testing"
)

// The names are written down in hosts (fstab, multipath.conf): a change of
// any of them is a different disk, so they are pinned here.
func TestNamesOfAnIDNeverChange(t *testing.T) {
	id := ID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	naa, nguid := NAA(id), NGUID(id)
	for _, c := range []struct{ name, got, want string }{
		{"uuid", UUIDString(id), "01020304-0506-4708-890a-0b0c0d0e0f10"},
		{"serial", Serial(id), "0102030405060708090a0b0c0d0e0f10"},
		{"naa", hex.EncodeToString(naa[:]), "6b210cde7b413e716b857c86d94890fd"},
		{"nguid", hex.EncodeToString(nguid[:]), "a5b8c76c38971a20b210cd4be5e7b159"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, c.got, c.want)
		}
	}
}

func TestNamesDifferByID(t *testing.T) {
	seen := map[[16]byte]bool{}
	for i := range 1000 {
		id := ID{byte(i), byte(i >> 8)}
		for _, n := range [][16]byte{NAA(id), NGUID(id)} {
			if seen[n] {
				t.Fatalf("id %x: %x names another volume too", id, n)
			}
			seen[n] = true
		}
		if n := NAA(id); n[0]>>4 != 6 {
			t.Fatalf("NAA of %x begins with %x, want type 6", id, n[0]>>4)
		}
	}
}
