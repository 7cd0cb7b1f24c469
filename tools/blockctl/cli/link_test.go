package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/pki"
)

// authority is a cluster's, of the fake's identifier unless another is named.
func authority(t *testing.T, cluster string, now time.Time) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// signed returns a certificate of id and its key.
func signed(t *testing.T, ca *pki.Authority, id pki.Identity, now time.Time, life time.Duration) (cert *x509.Certificate, certPEM, keyPEM []byte, creds *pki.Credentials) {
	t.Helper()
	key, csr, err := pki.NewRequest(id)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Sign(csr, id, now, life)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if creds, err = pki.NewCredentials(cert, key, pki.NewBundle(ca.Certificate())); err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: text}), creds
}

// bundleFile writes a client's bundle and returns its path.
func bundleFile(t *testing.T, file string, ca *pki.Authority, now time.Time, addresses ...string) string {
	t.Helper()
	id := pki.Identity{Cluster: theCluster.GetId(), Role: pki.RoleAdmin, Name: "alice"}
	if ca.Certificate().Subject.CommonName == "" {
		t.Fatal("an authority without a name")
	}
	_, cert, key, _ := signed(t, ca, id, now, time.Hour)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, marshalBundle("prod", addresses, cert, key, pki.NewBundle(ca.Certificate()).PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// secure makes a listener that of a node of ca's cluster.
func secure(t *testing.T, ca *pki.Authority, l net.Listener) net.Listener {
	t.Helper()
	_, _, _, creds := signed(t, ca, pki.Identity{Cluster: theCluster.GetId(), Node: "n1"}, time.Now(), time.Hour)
	return tls.NewListener(l, creds.ServerConfig([]string{"http/1.1"}, []string{"http/1.1"}))
}

// TestCertificates goes over every way in which the certificate may be right or wrong.
func TestCertificates(t *testing.T) {
	home := alone(t)
	now := time.Now()
	ours, theirs := authority(t, theCluster.GetId(), now), authority(t, theCluster.GetId(), now)
	f := &fake{}
	address := f.start(t, secure(t, ours, listen(t)))
	plainAddress := (&fake{}).start(t, listen(t))
	dir := t.TempDir()
	good := bundleFile(t, filepath.Join(dir, "good.pem"), ours, now, address)
	other := bundleFile(t, filepath.Join(dir, "other.pem"), theirs, now, address)
	old := bundleFile(t, filepath.Join(dir, "old.pem"), ours, now.Add(-3*time.Hour), address)
	open := bundleFile(t, filepath.Join(dir, "open.pem"), ours, now, address)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "half.pem")
	if err := os.WriteFile(half, []byte("no pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The authority of others in the file, and a certificate that this node refuses.
	_, strange, strangeKey, _ := signed(t, theirs, pki.Identity{Cluster: theCluster.GetId(), Role: pki.RoleAdmin, Name: "eve"}, now, time.Hour)
	refused := filepath.Join(dir, "refused.pem")
	if err := os.WriteFile(refused, marshalBundle("prod", []string{address}, strange, strangeKey, pki.NewBundle(ours.Certificate()).PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		exit int
		says string
	}{
		{"right, at the addresses in the file", []string{"--cert", good}, exitDone, ""},
		{"right, at a named address", []string{"--cert", good, "--api", address}, exitDone, ""},
		{"of another cluster", []string{"--cert", other}, exitCertificate, "not this cluster's authority; name the certificate of that cluster with --cert"},
		{"expired", []string{"--cert", old}, exitCertificate, "; compare the clocks, or ask an administrator"},
		{"readable by others", []string{"--cert", open}, exitCertificate, "chmod 600"},
		{"no certificate at all", []string{"--cert", half}, exitCertificate, "lacks a certificate"},
		{"not there", []string{"--cert", filepath.Join(dir, "none")}, exitCertificate, "no such file"},
		{"refused by the node", []string{"--cert", refused}, exitCertificate, "the node refuses your certificate"},
		{"named, for a node without TLS", []string{"--cert", good, "--api", plainAddress}, exitUnreachable, "that node has no certificate"},
		{"none, for a node with TLS", []string{"--api", address}, exitUnreachable, "name your certificate with --cert"},
	} {
		_, _, err := ctl("", append([]string{"volume", "list"}, c.args...)...)
		if ExitCode(err) != c.exit || c.says != "" && (err == nil || !strings.Contains(Explain(err), c.says)) {
			t.Errorf("%s: exit %d with %v; want %d with %q", c.name, ExitCode(err), err, c.exit, c.says)
		}
	}

	// In its usual place it is found, and a node on this machine that has no
	// certificate can be asked all the same.
	bundleFile(t, filepath.Join(home, "prod.pem"), ours, now, address)
	for _, args := range [][]string{{"volume", "list"}, {"volume", "list", "--api", plainAddress}, {"cert", "show"}} {
		if out, _, err := ctl("", args...); err != nil || !strings.Contains(out, "NAME") && !strings.Contains(out, "alice") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	bundleFile(t, filepath.Join(home, "second.pem"), ours, now, address)
	if _, _, err := ctl("", "volume", "list"); ExitCode(err) != exitCertificate || !strings.Contains(Explain(err), "which of") {
		t.Errorf("with two certificates: %v", err)
	}
	if _, _, err := ctl("", "cert", "show", old); ExitCode(err) != exitCertificate {
		t.Errorf("cert show of an expired one: %v", err)
	}
}

// TestNextAddress asks further addresses when one is dead, or answers that it
// can't now; and repeats a change with the request_id that it had.
func TestNextAddress(t *testing.T) {
	alone(t)
	dead := listen(t)
	dead.Close()
	away := &fake{fail: connect.NewError(connect.CodeUnavailable, errors.New("there is no leader"))}
	alive := &fake{}
	api := strings.Join([]string{dead.Addr().String(), away.start(t, listen(t)), alive.start(t, listen(t))}, ",")
	if _, _, err := ctl("", "volume", "delete", "db1", "--yes", "--api", api); err != nil {
		t.Fatal(Explain(err))
	}
	if len(away.asked) != 1 || len(alive.asked) != 1 {
		t.Fatalf("asked %d and %d times, want once each", len(away.asked), len(alive.asked))
	}
	id := func(f *fake) string { return f.asked[0].Any().(*blockdv1.DeleteVolumeRequest).GetRequestId() }
	if id(away) == "" || id(away) != id(alive) {
		t.Errorf("request_id %q, then %q", id(away), id(alive))
	}

	// What the cluster has decided is not asked again.
	alive.fail = connect.NewError(connect.CodeFailedPrecondition, errors.New("it is mapped"))
	alive.asked, away.asked, away.fail = nil, nil, connect.NewError(connect.CodeNotFound, errors.New("no such volume"))
	if _, _, err := ctl("", "volume", "delete", "db1", "--yes", "--api", api); ExitCode(err) != exitRefused || len(alive.asked) != 0 {
		t.Errorf("%v, and asked further %d times", err, len(alive.asked))
	}
	away.fail, alive.fail = connect.NewError(connect.CodeUnavailable, errors.New("no leader")), connect.NewError(connect.CodeUnavailable, errors.New("no quorum"))
	if _, _, err := ctl("", "volume", "list", "--api", api); ExitCode(err) != exitUnreachable || !strings.Contains(Explain(err), "no ") {
		t.Errorf("%d %v", ExitCode(err), err)
	}
	_, _, err := ctl("", "volume", "list", "--api", dead.Addr().String())
	if want := "no blockd answers at " + dead.Addr().String() + ": connection refused; start it"; ExitCode(err) != exitUnreachable || !strings.Contains(Explain(err), want) {
		t.Errorf("%d %s; want %q", ExitCode(err), Explain(err), want)
	}
}

// TestSocket asks by a socket whose path is longer than a socket's name may be,
// by that of its folder too, and says what to do when it is not there.
func TestSocket(t *testing.T) {
	alone(t)
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/control.sock", d.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	(&fake{}).start(t, l)
	for _, path := range []string{dir, filepath.Join(dir, "control.sock")} {
		if out, _, err := ctl("", "volume", "list", "--api", "unix:"+path); err != nil || !strings.Contains(out, "db1") {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, _, err = ctl("", "volume", "list", "--api", "unix:"+filepath.Join(dir, "none", "control.sock"))
	if ExitCode(err) != exitUnreachable || !strings.Contains(Explain(err), "no such file or directory; start it") {
		t.Error(err)
	}
	for _, bad := range []string{"unix:", "a b", ":7480"} {
		if _, _, err := ctl("", "volume", "list", "--api", bad); ExitCode(err) != exitUsage {
			t.Errorf("--api %q: %v", bad, err)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for in, want := range map[string]string{"10.0.0.1": "10.0.0.1:7480", "n1:80": "n1:80", "http://n1:80/": "n1:80", "[fd00::1]:81": "[fd00::1]:81",
		"fd00::1": "[fd00::1]:7480", "[fd00::1]": "[fd00::1]:7480", " unix:a/b": "unix:a/b"} {
		if got, err := parseTarget(in); err != nil || got.String() != want {
			t.Errorf("%q: %v %v, want %s", in, got, err, want)
		}
	}
}

// TestInit makes a cluster, and keeps the certificate where it is found next.
func TestInit(t *testing.T) {
	home := alone(t)
	ca := authority(t, theCluster.GetId(), time.Now())
	_, cert, key, _ := signed(t, ca, pki.Identity{Cluster: theCluster.GetId(), Role: pki.RoleAdmin, Name: "admin"}, time.Now(), time.Hour)
	f := &fake{init: &blockdv1.InitClusterResponse{Cluster: theCluster, AdminCertificatePem: cert, AdminKeyPem: key, CaPem: pki.NewBundle(ca.Certificate()).PEM()}}
	address := f.start(t, listen(t))
	f.fail = connect.NewError(connect.CodeAlreadyExists, errors.New("it is of a cluster"))
	file := filepath.Join(home, "prod.pem")
	if _, _, err := ctl("", "cluster", "init", "--name", "prod", "--api", address); ExitCode(err) != exitRefused {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a refusal leaves %s: %v", file, err)
	}
	f.fail = nil
	out, _, err := ctl("", "cluster", "init", "--name", "prod", "--api", address, "-o", "json")
	if err != nil || !strings.Contains(out, `"certificate": "`+file+`"`) || !strings.Contains(out, `"name": "prod"`) {
		t.Fatalf("%v: %s", err, out)
	}
	st, err := os.Stat(file)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", st, err)
	}
	b, err := findBundle("")
	if err != nil || b.name != "prod" || strings.Join(b.addresses, " ") != "10.0.0.1:7480 10.0.0.2:7480" || b.creds.Self().Name != "admin" {
		t.Fatalf("%+v: %v", b, err)
	}
	f.asked = nil
	if _, _, err := ctl("", "cluster", "init", "--name", "prod", "--api", address); err == nil || !strings.Contains(err.Error(), "exists already") || len(f.asked) != 0 {
		t.Errorf("over a certificate that is there: %v, asked %d times", err, len(f.asked))
	}
}

// TestIssue has a key made here signed there, and refuses another's certificate.
func TestIssue(t *testing.T) {
	alone(t)
	ca := authority(t, theCluster.GetId(), time.Now())
	f := &fake{}
	name := "joe"
	f.issue = func(r *blockdv1.IssueClientCertificateRequest) *blockdv1.IssueClientCertificateResponse {
		role, err := pki.ParseRole(r.GetRole())
		if err != nil {
			panic(err)
		}
		id := pki.Identity{Cluster: theCluster.GetId(), Role: role, Name: name}
		csr := r.GetCsrDer()
		if name != r.GetName() {
			_, csr, err = pki.NewRequest(id)
		}
		der, err2 := ca.Sign(csr, id, time.Now(), time.Duration(r.GetTtlSeconds())*time.Second)
		if err = errors.Join(err, err2); err != nil {
			panic(err)
		}
		return &blockdv1.IssueClientCertificateResponse{CertificatePem: pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), CaPem: pki.NewBundle(ca.Certificate()).PEM()}
	}
	address := f.start(t, secure(t, ca, listen(t)))
	admin := bundleFile(t, filepath.Join(t.TempDir(), "admin.pem"), ca, time.Now(), address)
	file := filepath.Join(t.TempDir(), "joe.pem")
	if _, _, err := ctl("", "cert", "issue", "joe", "--role", "viewer", "--ttl", "2h", "--out", file, "--cert", admin); err != nil {
		t.Fatal(Explain(err))
	}
	b, err := readBundle(file)
	if err != nil || b.creds.Self().Role != pki.RoleViewer || time.Until(b.cert.NotAfter) > 2*time.Hour || len(b.addresses) != 2 {
		t.Fatalf("%+v: %v", b, err)
	}
	name = "eve"
	none := filepath.Join(t.TempDir(), "x.pem")
	if _, _, err := ctl("", "cert", "issue", "joe", "--role", "viewer", "--out", none, "--cert", admin); err == nil {
		t.Error("took the certificate of another key")
	}
	if _, err := os.Stat(none); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failure leaves %s", none)
	}

	// refresh puts the addresses of now into the administrator's file.
	if _, _, err := ctl("", "cert", "refresh", "--cert", admin); err != nil {
		t.Fatal(Explain(err))
	}
	if b, err := readBundle(admin); err != nil || strings.Join(b.addresses, " ") != "10.0.0.1:7480 10.0.0.2:7480" || b.creds.Self().Name != "alice" {
		t.Errorf("%+v: %v", b, err)
	}
}

// TestBackup leaves the whole backup, or nothing.
func TestBackup(t *testing.T) {
	alone(t)
	f := &fake{fail: connect.NewError(connect.CodeUnavailable, io.ErrUnexpectedEOF)}
	address := f.start(t, listen(t))
	dir := t.TempDir()
	file := filepath.Join(dir, "backup")
	if _, _, err := ctl("", "cluster", "backup", file, "--api", address); ExitCode(err) != exitUnreachable {
		t.Error(err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("a failure leaves %v %v", list, err)
	}
	f.mu.Lock()
	f.fail = nil
	f.mu.Unlock()
	if _, _, err := ctl("", "cluster", "backup", file, "--api", address); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "first second" {
		t.Errorf("%q %v", b, err)
	}
	if _, _, err := ctl("", "cluster", "backup", file, "--api", address); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Error(err)
	}
}

// FuzzParseBundle feeds what a user's file may hold.
// TestBundleText checks that a bundle is plain PEM, as others read it, that what nodes
// say makes no block of its own, and that files of before are read still.
func TestBundleText(t *testing.T) {
	ca, err := pki.NewAuthority(theCluster.GetId(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, cert, key, _ := signed(t, ca, pki.Identity{Cluster: theCluster.GetId(), Role: pki.RoleAdmin, Name: "alice"}, time.Now(), time.Hour)
	trust := pki.NewBundle(ca.Certificate()).PEM()
	want := []string{"10.0.0.1:7480", "[fd00::2]:7480"}

	text := marshalBundle("prod", append(want, "evil\n-----BEGIN CERTIFICATE-----"), cert, key, trust)
	if head, _, _ := strings.Cut(string(text), "-----BEGIN"); head != "blockd cluster: prod\nblockd node: 10.0.0.1:7480\nblockd node: [fd00::2]:7480\n" {
		t.Errorf("before the first block is %q", head)
	}
	var types []string
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		types = append(types, block.Type)
		if len(block.Headers) > 0 {
			t.Errorf("%s has headers %v: OpenSSL refuses them", block.Type, block.Headers)
		}
	}
	if got := strings.Join(types, ","); got != "CERTIFICATE,PRIVATE KEY,CERTIFICATE" {
		t.Errorf("blocks %s", got)
	}

	old := pem.EncodeToMemory(&pem.Block{Type: pemCluster, Headers: map[string]string{headerName: "prod", headerAddress: strings.Join(want, ",")}})
	for what, text := range map[string][]byte{"now": text, "before": slices.Concat(old, cert, key, trust), "by hand": slices.Concat([]byte("blockd node: \r\nblockd cluster: prod\r\nblockd node: 10.0.0.1:7480\r\nblockd node: [fd00::2]:7480\r\n"), cert, key, trust)} {
		if b, err := parseBundle("file", text); err != nil || b.name != "prod" || !slices.Equal(b.addresses, want) || b.creds.Self().Name != "alice" {
			t.Errorf("a file of %s: %+v: %v", what, b, err)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add(marshalBundle("prod", []string{"a:1", "b:2"}, []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), nil, nil))
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parseBundle("file", text)
		if err == nil && (b.creds == nil || b.check(b.cert.NotBefore) != nil && b.cert.NotBefore.Before(b.cert.NotAfter)) {
			t.Error("a bundle without credentials, or that is not valid when it begins")
		}
		if err != nil && !errors.Is(err, errCertificate) {
			t.Errorf("%v is not an error of the certificate", err)
		}
	})
}
