package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"blockd.dev/replication/wire/secure"
)

var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster, epoch)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// member makes credentials of id, signed by a at epoch.
func member(t *testing.T, a *Authority, id Identity, bundle Bundle) (*Credentials, Member) {
	t.Helper()
	key, csr, err := NewRequest(id)
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Sign(csr, id, epoch, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredentials(cert, key, bundle)
	if err != nil {
		t.Fatal(err)
	}
	c.Now = func() time.Time { return epoch }
	return c, Member{cert, key, bundle, NewKeyring()}
}

// handshake connects client to server over a pipe and returns both errors.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	srv := tls.Server(b, server)
	go func() {
		err := srv.Handshake()
		if err == nil {
			_, err = srv.Write([]byte("x")) // in TLS 1.3 the client learns here that it was refused
		} else {
			b.Close()
		}
		done <- err
	}()
	cl := tls.Client(a, client)
	clientErr = cl.Handshake()
	if clientErr == nil {
		_, clientErr = cl.Read(make([]byte, 1))
	}
	a.Close()
	return clientErr, <-done
}

var (
	node1 = Identity{Cluster: "prod", Node: "n1"}
	node2 = Identity{Cluster: "prod", Node: "n2"}
	admin = Identity{Cluster: "prod", Role: RoleAdmin, Name: "root@host & co"}
)

// A connection is made only between members of one cluster, by nodes where
// nodes are asked for, and while certificates are valid.
func TestWhoMayConnect(t *testing.T) {
	ca, other := authority(t, "prod"), authority(t, "prod")
	foreign := authority(t, "lab")
	bundle := NewBundle(ca.Certificate())
	server, _ := member(t, ca, node1, bundle)
	config := server.ServerConfig([]string{"raft", "http"}, []string{"http"})
	late := func(c *Credentials) *Credentials {
		c.Now = func() time.Time { return epoch.Add(100 * 24 * time.Hour) }
		return c
	}
	good, _ := member(t, ca, node2, bundle)
	adm, _ := member(t, ca, admin, bundle)
	stranger, _ := member(t, other, node2, bundle)
	lab, _ := member(t, foreign, Identity{Cluster: "lab", Node: "n2"}, NewBundle(foreign.Certificate()))
	old, _ := member(t, ca, node2, bundle)
	cases := []struct {
		name   string
		client *tls.Config
		ok     bool
	}{
		{"node speaks raft", good.ClientConfig("n1", "raft"), true},
		{"any node", good.ClientConfig("", "raft"), true},
		{"another node expected", good.ClientConfig("n3", "raft"), false},
		{"admin speaks http", adm.ClientConfig("", "http"), true},
		{"admin speaks raft", adm.ClientConfig("", "raft"), false},
		{"nobody speaks http", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http"}}, true},
		{"nobody speaks raft", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"raft"}}, false},
		{"same names, another authority", stranger.ClientConfig("", "raft"), false},
		{"same names, another authority, http", stranger.ClientConfig("", "http"), false},
		{"another cluster", lab.ClientConfig("", "raft"), false},
		{"expired, says the client's clock", late(old).ClientConfig("", "raft"), false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			clientErr, serverErr := handshake(t, c.client, config)
			if ok := clientErr == nil && serverErr == nil; ok != c.ok {
				t.Fatalf("client: %v; server: %v; want success %v", clientErr, serverErr, c.ok)
			}
		})
	}
	t.Run("expired, says the server's clock", func(t *testing.T) {
		s, _ := member(t, ca, node1, bundle)
		_, err := handshake(t, good.ClientConfig("", "raft"), late(s).ServerConfig([]string{"raft"}, nil))
		if !errors.Is(err, ErrPeer) {
			t.Fatalf("server: %v", err)
		}
	})
}

// A foreign cluster's node whose authority we somehow trust is still refused.
func TestClusterNameIsChecked(t *testing.T) {
	foreign := authority(t, "lab")
	both := NewBundle(foreign.Certificate())
	a, _ := member(t, foreign, Identity{Cluster: "lab", Node: "a"}, both)
	self := a.current.Load()
	self.self.Cluster = "prod" // as if this node were of prod and trusted lab's authority
	b, _ := member(t, foreign, Identity{Cluster: "lab", Node: "b"}, both)
	_, err := handshake(t, b.ClientConfig("", "raft"), a.ServerConfig([]string{"raft"}, nil))
	if !errors.Is(err, ErrPeer) {
		t.Fatalf("server: %v", err)
	}
}

