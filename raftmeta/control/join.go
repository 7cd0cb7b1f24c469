package control

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/pki"
)

// Admission is what a node has when a cluster has let it in.
type Admission struct {
	Member      pki.Member
	Cluster     string
	Incarnation uint32
	Members     map[string]string // id to address of those it meets first
}

// admitTimeout bounds the try at one address.
const admitTimeout = 30 * time.Second

// Enter asks the cluster of token to let in the node with the identifier node, at the
// token's addresses or, when there are any, at those given. about says more
// about the node: its name, address, labels, roles and version. The secret of
// the token is sent only to who has proved to be of its cluster. It may be done
// again with the same node and token, if the answer to a first try was lost; with the same
// key, whatever becomes of the first try later does not void the certificate.
func Enter(ctx context.Context, token pki.Token, addresses []string, node string, key ed25519.PrivateKey, about *blockdv1.AdmitNodeRequest) (Admission, error) {
	if len(addresses) == 0 {
		addresses = token.Addresses
	}
	var errs []error
	for _, address := range addresses {
		a, err := enterAt(ctx, token, address, node, key, about)
		if err == nil {
			return a, nil
		}
		errs = append(errs, fmt.Errorf("at %s: %w", address, err))
		if c := connect.CodeOf(err); c == connect.CodePermissionDenied || c == connect.CodeFailedPrecondition || c == connect.CodeInvalidArgument || c == connect.CodeAlreadyExists {
			break // the cluster has decided
		}
	}
	return Admission{}, errors.Join(errs...)
}

func enterAt(ctx context.Context, token pki.Token, address, node string, key ed25519.PrivateKey, about *blockdv1.AdmitNodeRequest) (Admission, error) {
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return Admission{}, err
	}
	conn := tls.Client(raw, token.JoinConfig(time.Now, "http/1.1"))
	defer func() { _ = conn.Close() }() // the calls tell what goes wrong
	if err := conn.HandshakeContext(ctx); err != nil {
		return Admission{}, err
	}
	ca, host, err := token.VerifyCluster(conn.ConnectionState().PeerCertificates, time.Now())
	if err != nil {
		return Admission{}, err
	}
	self := pki.Identity{Cluster: host.Cluster, Node: node}
	csr, err := pki.RequestFor(key, self)
	if err != nil {
		return Admission{}, err
	}
	req := &blockdv1.AdmitNodeRequest{RequestId: about.GetRequestId(), Token: token.String(), CsrDer: csr, Name: about.GetName(),
		Address: about.GetAddress(), Labels: about.GetLabels(), Roles: about.GetRoles(),
		FormatVersionSupported: about.GetFormatVersionSupported(), Version: about.GetVersion()}
	used := false
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			if used {
				return nil, errors.New("the connection broke off")
			}
			used = true
			return conn, nil
		}}}
	res, err := blockdv1connect.NewClusterServiceClient(client, "https://"+address).AdmitNode(ctx, connect.NewRequest(req))
	if err != nil {
		return Admission{}, err
	}
	return admission(res.Msg, self, key, ca)
}

// admission takes what the cluster has answered, if all of it fits together.
func admission(m *blockdv1.AdmitNodeResponse, self pki.Identity, key ed25519.PrivateKey, ca *x509.Certificate) (Admission, error) {
	block, _ := pem.Decode(m.GetCertificatePem())
	if block == nil {
		return Admission{}, errors.New("the cluster has sent no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Admission{}, fmt.Errorf("the certificate of the cluster: %w", err)
	}
	bundle, err := pki.ParseBundle(m.GetCaPem())
	if err != nil {
		return Admission{}, err
	}
	keys, err := pki.ParseKeyring(m.GetClusterKey())
	if err != nil {
		return Admission{}, err
	}
	creds, err := pki.NewCredentials(cert, key, bundle)
	if err != nil {
		return Admission{}, err
	}
	switch {
	case creds.Self() != self:
		return Admission{}, fmt.Errorf("the cluster has sent the certificate of %s, and this is %s", creds.Self(), self)
	case cert.CheckSignatureFrom(ca) != nil:
		return Admission{}, errors.New("the certificate is not signed by the authority that the token names")
	case m.GetIncarnation() == 0 || len(m.GetMemberAddresses()) == 0:
		return Admission{}, errors.New("the cluster has not said where its members are; upgrade them")
	}
	return Admission{Member: pki.Member{Certificate: cert, Key: key, Bundle: bundle, Keyring: keys},
		Cluster: self.Cluster, Incarnation: m.GetIncarnation(), Members: m.GetMemberAddresses()}, nil
}
