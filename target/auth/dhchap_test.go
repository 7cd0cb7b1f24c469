package auth

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

const (
	dhHostNQN = "nqn.2014-08.org.nvmexpress:uuid:host"
	dhSubNQN  = "nqn.2014-08.org.nvmexpress:uuid:sub"
)

func dhKey(t testing.TB, n int, h DHHash) DHKey {
	t.Helper()
	s, err := NewDHKey(n, h)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseDHKey(s)
	if err != nil || k.Reveal() != s {
		t.Fatalf("%v, and it comes back differently: %t", err, k.Reveal() != s)
	}
	return k
}

// transact runs one transaction and returns what both sides think.
func transact(h *DHHost, c *DHController) (host error) {
	c.Send(h.Negotiate(7))
	for {
		msg := c.Receive()
		if msg == nil {
			return errors.New("the controller has nothing to say")
		}
		answer, done, err := h.Answer(msg)
		if answer != nil {
			c.Send(answer)
		}
		if done {
			return err
		}
	}
}

func TestDHCHAPInEveryShape(t *testing.T) {
	for _, hash := range []DHHash{DHSHA256, DHSHA384, DHSHA512} {
		for g := DHNull; g <= FFDHE8192; g++ {
			for _, mutual := range []bool{false, true} {
				if g > FFDHE2048 && (hash != DHSHA256 || !mutual) {
					continue // the groups differ in their prime only
				}
				t.Run(fmt.Sprintf("%v %v %t", hash, g, mutual), func(t *testing.T) {
					p := NVMePolicy{Host: dhKey(t, 32, DHHashNone), Controller: dhKey(t, 64, DHSHA512), RequireMutual: mutual}
					h := &DHHost{Key: p.Host, HostNQN: dhHostNQN, SubNQN: dhSubNQN, Hashes: []DHHash{hash}, Groups: []DHGroup{g}}
					if mutual {
						h.Controller = p.Controller
					}
					c := NewDHController(p, dhHostNQN, dhSubNQN)
					for range 2 { // the second is a re-authentication
						if err := transact(h, c); err != nil || !c.Authenticated() || c.Failed() != nil {
							t.Fatalf("host: %v, controller: %t %v", err, c.Authenticated(), c.Failed())
						}
					}
				})
			}
		}
	}
}

func TestDHCHAPRefusals(t *testing.T) {
	good, other := dhKey(t, 32, DHSHA256), dhKey(t, 32, DHSHA256)
	for name, tc := range map[string]struct {
		policy NVMePolicy
		host   DHHost
		want   DHReason
	}{
		"wrong key":                   {NVMePolicy{Host: good}, DHHost{Key: other}, DHFailed},
		"no key is kept":              {NVMePolicy{}, DHHost{Key: other}, DHFailed},
		"controller has no key":       {NVMePolicy{Host: good}, DHHost{Key: good, Controller: other}, DHFailed},
		"controller has another key":  {NVMePolicy{Host: good, Controller: good}, DHHost{Key: good, Controller: other}, DHFailed},
		"host asks no proof but must": {NVMePolicy{Host: good, Controller: other, RequireMutual: true}, DHHost{Key: good}, DHFailed},
		"name of another host":        {NVMePolicy{Host: good}, DHHost{Key: good, HostNQN: "nqn.2014-08.x:y"}, DHFailed},
		"no hash in common":           {NVMePolicy{Host: good, Hashes: []DHHash{DHSHA512}}, DHHost{Key: good, Hashes: []DHHash{DHSHA256, 9}}, DHHashUnusable},
		"no group in common":          {NVMePolicy{Host: good, Groups: []DHGroup{FFDHE3072}}, DHHost{Key: good, Groups: []DHGroup{DHNull, 77}}, DHGroupUnusable},
	} {
		h := tc.host
		if h.HostNQN == "" {
			h.HostNQN = dhHostNQN
		}
		h.SubNQN = dhSubNQN
		c := NewDHController(tc.policy, dhHostNQN, dhSubNQN)
		err := transact(&h, c)
		var de *DHError
		if !errors.As(err, &de) || de.Reason != tc.want || !errors.Is(err, ErrAuth) || c.Authenticated() || !c.Over() || c.Failed() == nil {
			t.Errorf("%s: host %v, controller %t %v", name, err, c.Authenticated(), c.Failed())
		}
	}
}