// The other verifier in the tree reads the same certificates.
func TestNodeWireAcceptsOurCertificates(t *testing.T) {
	ca := authority(t, "prod")
	_, m := member(t, ca, node1, NewBundle(ca.Certificate()))
	c := secure.Credentials{Cluster: "prod", Roots: m.Bundle.Pool(),
		Certificate: tls.Certificate{Certificate: [][]byte{m.Certificate.Raw}, PrivateKey: m.Key}}
	id, err := c.Self()
	if err != nil || id.Node != "n1" || id.URI().String() != node1.String() {
		t.Fatalf("%+v, %v", id, err)
	}
}

// While the authority rotates, members with old and new certificates talk;
// after it, the old ones are refused.
func TestRotationOfTheAuthority(t *testing.T) {
	oldCA, newCA := authority(t, "prod"), authority(t, "prod")
	before := NewBundle(oldCA.Certificate())
	prepared, err := before.With(newCA.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := prepared.With(oldCA.Certificate()); err == nil {
		t.Fatal("a second rotation began within the first")
	}
	switched, err := prepared.Switched()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Switched(); err == nil {
		t.Fatal("switched to nobody")
	}
	a, _ := member(t, oldCA, node1, prepared)
	b, m := member(t, newCA, node2, switched)
	connect := func(from, to *Credentials) error {
		c, s := handshake(t, from.ClientConfig("", "raft"), to.ServerConfig([]string{"raft"}, nil))
		return errors.Join(c, s)
	}
	if err := errors.Join(connect(a, b), connect(b, a)); err != nil {
		t.Fatal(err)
	}
	if err := b.Replace(m.Certificate, m.Key, switched.Without()); err != nil {
		t.Fatal(err)
	}
	if connect(a, b) == nil || connect(b, a) == nil {
		t.Fatal("a certificate of the retired authority is still good")
	}
	if a.Due(epoch) {
		t.Fatal("a renews at once")
	}
	am := a.current.Load()
	if err := a.Replace(am.cert.Leaf, am.cert.PrivateKey.(ed25519.PrivateKey), switched); err != nil {
		t.Fatal(err)
	}
	if !a.Due(epoch) {
		t.Fatal("after the switch, a certificate of the old authority is renewed at once")
	}
}

func TestReplaceKeepsTheIdentity(t *testing.T) {
	ca := authority(t, "prod")
	c, _ := member(t, ca, node1, NewBundle(ca.Certificate()))
	_, m := member(t, ca, node2, NewBundle(ca.Certificate()))
	if c.Replace(m.Certificate, m.Key, m.Bundle) == nil {
		t.Fatal("n1 became n2")
	}
	if c.Self() != node1 {
		t.Fatalf("now %v", c.Self())
	}
}

// Requests that ask for more than they may get, or don't prove the key.
func TestSignRefuses(t *testing.T) {
	a := authority(t, "prod")
	_, csr, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	weak, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	weakCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{node1.URI()}}, weak)
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(csr)
	forged[len(forged)-1] ^= 1
	for _, c := range []struct {
		name string
		csr  []byte
		id   Identity
		life time.Duration
		now  time.Time
	}{
		{"another node", csr, node2, time.Hour, epoch},
		{"a client", csr, admin, time.Hour, epoch},
		{"another cluster", csr, Identity{Cluster: "lab", Node: "n1"}, time.Hour, epoch},
		{"signature", forged, node1, time.Hour, epoch},
		{"truncated", csr[:40], node1, time.Hour, epoch},
		{"not Ed25519", weakCSR, node1, time.Hour, epoch},
		{"too long", csr, node1, 2 * NodeLife, epoch},
		{"no life", csr, node1, 0, epoch},
		{"authority expired", csr, node1, time.Hour, epoch.Add(2 * AuthorityLife)},
	} {
		if _, err := a.Sign(c.csr, c.id, c.now, c.life); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	der, err := a.Sign(csr, node1, epoch.Add(AuthorityLife-time.Hour), NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	if cert, _ := x509.ParseCertificate(der); cert.NotAfter.After(a.Certificate().NotAfter) {
		t.Error("a certificate outlives its authority")
	}
}

// A node that asks two members, or one of them twice, is given what the catalog takes for one certificate.
// Another key, another node and another authority have others.
func TestJoiningTwiceIsOneCertificate(t *testing.T) {
	ca := authority(t, "prod")
	sign := func(ca *Authority, key ed25519.PrivateKey, id Identity, now time.Time) *x509.Certificate {
		t.Helper()
		csr, err := RequestFor(key, id)
		if err != nil {
			t.Fatal(err)
		}
		der, err := ca.SignJoin(csr, id, now)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	key, _, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	first := sign(ca, key, node1, epoch)
	if again := sign(ca, key, node1, epoch.Add(time.Minute)); Serial(again) != Serial(first) {
		t.Errorf("serial numbers %s and %s", Serial(first), Serial(again))
	}
	if first.NotAfter.Sub(epoch) != NodeLife || !key.Public().(ed25519.PublicKey).Equal(first.PublicKey) {
		t.Errorf("valid until %v, for %x", first.NotAfter, first.PublicKey)
	}
	for what, cert := range map[string]*x509.Certificate{
		"another key": sign(ca, other, node1, epoch), "another node": sign(ca, key, node2, epoch), "another authority": sign(authority(t, "prod"), key, node1, epoch),
	} {
		if Serial(cert) == Serial(first) {
			t.Errorf("%s has the same serial number", what)
		}
	}
}

func TestAuthoritySurvivesSealing(t *testing.T) {
	a, ring := authority(t, "prod"), NewKeyring()
	text, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ring.Seal("authority", text)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, []byte("PRIVATE")) {
		t.Fatal("not sealed")
	}
	plain, err := ring.Open("authority", sealed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseAuthority("prod", plain)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := member(t, b, node1, NewBundle(a.Certificate()))
	d, _ := member(t, a, node2, NewBundle(a.Certificate()))
	if cerr, serr := handshake(t, c.ClientConfig("n2", "raft"), d.ServerConfig([]string{"raft"}, nil)); cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
}

func TestSealOpensOnlyWhereItBelongs(t *testing.T) {
	ring := NewKeyring()
	sealed, err := ring.Seal("host/a", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Open("host/b", sealed); !errors.Is(err, ErrSealOpen) {
		t.Errorf("another label: %v", err)
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 0x40
		if _, err := ring.Open("host/a", bad); err == nil {
			t.Errorf("byte %d changed, still opens", i)
		}
		if _, err := ring.Open("host/a", sealed[:i]); err == nil {
			t.Errorf("cut to %d bytes, still opens", i)
		}
	}
	next, err := ring.Add()
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := next.Open("host/a", sealed); err != nil || string(plain) != "secret" {
		t.Errorf("after adding a key: %q, %v", plain, err)
	}
	again, _ := next.Seal("host/a", []byte("secret"))
	if id, _ := SealedBy(again); id != next.Newest() {
		t.Errorf("sealed by %d, not by the newest key %d", id, next.Newest())
	}
	if _, err := ring.Open("host/a", again); !errors.Is(err, ErrSealKey) {
		t.Errorf("without the new key: %v", err)
	}
	if _, err := next.Drop().Open("host/a", sealed); !errors.Is(err, ErrSealKey) {
		t.Errorf("with a dropped key: %v", err)
	}
	parsed, err := ParseKeyring(next.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := parsed.Open("host/a", again); err != nil || string(plain) != "secret" {
		t.Errorf("after parsing: %q, %v", plain, err)
	}
	if _, err := (Keyring{}).Seal("x", nil); err == nil {
		t.Error("sealed without a key")
	}
}

// A joiner trusts only the authority of its token, and only nodes.
func TestTokenVerifiesTheCluster(t *testing.T) {
	ca, other := authority(t, "prod"), authority(t, "prod")
	token, _, err := NewToken(ca.Certificate(), epoch.Add(time.Hour), []string{"10.0.0.1:7480", "[fe80::1]:7480"})
	if err != nil {
		t.Fatal(err)
	}
	if parsed, err := ParseToken(token.String()); err != nil || parsed.String() != token.String() {
		t.Fatalf("%+v, %v", parsed, err)
	}
	now := func() time.Time { return epoch }
	join := token.JoinConfig(now, "http")
	server, _ := member(t, ca, node1, NewBundle(ca.Certificate()))
	if cerr, serr := handshake(t, join, server.ServerConfig([]string{"http"}, []string{"http"})); cerr != nil || serr != nil {
		t.Fatal(cerr, serr)
	}
	imposter, _ := member(t, other, node1, NewBundle(other.Certificate()))
	if cerr, _ := handshake(t, join, imposter.ServerConfig([]string{"http"}, []string{"http"})); !errors.Is(cerr, ErrTokenCluster) {
		t.Fatalf("an imposter: %v", cerr)
	}
	// It shows the right authority beside a certificate signed by another.
	mixed := imposter.current.Load()
	mixed.cert.Certificate = append(mixed.cert.Certificate, ca.Certificate().Raw)
	if cerr, _ := handshake(t, join, imposter.ServerConfig([]string{"http"}, []string{"http"})); !errors.Is(cerr, ErrPeer) {
		t.Fatalf("an imposter that shows our authority: %v", cerr)
	}
	client, _ := member(t, ca, admin, NewBundle(ca.Certificate()))
	if cerr, _ := handshake(t, join, client.ServerConfig([]string{"http"}, []string{"http"})); cerr == nil {
		t.Fatal("a client's certificate serves as a node's")
	}
}

func TestTokenIsRedeemedOnce(t *testing.T) {
	ca := authority(t, "prod")
	token, record, err := NewToken(ca.Certificate(), epoch.Add(time.Hour), []string{"a:1"})
	if err != nil {
		t.Fatal(err)
	}
	now := epoch.Unix()
	wrong := token
	wrong.Secret[3] ^= 1
	if _, err := record.Redeem(wrong.Proof(), "n2", now); !errors.Is(err, ErrTokenUnknown) {
		t.Errorf("wrong secret: %v", err)
	}
	if _, err := record.Redeem(token.Proof(), "n2", now+3600); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("expired: %v", err)
	}
	used, err := record.Redeem(token.Proof(), "n2", now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := used.Redeem(token.Proof(), "n3", now); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("a second node: %v", err)
	}
	if again, err := used.Redeem(token.Proof(), "n2", now); err != nil || again != used {
		t.Errorf("the same node again: %v", err)
	}
	if record.UsedBy != "" {
		t.Error("Redeem changed its receiver")
	}
}

func TestFilesKeepWhatWasSaved(t *testing.T) {
	ca := authority(t, "prod")
	_, m := member(t, ca, node1, NewBundle(ca.Certificate()))
	f := Files{filepath.Join(t.TempDir(), "pki")}
	if ok, err := f.Exists(); ok || err != nil {
		t.Fatal(ok, err)
	}
	joining, err := f.JoiningKey()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.JoiningKey(); err != nil || !again.Equal(joining) {
		t.Errorf("the key to join with is another for the second attempt: %v", err)
	}
	for range 2 {
		if err := f.Save(m); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Certificate.Equal(m.Certificate) || !got.Key.Equal(m.Key) || !bytes.Equal(got.Keyring.Marshal(), m.Keyring.Marshal()) || !bytes.Equal(got.Bundle.PEM(), m.Bundle.PEM()) {
		t.Fatal("loaded something else")
	}
	entries, err := os.ReadDir(f.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]os.FileMode{fileNode: 0o600, fileBundle: 0o644, fileKeyring: 0o600}
	for _, e := range entries {
		info, _ := e.Info()
		if want[e.Name()] != info.Mode().Perm() {
			t.Errorf("%s has mode %04o", e.Name(), info.Mode().Perm())
		}
		delete(want, e.Name())
	}
	if len(want) != 0 {
		t.Errorf("missing: %v", want)
	}
	sealed := []byte("sealed")
	if err := f.SaveAuthority(sealed); err != nil {
		t.Fatal(err)
	}
	if got, err := f.LoadAuthority(); err != nil || !bytes.Equal(got, sealed) {
		t.Errorf("the authority: %q, %v", got, err)
	}
	for _, name := range []string{fileNode, fileKeyring} {
		path := filepath.Join(f.Dir, name)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Load(); err == nil {
			t.Errorf("%s can be read by others and was used", name)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRenewalComesBeforeExpiry(t *testing.T) {
	ca := authority(t, "prod")
	c, m := member(t, ca, node1, NewBundle(ca.Certificate()))
	at := RenewAt(m.Certificate)
	if left := m.Certificate.NotAfter.Sub(at); left < 29*24*time.Hour || !at.After(epoch) {
		t.Fatalf("renewed at %v, %v before the end", at, left)
	}
	if c.Due(at.Add(-time.Second)) || !c.Due(at) {
		t.Error("not renewed from then on")
	}
	// The last one ends with its authority, and none is longer.
	key, csr, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	end := ca.Certificate().NotAfter
	der, err := ca.Sign(csr, node1, end.Add(-time.Minute), NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	last, err := x509.ParseCertificate(der)
	if err == nil {
		err = c.Replace(last, key, m.Bundle)
	}
	if err != nil || c.Due(end.Add(-time.Second)) {
		t.Error("renewed again and again before its authority ends", err)
	}
}

// A clock that was ahead leaves a certificate that is not valid yet, and it is replaced when
// the clock is right. A clock that is behind gets no certificate: none would be of use.
func TestRenewalWhenTheClockWasSet(t *testing.T) {
	const year = 365 * 24 * time.Hour
	ca := authority(t, "prod")
	c, _ := member(t, ca, node1, NewBundle(ca.Certificate()))
	key, csr, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Sign(csr, node1, epoch.Add(year), NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	ahead, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct {
		name  string
		cert  *x509.Certificate // nil: of epoch
		clock time.Duration     // from epoch
		due   bool
		says  string
	}{
		{"right", nil, 0, false, ""},
		{"an hour behind", nil, -clockSkew, false, ""},
		{"30 days behind", nil, -30 * 24 * time.Hour, false, "the certificate of blockd://prod/node/n1 is not valid before 2026-03-01T11:00:00Z, and here it is 2026-01-30T12:00:00Z; compare the clocks"},
		{"a year ahead", nil, year, true, "was valid until 2026-05-30T12:00:00Z, and here it is 2027-03-01T12:00:00Z; compare the clocks"},
		{"a year ahead, renewed", ahead, year, false, ""},
		{"right again", ahead, 0, true, "is not valid before 2027-03-01T11:00:00Z"},
		{"beyond the authority's end", ahead, 11 * year, true, "valid until 2028-02-29"},
	} {
		if at.cert != nil {
			if err := c.Replace(at.cert, key, NewBundle(ca.Certificate())); err != nil {
				t.Fatal(err)
			}
		}
		now := epoch.Add(at.clock)
		if got := c.Due(now); got != at.due {
			t.Errorf("%s: due %v", at.name, got)
		}
		if err := c.Valid(now); (err != nil) != (at.says != "") || err != nil && !strings.Contains(err.Error(), at.says) {
			t.Errorf("%s: %v; want %q", at.name, err, at.says)
		}
	}
	if _, err := ca.Sign(csr, node1, epoch.Add(11*year), NodeLife); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "compare the clocks") {
		t.Errorf("signed by an authority that has ended: %v", err)
	}
}

// What a peer's clock has to do with a refusal is said, also when it is the authority
// that is not valid yet, which a node with a slow clock can have signed for.
func TestWrongClocksAreNamed(t *testing.T) {
	ca := authority(t, "prod")
	key, csr, err := NewRequest(node1)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Sign(csr, node1, epoch.Add(-48*time.Hour), NodeLife)
	if err != nil {
		t.Fatal(err)
	}
	slow, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredentials(slow, key, NewBundle(ca.Certificate()))
	if err != nil {
		t.Fatal(err)
	}
	c.Now = func() time.Time { return epoch.Add(-48 * time.Hour) }
	if _, err := c.verify([]*x509.Certificate{slow}, x509.ExtKeyUsageClientAuth); !errors.Is(err, ErrPeer) ||
		!strings.Contains(err.Error(), "the authority that signed the certificate of blockd://prod/node/n1 is not valid before") {
		t.Error(err)
	}
}
