package cli

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"blockd.dev/raftmeta/pki"
)

// errCertificate is wrapped by errors about the user's own certificate.
var errCertificate = errors.New("your certificate can't be used")

// bundle is what a person or a program needs to talk to a cluster, in one PEM
// file of mode 0600: explanatory text (RFC 7468 §5.2) with the cluster's name and the
// addresses of nodes, the certificate, its key, and the authority. Others
// who read PEM (curl --cert, openssl) skip the text.
//
//	blockd cluster: prod
//	blockd node: 10.0.0.1:7480
//	-----BEGIN CERTIFICATE-----
//
// Files of before have a block BLOCKD CLUSTER with headers in place of the text,
// which OpenSSL takes for an encrypted one; they are read, and not written any more.
type bundle struct {
	file      string
	name      string // of the cluster
	addresses []string
	cert      *x509.Certificate
	key       ed25519.PrivateKey
	trust     pki.Bundle
	creds     *pki.Credentials
}

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
	pemBegin       = "-----BEGIN "

	textCluster = "blockd cluster: "
	textNode    = "blockd node: "

	// Of files of before.
	pemCluster    = "BLOCKD CLUSTER"
	headerName    = "Name"
	headerAddress = "Addresses"
)

// marshalBundle returns the text of a bundle, of parts that are PEM already.
func marshalBundle(name string, addresses []string, cert, key, ca []byte) []byte {
	out := textLine(nil, textCluster, name)
	for _, a := range addresses {
		out = textLine(out, textNode, a)
	}
	for _, part := range [][]byte{cert, key, ca} {
		out = append(out, part...)
	}
	return out
}

// textLine appends one line of the text. A value is dropped that is more than one
// line, which could pass for a block.
func textLine(out []byte, key, value string) []byte {
	if strings.ContainsFunc(value, unicode.IsControl) {
		return out
	}
	return append(out, key+value+"\n"...)
}

// parseText reads what stands before the first block.
func (b *bundle) parseText(text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, pemBegin) {
			return
		}
		if v, ok := strings.CutPrefix(line, textCluster); ok {
			b.name = v
		}
		if v, ok := strings.CutPrefix(line, textNode); ok && v != "" {
			b.addresses = append(b.addresses, v)
		}
	}
}

// parseBundle is the inverse of marshalBundle.
func parseBundle(file string, text []byte) (*bundle, error) {
	b := &bundle{file: file}
	b.parseText(string(text))
	var ca []byte
	var err error
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch block.Type {
		case pemCluster:
			b.name = block.Headers[headerName]
			b.addresses = strings.FieldsFunc(block.Headers[headerAddress], func(r rune) bool { return r == ',' })
		case pemKey:
			var key any
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
			b.key, _ = key.(ed25519.PrivateKey)
		case pemCertificate:
			var c *x509.Certificate
			if c, err = x509.ParseCertificate(block.Bytes); err == nil && c.IsCA {
				ca = append(ca, pem.EncodeToMemory(block)...)
			} else if b.cert == nil {
				b.cert = c
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errCertificate, file, err)
		}
	}
	if b.cert == nil || b.key == nil || len(ca) == 0 {
		return nil, fmt.Errorf("%w: %s lacks a certificate, its Ed25519 key or the authority; `blockctl cluster init` and `blockctl cert issue` write all three", errCertificate, file)
	}
	if b.trust, err = pki.ParseBundle(ca); err == nil {
		b.creds, err = pki.NewCredentials(b.cert, b.key, b.trust)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errCertificate, file, err)
	}
	return b, nil
}

// save replaces the bundle's file, durably and as a whole.
func (b *bundle) save() error {
	der, err := x509.MarshalPKCS8PrivateKey(b.key)
	if err != nil {
		return err
	}
	text := marshalBundle(b.name, b.addresses, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: b.cert.Raw}),
		pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), b.trust.PEM())
	f, err := os.OpenFile(b.file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := keep(f, text); err != nil {
		os.Remove(f.Name())
		return err
	}
	return os.Rename(f.Name(), b.file)
}

// check says whether the certificate is valid at now.
func (b *bundle) check(now time.Time) error {
	switch {
	case now.After(b.cert.NotAfter):
		return fmt.Errorf("%w: %s expired at %s, and here it is %s; compare the clocks, or ask an administrator for another (blockctl cert issue)",
			errCertificate, b.file, stamp(b.cert.NotAfter), stamp(now))
	case now.Before(b.cert.NotBefore):
		return fmt.Errorf("%w: %s is not valid before %s, and here it is %s; compare the clocks", errCertificate, b.file, stamp(b.cert.NotBefore), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// findBundle reads the bundle that the user has named, or the only one in the
// usual place; nil when there is none.
func findBundle(named string) (*bundle, error) {
	if named != "" {
		return readBundle(named)
	}
	dir, err := bundleDir()
	if err != nil {
		return nil, nil // without a home there is no usual place
	}
	list, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	switch {
	case err != nil || len(list) == 0:
		return nil, nil
	case len(list) > 1:
		return nil, fmt.Errorf("%w: which of %s? say it with --cert or BLOCKCTL_CERT", errCertificate, strings.Join(list, ", "))
	}
	return readBundle(list[0])
}

func readBundle(file string) (*bundle, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCertificate, err)
	}
	st, err := os.Stat(file)
	if err == nil && st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: other users may read %s, which holds a key; chmod 600 it, or have another issued if they might have", errCertificate, file)
	}
	return parseBundle(file, text)
}

// bundleDir is the usual place of bundles.
func bundleDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "blockd"), nil
}

// reserve makes file, empty, so that what is written to it later has a place,
// and nothing that exists is lost.
func reserve(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%s exists already; name another with --out", file)
	}
	return f, err
}

// keep writes text to a file that reserve has made, durably.
func keep(f *os.File, text []byte) error {
	_, err := f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// giveUp removes a file that reserve has made.
func giveUp(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}
