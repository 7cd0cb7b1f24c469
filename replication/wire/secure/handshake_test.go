package secure_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBothSidesLearnWhoTheOtherIs(t *testing.T) {
	c, s := connected(t)
	if want := (secure.Identity{Cluster: "east", Node: "b"}); c.peer.Identity != want {
		t.Errorf("the client met %v, want %v", c.peer, want)
	}
	if want := (secure.Identity{Cluster: "east", Node: "a"}); s.peer.Identity != want {
		t.Errorf("the server met %v, want %v", s.peer, want)
	}
	if c.parameters != "from b" || s.parameters != "from a" {
		t.Errorf("parameters: the client got %q, the server %q", c.parameters, s.parameters)
	}
	if c.peer.Version != "blockd/1" || s.peer.Version != "blockd/1" {
		t.Errorf("version: client %q, server %q", c.peer.Version, s.peer.Version)
	}
}

func TestBestCommonVersionIsSpoken(t *testing.T) {
	pki := securetest.New("east", "1")
	a, b := config(pki.Node("a")), config(pki.Node("b"))
	a.Versions, b.Versions = []string{"blockd/3", "blockd/2", "blockd/1"}, []string{"blockd/2", "blockd/1"}
	c, s := pair(t, a, b)
	if err, _ := shake(c, s, nil); err != nil {
		t.Fatal(err)
	}
	if c.peer.Version != "blockd/2" || s.peer.Version != "blockd/2" {
		t.Errorf("client speaks %q, server %q", c.peer.Version, s.peer.Version)
	}
}

// Handshake bytes may come in pieces of any size.
func TestHandshakeInSingleBytes(t *testing.T) {
	pki := securetest.New("east", "1")
	c, s := pair(t, config(pki.Node("a")), config(pki.Node("b")))
	err, _ := shake(c, s, func(_ bool, _ wire.Level, data []byte) (pieces [][]byte) {
		for i := range data {
			pieces = append(pieces, data[i:i+1])
		}
		return pieces
	})
	if err != nil || !c.done || !s.done {
		t.Fatalf("client done %v, server done %v: %v", c.done, s.done, err)
	}
}

// What is refused, by whom, and in which words.
func TestRefusals(t *testing.T) {
	pki := securetest.New("east", "1")
	stranger := securetest.New("east", "2") // the same name, another CA
	west := securetest.New("west", "1")
	old := securetest.Valid(securetest.Epoch.Add(-48*time.Hour), securetest.Epoch.Add(-24*time.Hour))
	early := securetest.Valid(securetest.Epoch.Add(24*time.Hour), securetest.Epoch.Add(48*time.Hour))

	// trusting makes creds trust the CA of pki: their certificate stays wrong.
	trusting := func(creds *secure.Credentials) *secure.Credentials {
		c := *creds
		c.Roots = pki.Node("x").Roots
		return &c
	}
	// mislabelled makes creds of another cluster say that they are of ours.
	mislabelled := func(p *securetest.PKI, id string) *secure.Credentials {
		c := *trusting(p.Node(id, securetest.Named("blockd://east/node/"+id)))
		c.Cluster = "east"
		return &c
	}
	cases := map[string]struct {
		client, server *secure.Credentials
		change         func(c, s *secure.Config)
		byClient       bool
		is             error
		says           []string
		alert          string
	}{
		"server of another CA": {
			client: pki.Node("a"), server: trusting(stranger.Node("b")), byClient: true, is: secure.ErrCertificate,
			says: []string{"blockd://east/node/b", "not the cluster's CA"},
		},
		"client of another CA": {
			client: trusting(stranger.Node("a")), server: pki.Node("b"), is: secure.ErrCertificate,
			says: []string{"blockd://east/node/a", "not the cluster's CA"},
		},
		"another CA, name of ours": {
			client: mislabelled(west, "a"), server: pki.Node("b"), is: secure.ErrCertificate,
			says: []string{"blockd://east/node/a", "CA of west"},
		},
		"expired server": {
			client: pki.Node("a"), server: pki.Node("b", old), byClient: true, is: secure.ErrCertificate,
			says: []string{"blockd://east/node/b", "valid until 2026-05-31T12:00:00Z", "here it is 2026-06-01T12:00:00Z"},
		},
		"expired client": {
			client: pki.Node("a", old), server: pki.Node("b"), is: secure.ErrCertificate,
			says: []string{"blockd://east/node/a", "valid until", "renew"},
		},
		"not yet valid": {
			client: pki.Node("a", early), server: pki.Node("b"), is: secure.ErrCertificate,
			says: []string{"not valid before 2026-06-02T12:00:00Z", "clocks"},
		},
		"another cluster of the same CA": {
			client: pki.Node("a"), byClient: true, is: secure.ErrCertificate,
			server: func() *secure.Credentials {
				c := *pki.Node("b", securetest.Named("blockd://west/node/b"))
				c.Cluster = "west"
				return &c
			}(),
			says: []string{`cluster "west"`, `"east"`},
		},
		"another node than asked for": {
			client: pki.Node("a"), server: pki.Node("b"), byClient: true, is: secure.ErrCertificate,
			change: func(c, s *secure.Config) { c.WantNode = "c" },
			says:   []string{"node/b", `node "c" was expected`},
		},
		"certificate for servers only": {
			client: pki.Node("a", securetest.ForServersOnly()), server: pki.Node("b"), is: secure.ErrCertificate,
			says: []string{"node/a"},
		},
		"no common version": {
			client: pki.Node("a"), server: pki.Node("b"), is: secure.ErrVersion,
			change: func(c, s *secure.Config) { c.Versions = []string{"blockd/9"} },
			says:   []string{"upgrade"},
		},
	}
	for name, k := range cases {
		t.Run(name, func(t *testing.T) {
			cc, sc := config(k.client), config(k.server)
			if k.change != nil {
				k.change(&cc, &sc)
			}
			c, s := pair(t, cc, sc)
			err, byClient := shake(c, s, nil)
			if !errors.Is(err, k.is) {
				t.Fatalf("got %v, want %v", err, k.is)
			}
			if byClient != k.byClient {
				t.Errorf("refused by the client: %v", byClient)
			}
			for _, w := range k.says {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not say %q: %v", w, err)
				}
			}
			refuser := s
			if byClient {
				refuser = c
			}
			refuser.pump()
			if refuser.done {
				t.Error("the side that refused is done nevertheless")
			}
			if again := refuser.Receive(wire.LevelHandshake, []byte{1}); again == nil {
				t.Error("a handshake that failed goes on")
			}
		})
	}
}

