package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Files is a folder with what makes a node a member. It is made with mode
// 0700; each file is replaced as a whole, and is durable when a call returns:
//
//	node.pem      0600  the node's certificate and its key, in one file so
//	                    that a crash can't leave the key of another certificate
//	ca.pem        0644  the Bundle
//	cluster.keys  0600  the Keyring
//	authority     0600  the authority as the replicated state has it, sealed by
//	                    the Keyring: a node that comes back after its
//	                    certificate has ended renews it before it is let in
//	joining.key   0600  the key that a node joins with, until it is a member
type Files struct {
	Dir string
}

const (
	fileNode      = "node.pem"
	fileBundle    = "ca.pem"
	fileKeyring   = "cluster.keys"
	fileAuthority = "authority"
	fileJoining   = "joining.key"
)

// Member is what Files holds.
type Member struct {
	Certificate *x509.Certificate
	Key         ed25519.PrivateKey
	Bundle      Bundle
	Keyring     Keyring
}

// Exists tells whether the node is a member of some cluster.
func (f Files) Exists() (bool, error) {
	_, err := os.Stat(filepath.Join(f.Dir, fileNode))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Save writes all of m. The certificate comes last: before it is there, the
// node is no member, and joining starts anew.
func (f Files) Save(m Member) error {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	if err := f.SaveKeyring(m.Keyring); err != nil {
		return err
	}
	if err := f.SaveBundle(m.Bundle); err != nil {
		return err
	}
	if err := f.SaveCertificate(m.Certificate, m.Key); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(f.Dir, fileJoining)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// JoiningKey returns the key to join with. It is the same until Save has been called, so that all attempts
// have certificates for one key, and none is void because of another: see Authority.SignJoin.
func (f Files) JoiningKey() (ed25519.PrivateKey, error) {
	text, err := f.secret(fileJoining)
	if err == nil {
		key, err := parseKey(text)
		if err != nil {
			err = fmt.Errorf("%s: %w; remove it, and let the node join again", filepath.Join(f.Dir, fileJoining), err)
		}
		return key, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	if text, err = marshalKey(key); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return nil, err
	}
	return key, f.replace(fileJoining, text, 0o600)
}

// SaveCertificate replaces the node's certificate and key, as renewal does.
func (f Files) SaveCertificate(cert *x509.Certificate, key ed25519.PrivateKey) error {
	text, err := marshalKey(key)
	if err != nil {
		return err
	}
	return f.replace(fileNode, append(marshalCertificates(cert), text...), 0o600)
}

// SaveBundle replaces what the node trusts.
func (f Files) SaveBundle(b Bundle) error { return f.replace(fileBundle, b.PEM(), 0o644) }

// SaveKeyring replaces the cluster keys.
func (f Files) SaveKeyring(k Keyring) error { return f.replace(fileKeyring, k.Marshal(), 0o600) }

// SaveAuthority replaces the sealed authority. It is not part of a Member: what a node
// needs it for is rare, and it has it when it is a member.
func (f Files) SaveAuthority(sealed []byte) error { return f.replace(fileAuthority, sealed, 0o600) }

// LoadAuthority returns what SaveAuthority was given.
func (f Files) LoadAuthority() ([]byte, error) { return f.secret(fileAuthority) }

// Load reads all files, and refuses secrets that other users may read.
func (f Files) Load() (Member, error) {
	var m Member
	text, err := f.secret(fileNode)
	if err != nil {
		return m, err
	}
	certs, rest, err := parseCertificates(text)
	if err == nil {
		m.Certificate = certs[0]
		m.Key, err = parseKey(rest)
	}
	if err == nil && !m.Key.Public().(ed25519.PublicKey).Equal(m.Certificate.PublicKey) {
		err = errors.New("the key is not that of the certificate")
	}
	if err != nil {
		return m, fmt.Errorf("%s: %w; let the node join again", filepath.Join(f.Dir, fileNode), err)
	}
	if text, err = os.ReadFile(filepath.Join(f.Dir, fileBundle)); err != nil {
		return m, err
	}
	if m.Bundle, err = ParseBundle(text); err != nil {
		return m, fmt.Errorf("%s: %w; copy it from another node", filepath.Join(f.Dir, fileBundle), err)
	}
	if text, err = f.secret(fileKeyring); err != nil {
		return m, err
	}
	if m.Keyring, err = ParseKeyring(text); err != nil {
		return m, fmt.Errorf("%s: %w; copy it from another node", filepath.Join(f.Dir, fileKeyring), err)
	}
	return m, nil
}

func (f Files) secret(name string) ([]byte, error) {
	path := filepath.Join(f.Dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by other users (mode %04o); they may have it already: rotate it, or chmod 0600 it if you are sure they don't", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

// replace writes a file so that after a crash there is the old or the new one.
func (f Files) replace(name string, text []byte, mode os.FileMode) (err error) {
	path := filepath.Join(f.Dir, name)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return nil
	}
	tmp, err := os.CreateTemp(f.Dir, "."+name+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(text); err != nil {
		return err
	}
	if err = tmp.Chmod(mode); err != nil {
		return err
	}
	if err = tmp.Sync(); err != nil {
		return err
	}
	if err = tmp.Close(); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(f.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
