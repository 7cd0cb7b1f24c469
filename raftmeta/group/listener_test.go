package group

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"blockd.dev/raftmeta/pki"
)

// One port serves members and the API, by HTTP/2 and HTTP/1.1, with and
// without a certificate; the API knows who asks.
func TestOnePortForAll(t *testing.T) {
	c := start(t, 3, nil)
	n := c.nodes["n1"]
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := pki.PeerIdentity(r.TLS)
		fmt.Fprintf(w, "%s %v %s", r.Proto, ok, id.Node)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(n.listener.API()) }()
	ask := func(config *tls.Config, want string) {
		t.Helper()
		config.NextProtos = nil // left to the transport
		tr := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: want[5] == '2'}
		defer tr.CloseIdleConnections()
		if want[5] == '1' {
			tr.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + n.cfg.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if b, _ := io.ReadAll(resp.Body); string(b) != want {
			t.Errorf("%q, want %q", b, want)
		}
	}
	ask(c.credentials("n7").ClientConfig("n1"), "HTTP/2.0 true n7")
	ask(c.credentials("n7").ClientConfig("n1"), "HTTP/1.1 true n7")
	ask(&tls.Config{InsecureSkipVerify: true}, "HTTP/2.0 false ")
	ask(&tls.Config{InsecureSkipVerify: true}, "HTTP/1.1 false ")
	c.apply(n, "x")
	c.agree("x")
	// The API goes on while the group is closed, as during a restore.
	n.down = true
	n.Group.Close()
	ask(&tls.Config{InsecureSkipVerify: true}, "HTTP/1.1 false ")
	if conn, err := c.nodes["n2"].dial(c.ctx(), protoMember, "n1", n.cfg.Address); err == nil {
		conn.Close()
		t.Error("a closed group was reached")
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	n.listener.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestPlainPortIsForTheLoopback(t *testing.T) {
	all, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewListener(all, nil); err == nil {
		t.Fatal("a plain control port on all interfaces")
	}
	lo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := NewListener(lo, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "plain") })}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l.API()) }()
	tr := &http.Transport{}
	resp, err := (&http.Client{Transport: tr}).Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	tr.CloseIdleConnections()
	if err := server.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// Whoever connects and says nothing, or nonsense, keeps nobody else out.
func TestSilentConnectionsDoNoHarm(t *testing.T) {
	c := start(t, 1, nil)
	n := c.nodes["n1"]
	for i := range 20 {
		conn, err := net.Dial("tcp", n.cfg.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			if _, err := conn.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.join(n, "n2")
	c.apply(c.nodes["n2"], "x")
	c.agree("x")
}