// A node with credentials that can't work says so before it sends anything.
func TestOwnCredentialsAreChecked(t *testing.T) {
	pki := securetest.New("east", "1")
	change := func(f func(*secure.Credentials)) *secure.Credentials {
		c := *pki.Node("a")
		f(&c)
		return &c
	}
	for name, creds := range map[string]*secure.Credentials{
		"none":            {},
		"no CA":           change(func(c *secure.Credentials) { c.Roots = nil }),
		"no key":          change(func(c *secure.Credentials) { c.Certificate.PrivateKey = nil }),
		"another cluster": change(func(c *secure.Credentials) { c.Cluster = "west" }),
		"an operator's":   pki.Node("a", securetest.Named("blockd://east/role/admin?name=eve")),
		"no name":         pki.Node("a", securetest.Named()),
		"broken":          change(func(c *secure.Credentials) { c.Certificate.Leaf = nil; c.Certificate.Certificate = [][]byte{{1}} }),
	} {
		if h, err := secure.NewClient(config(creds)); !errors.Is(err, secure.ErrCertificate) {
			t.Errorf("%s: got %v", name, err)
			if h != nil {
				h.Close()
			}
		}
	}
	noVersion := config(pki.Node("a"))
	noVersion.Versions = nil
	if _, err := secure.NewServer(noVersion); !errors.Is(err, secure.ErrVersion) {
		t.Errorf("no version: got %v", err)
	}
}

// Whatever single byte of the handshake is changed, no side accepts the other
// under a transcript that the other has not seen too: at most one side, the one
// whose last message was not the one changed, believes that it is done, and
// then the keys don't fit, so no packet passes.
func TestTamperedHandshakeConnectsNobody(t *testing.T) {
	pki := securetest.New("east", "1")
	a, b := config(pki.Node("a")), config(pki.Node("b"))
	for _, fromClient := range []bool{true, false} {
		for at := 0; ; at++ {
			c, s := pair(t, a, b)
			sent, hit := 0, false
			err, _ := shake(c, s, func(client bool, _ wire.Level, data []byte) [][]byte {
				if client == fromClient {
					if at >= sent && at < sent+len(data) {
						data = bytes.Clone(data)
						data[at-sent] ^= 1 << (at % 8)
						hit = true
					}
					sent += len(data)
				}
				return [][]byte{data}
			})
			if !hit {
				break
			}
			if err == nil && c.done && s.done {
				t.Fatalf("byte %d from the client (%v) changed, and both sides are done", at, fromClient)
			}
			c.Close()
			s.Close()
		}
	}
}

func TestHandshakeIsBoundedInBytes(t *testing.T) {
	pki := securetest.New("east", "1")
	_, s := pair(t, config(pki.Node("a")), config(pki.Node("b")))
	// The head of a ClientHello of 60,000 bytes, and then its content.
	err := s.Receive(wire.LevelInitial, []byte{1, 0, 0xea, 0x60})
	for i := 0; err == nil; i++ {
		if i > 64 {
			t.Fatal("64 KiB of a handshake were kept")
		}
		err = s.Receive(wire.LevelInitial, make([]byte, 1024))
	}
	if !errors.Is(err, secure.ErrHandshake) {
		t.Fatal(err)
	}
}

func TestNothingMoreAfterTheHandshake(t *testing.T) {
	c, _ := connected(t)
	if err := c.Receive(wire.LevelData, []byte{24, 0, 0, 1, 1}); !errors.Is(err, secure.ErrHandshake) {
		t.Fatalf("a TLS message after the handshake: %v", err)
	}
}

func TestIdentityRoundTrip(t *testing.T) {
	id := secure.Identity{Cluster: "east", Node: "rack1-node7"}
	creds := securetest.New("east", "1").Node(id.Node)
	if got, err := creds.Self(); err != nil || got != id {
		t.Fatalf("%v, %v", got, err)
	}
	leaf, err := x509.ParseCertificate(creds.Certificate.Certificate[0])
	if err != nil || leaf.URIs[0].String() != "blockd://east/node/rack1-node7" {
		t.Fatalf("%v, %v", leaf.URIs, err)
	}
}

func BenchmarkHandshake(b *testing.B) {
	pki := securetest.New("east", "1")
	client, server := config(pki.Node("a")), config(pki.Node("b"))
	for b.Loop() {
		c, s := pair(b, client, server)
		if err, _ := shake(c, s, nil); err != nil {
			b.Fatal(err)
		}
		c.Close()
		s.Close()
	}
}
