package pki

import (
	"testing"
	"time"
)

// What parses is spelled as we spell it, so it comes back unchanged.
func FuzzParseIdentity(f *testing.F) {
	f.Add("blockd://prod/node/n1")
	f.Add("blockd://prod/role/admin?name=root%40host")
	f.Add("blockd://prod:80/node/a/b")
	f.Add("blockd://u@prod/role/none?name=x&name=y")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseIdentity(s)
		if err != nil {
			return
		}
		if id.Validate() != nil || id.String() != s {
			t.Fatalf("%q gave %+v, spelled %q, %v", s, id, id, id.Validate())
		}
		if id.IsNode() == (id.Role != RoleNone) {
			t.Fatalf("%q is both or neither: %+v", s, id)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	ca, err := NewAuthority("prod", time.Unix(1700000000, 0))
	if err != nil {
		f.Fatal(err)
	}
	token, _, err := NewToken(ca.Certificate(), time.Unix(1700000000, 0), []string{"10.0.0.1:7480", "host:1"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token.String())
	f.Add(tokenPrefix)
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			return
		}
		again, err := ParseToken(token.String())
		if err != nil || again.String() != token.String() {
			t.Fatalf("%q gave %+v, then %+v, %v", s, token, again, err)
		}
	})
}

func FuzzParseKeyring(f *testing.F) {
	f.Add(NewKeyring().Marshal())
	f.Add([]byte(keyringHeader + "\n1 AAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		ring, err := ParseKeyring(text)
		if err != nil {
			return
		}
		sealed, err := ring.Seal("x", text)
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := ring.Open("x", sealed); err != nil || string(plain) != string(text) {
			t.Fatalf("sealed and did not open: %v", err)
		}
	})
}

// Every single-bit error and truncation of a token's text is noticed.
func TestDamagedTokenIsRefused(t *testing.T) {
	ca, err := NewAuthority("prod", time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := NewToken(ca.Certificate(), time.Unix(1700000000, 0), []string{"10.0.0.1:7480"})
	if err != nil {
		t.Fatal(err)
	}
	text := token.String()
	for i := range text {
		if _, err := ParseToken(text[:i]); err == nil {
			t.Errorf("cut to %d characters, still a token", i)
		}
		for bit := range 7 {
			b := []byte(text)
			b[i] ^= 1 << bit
			if got, err := ParseToken(string(b)); err == nil && got.String() != text {
				t.Errorf("character %d, bit %d: became another token", i, bit)
			}
		}
	}
}