// Messages out of turn, of another transaction, or cut short fail the
// transaction and never authenticate.
func TestDHCHAPBadMessages(t *testing.T) {
	k := dhKey(t, 32, DHSHA256)
	for name, tc := range map[string]struct {
		break_ func(c *DHController, h *DHHost)
		want   DHReason
	}{
		"nothing negotiated": {func(c *DHController, h *DHHost) { c.Send(dhHead(dhTypeDHCHAP, dhReply, 0)) }, DHIncorrectMessage},
		"success out of turn": {func(c *DHController, h *DHHost) {
			c.Send(h.Negotiate(7))
			c.Receive()
			c.Send(dhHead(dhTypeDHCHAP, dhSuccess2, 7))
		}, DHIncorrectMessage},
		"another transaction": {func(c *DHController, h *DHHost) {
			c.Send(h.Negotiate(7))
			c.Receive()
			c.Send(dhHead(dhTypeDHCHAP, dhReply, 8))
		}, DHIncorrectMessage},
		"reply cut short": {func(c *DHController, h *DHHost) {
			c.Send(h.Negotiate(7))
			c.Receive()
			c.Send(dhHead(dhTypeDHCHAP, dhReply, 7))
		}, DHInvalidPayload},
		"empty":                {func(c *DHController, h *DHHost) { c.Send(nil) }, DHInvalidPayload},
		"secure concatenation": {func(c *DHController, h *DHHost) { m := h.Negotiate(7); m[6] = 1; c.Send(m) }, DHConcatMismatch},
		"another protocol":     {func(c *DHController, h *DHHost) { m := h.Negotiate(7); m[8] = 2; c.Send(m) }, DHProtocolUnusable},
		"lists too long":       {func(c *DHController, h *DHHost) { m := h.Negotiate(7); m[10] = 31; c.Send(m) }, DHInvalidPayload},
		"DH value of 1": {func(c *DHController, h *DHHost) {
			h.Groups = []DHGroup{FFDHE2048}
			c.Send(h.Negotiate(7))
			c.Receive()
			v := make([]byte, FFDHE2048.Size())
			v[len(v)-1] = 1
			c.Send((&dhReplyMsg{tid: 7, response: make([]byte, 32), value: v}).append(nil))
		}, DHInvalidPayload},
		"the controller's own challenge": {func(c *DHController, h *DHHost) {
			h.Controller, h.Groups = k, []DHGroup{DHNull}
			c.policy.Controller = k
			c.Send(h.Negotiate(7))
			msg := c.Receive()
			var m dhChallengeMsg
			_ = m.decode(msg)
			r := dhReplyMsg{tid: 7, wants: true, seq: 1, challenge: m.challenge}
			r.response = dhProof(m.hash, k.transformed(dhHostNQN), nil, m.challenge, m.seq, 7, dhRoleHost, dhHostNQN, dhSubNQN)
			c.Send(r.append(nil))
		}, DHFailed},
	} {
		c := NewDHController(NVMePolicy{Host: k}, dhHostNQN, dhSubNQN)
		tc.break_(c, &DHHost{Key: k, HostNQN: dhHostNQN, SubNQN: dhSubNQN})
		msg := c.Receive()
		if len(msg) != 8 || msg[1] != dhFailure1 || DHReason(msg[7]) != tc.want || c.Authenticated() || !c.Over() {
			t.Errorf("%s: %x, want failure %v", name, msg, tc.want)
		}
	}
}

