package group

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"blockd.dev/raftmeta/pki"
)

// A node joins by a token, and nothing else that it was given, through a member
// that is not the first, when the first is dead: that member has the
// authority's key from the replicated state and the cluster key. The API here
// stands for the real one.
func TestJoinByTokenWhileTheFirstNodeIsDead(t *testing.T) {
	type ask struct {
		Token   [8]byte
		Proof   [32]byte
		Request []byte
	}
	type answer struct {
		Certificate, Bundle, Keyring []byte
		Incarnation                  uint32
		Members                      map[string]string
	}
	c := start(t, 3, nil)
	ring := pki.NewKeyring()
	text, err := c.ca.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := ring.Seal("authority", text)
	if err != nil {
		t.Fatal(err)
	}
	c.nodes["n1"].stop()
	host := c.nodes["n2"]
	token, record, err := pki.NewToken(c.ca.Certificate(), time.Now().Add(time.Hour), []string{host.cfg.Address})
	if err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex // of record, which the state machine would keep
	admit := func(a ask) (answer, error) {
		mu.Lock()
		defer mu.Unlock()
		req, err := x509.ParseCertificateRequest(a.Request)
		if err != nil || len(req.URIs) != 1 {
			return answer{}, errors.New("no request")
		}
		id, err := pki.ParseIdentity(req.URIs[0].String())
		if err != nil {
			return answer{}, err
		}
		if record, err = record.Redeem(a.Proof, id.Node, time.Now().Unix()); err != nil {
			return answer{}, err
		}
		text, err := ring.Open("authority", sealed)
		if err != nil {
			return answer{}, err
		}
		ca, err := pki.ParseAuthority("test", text)
		if err != nil {
			return answer{}, err
		}
		der, err := ca.Sign(a.Request, id, time.Now(), time.Hour)
		return answer{der, pki.NewBundle(ca.Certificate()).PEM(), ring.Marshal(), host.Incarnation(), map[string]string{host.id: host.cfg.Address}}, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var a ask
		if err := json.NewDecoder(r.Body).Decode(&a); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		got, err := admit(a)
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(got)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(host.listener.API()) }()
	defer func() {
		_ = server.Shutdown(context.Background())
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()

	join := func(node string) (*pki.Credentials, answer, error) {
		given, err := pki.ParseToken(token.String()) // all that the joiner knows
		if err != nil {
			t.Fatal(err)
		}
		key, csr, err := pki.NewRequest(pki.Identity{Cluster: "test", Node: node})
		if err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(ask{given.ID, given.Proof(), csr})
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return (&tls.Dialer{Config: given.JoinConfig(time.Now, "http/1.1")}).DialContext(ctx, network, address)
		}}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Post("https://"+given.Addresses[0], "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var a answer
		if resp.StatusCode != http.StatusOK {
			return nil, a, errors.New(resp.Status)
		}
		if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(a.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		bundle, err := pki.ParseBundle(a.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := pki.NewCredentials(cert, key, bundle)
		if err != nil {
			t.Fatal(err)
		}
		return creds, a, nil
	}
	creds, a, err := join("n4")
	if err != nil {
		t.Fatal(err)
	}
	n := c.prepare("n4")
	n.creds, n.cfg.Incarnation = creds, a.Incarnation
	n.mustOpen()
	if err := n.Join(c.ctx(), a.Members); err != nil {
		t.Fatal(err)
	}
	c.apply(n, "joined")
	c.agree("joined")
	if _, _, err := join("n5"); err == nil {
		t.Error("the token let a second node in")
	}
	if _, _, err := join("n4"); err != nil {
		t.Errorf("the answer was lost and the node came again: %v", err)
	}
}
