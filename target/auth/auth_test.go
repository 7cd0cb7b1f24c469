package auth

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func secret(t testing.TB, s string) Secret {
	t.Helper()
	x, err := NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestSecretsDoNotPrint(t *testing.T) {
	const plain = "correct horse battery"
	p := Policy{Host: Credentials{Name: "u", Secret: secret(t, plain)}}
	js, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(p), fmt.Sprintf("%x %q %d", p.Host.Secret, p.Host.Secret, p.Host.Secret), fmt.Sprintf("%+v %#v", p, p), string(js)} {
		if strings.Contains(out, plain) || strings.Contains(out, hex.EncodeToString([]byte(plain))) || strings.Contains(out, fmt.Sprint([]byte(plain))) {
			t.Errorf("a secret is shown in %s", out)
		}
	}
	for _, bad := range []string{"", "elevenbytes", strings.Repeat("x", 256)} {
		if _, err := NewSecret([]byte(bad)); err == nil || (bad != "" && strings.Contains(err.Error(), bad)) {
			t.Errorf("secret of %d bytes: %v", len(bad), err)
		}
	}
}

// The hashes over identifier 0x01, "abcdefghijkl" and the challenge 00 01 02,
// computed with the hashlib of Python 3.
func TestResponseVectors(t *testing.T) {
	s := secret(t, "abcdefghijkl")
	for a, want := range vectors {
		if got := hex.EncodeToString(a.Response(1, s, []byte{0, 1, 2})); got != want {
			t.Errorf("%v: %s, want %s", a, got, want)
		}
		if a.Size() != len(want)/2 {
			t.Errorf("%v has size %d", a, a.Size())
		}
	}
	if Algorithm(9).Response(1, s, nil) != nil || Algorithm(9).Size() != 0 {
		t.Error("an unknown algorithm answers")
	}
}

func TestChooseTakesTheHostsFirstThatIsAllowed(t *testing.T) {
	p := Policy{}
	for list, want := range map[string]Algorithm{"5": MD5, "8,7,5": SHA3_256, "6,5": SHA1, "99,7": SHA256, "0x7": SHA256} {
		if got, ok := p.Choose(list); !ok || got != want {
			t.Errorf("%s: %v %v, want %v", list, got, ok, want)
		}
	}
	p.Algorithms = []Algorithm{SHA256}
	if _, ok := p.Choose("5,6"); ok {
		t.Error("an algorithm that is not allowed was chosen")
	}
	if _, ok := (&Policy{}).Choose("four,-1,,300"); ok {
		t.Error("nonsense was chosen")
	}
}

func TestCHAPBothWays(t *testing.T) {
	host, target := secret(t, "the host's secret"), secret(t, "the target's secret")
	p := Policy{Host: Credentials{"u", host}, Target: Credentials{"tgt", target}, RequireMutual: true}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, a := range Algorithms() {
		var given Challenges
		c := NewCHAP(p, a, &given)
		id, challenge := c.Challenge()
		good := a.Response(id, host, challenge)
		if err := c.Verify("u", good); err != nil {
			t.Fatal(err)
		}
		bad := append([]byte(nil), good...)
		bad[3] ^= 1
		for _, err := range []error{c.Verify("v", good), c.Verify("u", bad), c.Verify("u", good[:5]), c.Verify("u", nil)} {
			if !errors.Is(err, ErrAuth) {
				t.Errorf("%v: %v, want ErrAuth", a, err)
			}
		}
		theirs := []byte("a challenge of the host's own")
		name, resp, err := c.Answer(9, theirs)
		if err != nil || name != "tgt" || string(resp) != string(a.Response(9, target, theirs)) {
			t.Errorf("%v: answer %q %x: %v", a, name, resp, err)
		}
	}
}

// RFC 7143 §9.2.1: a challenge that the target gave out, on this or another
// connection, must not be answered.
func TestReflectedChallengesAreRefused(t *testing.T) {
	p := Policy{Host: Credentials{"u", secret(t, "the host's secret")}, Target: Credentials{"t", secret(t, "the target's secret")}}
	var given Challenges
	a, b := NewCHAP(p, SHA256, &given), NewCHAP(p, SHA256, &given)
	_, ca := a.Challenge()
	_, cb := b.Challenge()
	for _, ch := range [][]byte{ca, cb} {
		if _, _, err := b.Answer(1, ch); !errors.Is(err, ErrReflected) {
			t.Errorf("%v, want ErrReflected", err)
		}
	}
	for range remembered {
		NewCHAP(p, MD5, &given).Challenge()
	}
	if len(given.set) > remembered {
		t.Errorf("%d challenges are kept, want at most %d", len(given.set), remembered)
	}
}

func TestPoliciesThatDoNotFit(t *testing.T) {
	s, u := secret(t, "the same secret"), secret(t, "another secret")
	for name, p := range map[string]Policy{
		"one secret both ways":      {Host: Credentials{"a", s}, Target: Credentials{"b", s}},
		"target only":               {Target: Credentials{"b", s}},
		"mutual without a secret":   {Host: Credentials{"a", u}, RequireMutual: true},
		"mutual without any at all": {RequireMutual: true},
	} {
		if p.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	c := NewCHAP(Policy{Host: Credentials{"a", s}}, MD5, &Challenges{})
	if _, _, err := c.Answer(1, []byte("x")); !errors.Is(err, ErrNoMutual) {
		t.Errorf("%v, want ErrNoMutual", err)
	}
}

func TestBinaryValues(t *testing.T) {
	for in, want := range map[string]string{"0x0a0B": "0a0b", "0Xabc": "0abc", "0bCgs=": "0a0b", "0BCgs": "0a0b"} {
		b, err := ParseBinary(in, 16)
		if err != nil || hex.EncodeToString(b) != want {
			t.Errorf("%s: %x %v, want %s", in, b, err, want)
		}
	}
	for _, in := range []string{"", "0x", "0b", "0b!", "0xzz", "1234", "0x" + strings.Repeat("00", 17), "0b===="} {
		if b, err := ParseBinary(in, 16); !errors.Is(err, ErrBinary) {
			t.Errorf("%s: %x %v, want ErrBinary", in, b, err)
		}
	}
	if s := FormatHex([]byte{1, 255}); s != "0x01ff" {
		t.Error(s)
	}
}

// FuzzParseBinary: whatever is accepted is within the limit and encodes to
// itself.
func FuzzParseBinary(f *testing.F) {
	f.Add("0x0102")
	f.Add("0bAQI=")
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBinary(s, 32)
		if err != nil {
			return
		}
		c, err := ParseBinary(FormatHex(b), 32)
		if len(b) > 32 || err != nil || string(b) != string(c) {
			t.Fatalf("%q is %x, then %x: %v", s, b, c, err)
		}
	})
}

var vectors = map[Algorithm]string{
	MD5:      "447cc24f68bedb14df61d99bde9cd0ba",
	SHA1:     "c963543e281a8d53a2973715ea885b77630303e2",
	SHA256:   "648d5e14d1b1c70e915cfe054bc57b870e57c74e0d205e029e3c90e9322e5815",
	SHA3_256: "475b9b1d1cd8bda04eff1f80d04aa8af29becb464ebd85e015aa82849b3238c0",
}