// RFC 7919 appendix A: each prime is a safe prime that begins and ends with 64
// ones; the first words of ffdhe2048 are as printed there.
func TestDHPrimes(t *testing.T) {
	for g := FFDHE2048; g <= FFDHE8192; g++ {
		p := dhPrimes[g]()
		b := p.Bytes()
		q := new(big.Int).Rsh(p, 1)
		ones := strings.Repeat("f", 16)
		if len(b) != g.Size() || hex.EncodeToString(b[:8]) != ones || hex.EncodeToString(b[len(b)-8:]) != ones {
			t.Errorf("%v has the wrong shape", g)
		}
		if hex.EncodeToString(b[8:16]) != "adf85458a2bb4a9a" {
			t.Errorf("%v does not begin with the digits of e", g)
		}
		if g > FFDHE3072 {
			// Fermat to the base 2 shows what a wrong constant would break,
			// in a fraction of the time.
			if new(big.Int).Exp(big.NewInt(2), new(big.Int).Sub(p, big.NewInt(1)), p).Cmp(big.NewInt(1)) != 0 {
				t.Errorf("%v is not prime", g)
			}
			continue
		}
		if !p.ProbablyPrime(1) || !q.ProbablyPrime(1) {
			t.Errorf("%v is not a safe prime", g)
		}
	}
}

func TestDHKeyText(t *testing.T) {
	// The bytes 0 to 31 and their CRC-32, put together with Python's zlib.
	const text = "DHHC-1:00:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh+KfiaR:"
	k, err := ParseDHKey(" " + text + "\n")
	if err != nil || k.Hash != DHHashNone || k.Reveal() != text || k.Secret.b[31] != 31 {
		t.Fatalf("%v", err)
	}
	for _, out := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %x", k, k, k)} {
		if strings.Contains(out, "0102030405") || strings.Contains(out, "1 2 3 4 5") {
			t.Errorf("the key is shown in %s", out)
		}
	}
	for _, bad := range []string{"", "DHHC-1:00:AAAA:", text[:len(text)-1], "DHHC-2" + text[6:], "DHHC-1:04" + text[9:],
		strings.Replace(text, "AAEC", "AAED", 1), strings.Replace(text, "AAEC", "AA!C", 1)} {
		if _, err := ParseDHKey(bad); err == nil || len(bad) > 20 && strings.Contains(err.Error(), bad[12:20]) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// FuzzDHController: no sequence of two messages authenticates a host without
// the key, or breaks the controller.
func FuzzDHController(f *testing.F) {
	k := dhKey(f, 32, DHSHA256)
	h := &DHHost{Key: k, HostNQN: dhHostNQN, SubNQN: dhSubNQN, Groups: []DHGroup{DHNull}}
	f.Add(h.Negotiate(1), (&dhReplyMsg{tid: 1, response: make([]byte, 32)}).append(nil))
	f.Add(h.Negotiate(1), dhHead(dhTypeDHCHAP, dhSuccess2, 1))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		c := NewDHController(NVMePolicy{Host: k, Groups: []DHGroup{DHNull}}, dhHostNQN, dhSubNQN)
		c.Send(a)
		c.Receive()
		c.Send(b)
		c.Receive()
		c.Send(b)
		if c.Authenticated() {
			t.Fatal("authenticated")
		}
	})
}

// A host that begins anew again and again, without ever proving itself, is refused
// before the controller computes anything more for it; one that does prove itself
// may authenticate as often as it likes.
func TestDHCHAPNegotiationsAreBounded(t *testing.T) {
	k := dhKey(t, 32, DHSHA256)
	h := &DHHost{Key: k, HostNQN: dhHostNQN, SubNQN: dhSubNQN, Groups: []DHGroup{FFDHE2048}}
	c := NewDHController(NVMePolicy{Host: k}, dhHostNQN, dhSubNQN)
	challenges := 0
	for range 10 {
		c.Send(h.Negotiate(7))
		if c.Failed() == nil && c.Receive() != nil {
			challenges++
		}
	}
	if challenges != dhTriesMax || c.Authenticated() {
		t.Errorf("%d challenges, want %d", challenges, dhTriesMax)
	}
	if c.Receive(); !c.Over() || c.Failed() == nil {
		t.Errorf("the transaction is not over: %v", c.Failed())
	}
	c = NewDHController(NVMePolicy{Host: k}, dhHostNQN, dhSubNQN)
	for range 2 * dhTriesMax {
		if err := transact(h, c); err != nil || !c.Authenticated() {
			t.Fatal(err)
		}
	}
}
