package secure

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"fmt"
)

// ResetTokenLen is the length of a reset token in bytes.
const ResetTokenLen = 16

// ResetToken ends a connection whose other end has forgotten it: the peer was
// given it in the handshake, and only the holder of the ResetSecret can make
// it for a connection that it knows no more (compare RFC 9000 §10.3).
type ResetToken [ResetTokenLen]byte

// Equal compares in constant time.
func (t ResetToken) Equal(o []byte) bool { return subtle.ConstantTimeCompare(t[:], o) == 1 }

// ResetSecret makes reset tokens. It is derived from the private key of the
// node's certificate, so that a node that was restarted makes the same ones.
type ResetSecret [32]byte

// NewResetSecret derives the secret from the certificate's private key.
func NewResetSecret(cert *tls.Certificate) (ResetSecret, error) {
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return ResetSecret{}, fmt.Errorf("reset secret from the node's private key: %w", err)
	}
	defer clear(der)
	mac := hmac.New(sha256.New, der)
	mac.Write([]byte(labelPrefix + "reset secret"))
	return ResetSecret(mac.Sum(nil)), nil
}

// Token is the token of the connection with the ID that this node chose.
func (s *ResetSecret) Token(connectionID []byte) ResetToken {
	mac := hmac.New(sha256.New, s[:])
	mac.Write(connectionID)
	return ResetToken(mac.Sum(nil))
}
