package secure_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
)

func TestRetryTokenIsForOneClientAndAShortTime(t *testing.T) {
	start := clock.Mono(time.Hour)
	tokens := secure.NewRetryTokens(start)
	here := netip.MustParseAddrPort("10.0.0.1:9000")
	token := tokens.Append(nil, start, here, []byte("id"))
	if len(token) != secure.RetryTokenLen {
		t.Fatalf("%d bytes", len(token))
	}
	valid := func(at time.Duration, from netip.AddrPort, bound string, token []byte) bool {
		return tokens.Valid(start.Add(at), from, []byte(bound), token)
	}
	if !valid(0, here, "id", token) || !valid(secure.RetryTokenLife, here, "id", token) {
		t.Error("a true token is refused")
	}
	for what, ok := range map[string]bool{
		"too late":         valid(secure.RetryTokenLife+1, here, "id", token),
		"before its issue": valid(-1, here, "id", token),
		"another address":  valid(0, netip.MustParseAddrPort("10.0.0.2:9000"), "id", token),
		"another port":     valid(0, netip.MustParseAddrPort("10.0.0.1:9001"), "id", token),
		"another use":      valid(0, here, "di", token),
		"too short":        valid(0, here, "id", token[:len(token)-1]),
		"too long":         valid(0, here, "id", append(bytes.Clone(token), 0)),
		"another node's":   secure.NewRetryTokens(start).Valid(start, here, []byte("id"), token),
	} {
		if ok {
			t.Errorf("taken, though %s", what)
		}
	}
	for bit := range 8 * len(token) {
		changed := bytes.Clone(token)
		changed[bit/8] ^= 1 << (bit % 8)
		if valid(0, here, "id", changed) {
			t.Errorf("taken with bit %d changed", bit)
		}
	}
}

// A token that was issued just before the secret is replaced is still taken,
// and one of two secrets ago is not.
func TestRetryTokenOutlivesOneSecret(t *testing.T) {
	now := clock.Mono(time.Hour)
	tokens := secure.NewRetryTokens(now)
	here := netip.MustParseAddrPort("[fd00::1]:9000")
	for range 300 { // the generation wraps around
		now = now.Add(2*time.Minute - time.Second)
		before := tokens.Append(nil, now, here, nil)
		now = now.Add(time.Second)
		tokens.Append(nil, now, here, nil)
		if !tokens.Valid(now, here, nil, before) {
			t.Fatal("a token of the secret before is refused")
		}
	}
}

func TestResetTokenSurvivesARestartAndIsTheNodesOwn(t *testing.T) {
	pki := securetest.New("east", "1")
	token := func(node, connection string) secure.ResetToken {
		secret, err := secure.NewResetSecret(&pki.Node(node).Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return secret.Token([]byte(connection))
	}
	first, again := token("a", "1234"), token("a", "1234")
	if !first.Equal(again[:]) {
		t.Error("the same node and connection give another token")
	}
	for what, other := range map[string]secure.ResetToken{
		"connection": token("a", "1235"),
		"node":       token("b", "1234"),
	} {
		if first.Equal(other[:]) {
			t.Errorf("the token of another %s is the same", what)
		}
	}
	if first.Equal(again[:8]) {
		t.Error("half a token is taken")
	}
}
