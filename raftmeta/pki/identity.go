package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrIdentity is wrapped by errors about the name in a certificate.
var ErrIdentity = errors.New("not a name of this cluster's nodes or clients")

// Role is what a client may do. Each may do what those before it may.
type Role uint8

// The roles of clients. RoleNone is that of nodes, and of nobody.
const (
	RoleNone     Role = iota
	RoleViewer        // looks
	RoleOperator      // changes volumes, hosts, mappings; drains and resumes
	RoleAdmin         // admits and removes nodes, issues certificates, restores
)

var roleNames = [...]string{"none", "viewer", "operator", "admin"}

// String returns the role as it is spelled in certificates.
func (r Role) String() string {
	if int(r) < len(roleNames) {
		return roleNames[r]
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// ParseRole is the inverse of String; none is not a role that can be given.
func ParseRole(s string) (Role, error) {
	for r := RoleViewer; r <= RoleAdmin; r++ {
		if roleNames[r] == s {
			return r, nil
		}
	}
	return RoleNone, fmt.Errorf("%w: role %q; it is viewer, operator or admin", ErrIdentity, s)
}

// nameMax is the longest cluster, node or client name in bytes; three of them
// stay well below what a certificate's name can hold.
const nameMax = 128

// Identity is who a certificate says its holder is: a node, or a client with
// a role. The two URI forms, among the subject's alternative names:
//
//	blockd://CLUSTER/node/ID
//	blockd://CLUSTER/role/ROLE?name=NAME
type Identity struct {
	Cluster string // 1 to 128 of a-z A-Z 0-9 . _ -, beginning with a letter or digit
	Node    string // of the same letters; "" for a client
	Role    Role   // RoleNone for a node
	Name    string // of a client: who it is, for the audit log; 1 to 128 printable ASCII characters
}

// IsNode tells whether it is a node of the cluster.
func (id Identity) IsNode() bool { return id.Node != "" }

// String returns the identity's URI.
func (id Identity) String() string { return id.URI().String() }

// URI returns the name that a certificate for id carries.
func (id Identity) URI() *url.URL {
	if id.IsNode() {
		return &url.URL{Scheme: "blockd", Host: id.Cluster, Path: "/node/" + id.Node}
	}
	return &url.URL{Scheme: "blockd", Host: id.Cluster, Path: "/role/" + id.Role.String(),
		RawQuery: url.Values{"name": {id.Name}}.Encode()}
}

// Validate says what is wrong with id, if anything.
func (id Identity) Validate() error {
	if err := checkName("cluster", id.Cluster); err != nil {
		return err
	}
	if id.IsNode() {
		if id.Role != RoleNone || id.Name != "" {
			return fmt.Errorf("%w: node %q also has a client's role or name", ErrIdentity, id.Node)
		}
		return checkName("node", id.Node)
	}
	if id.Role < RoleViewer || id.Role > RoleAdmin {
		return fmt.Errorf("%w: it is neither a node nor a viewer, operator or admin", ErrIdentity)
	}
	if id.Name == "" || len(id.Name) > nameMax {
		return fmt.Errorf("%w: a client's name has 1 to %d characters, not %d", ErrIdentity, nameMax, len(id.Name))
	}
	for _, c := range []byte(id.Name) {
		if c < ' ' || c > '~' {
			return fmt.Errorf("%w: client name %q has a character that is not printable ASCII", ErrIdentity, id.Name)
		}
	}
	return nil
}

// ParseIdentity reads a URI as Identity.URI makes it. Only that one spelling
// is accepted, so that two certificates with the same meaning compare equal.
func ParseIdentity(s string) (Identity, error) {
	if len(s) > 8*nameMax {
		return Identity{}, fmt.Errorf("%w: a URI of %d bytes", ErrIdentity, len(s))
	}
	u, err := url.Parse(s)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %q is no URI", ErrIdentity, s)
	}
	id := Identity{Cluster: u.Host}
	kind, rest, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case ok && kind == "node":
		id.Node = rest
	case ok && kind == "role":
		if id.Role, err = ParseRole(rest); err != nil {
			return Identity{}, err
		}
		id.Name = u.Query().Get("name")
	default:
		return Identity{}, fmt.Errorf("%w: %q is not blockd://CLUSTER/node/ID or blockd://CLUSTER/role/ROLE?name=NAME", ErrIdentity, s)
	}
	if err := id.Validate(); err != nil {
		return Identity{}, err
	}
	if id.String() != s {
		return Identity{}, fmt.Errorf("%w: %q is spelled %q", ErrIdentity, s, id)
	}
	return id, nil
}

// IdentityOf reads who cert was issued to. A certificate has exactly one
// blockd name. It says nothing about whether cert is valid: see Credentials.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	var found *url.URL
	for _, u := range cert.URIs {
		if u.Scheme != "blockd" {
			continue
		}
		if found != nil {
			return Identity{}, fmt.Errorf("%w: certificate %x has two names", ErrIdentity, cert.SerialNumber)
		}
		found = u
	}
	if found == nil {
		return Identity{}, fmt.Errorf("%w: certificate %x (%s) has no name that begins with blockd://", ErrIdentity, cert.SerialNumber, cert.Subject)
	}
	return ParseIdentity(found.String())
}

func checkName(what, s string) error {
	if s == "" || len(s) > nameMax {
		return fmt.Errorf("%w: the name of a %s has 1 to %d characters, not %d", ErrIdentity, what, nameMax, len(s))
	}
	for i, c := range []byte(s) {
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '.' && c != '_' && c != '-') {
			return fmt.Errorf("%w: %s name %q; use letters, digits, and after the first also . _ -", ErrIdentity, what, s)
		}
	}
	return nil
}
