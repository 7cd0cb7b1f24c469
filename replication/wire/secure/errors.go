package secure

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// The ends of a handshake, to be matched with errors.Is. The text that wraps
// them says what was seen and what to do, on either side.
var (
	ErrCertificate = errors.New("certificate refused")
	ErrVersion     = errors.New("no protocol version in common")
	ErrHandshake   = errors.New("handshake failed")
)

// Alerts of TLS (RFC 8446 §6) that get a kind of their own.
const (
	alertBadCertificate      tls.AlertError = 42
	alertCertificateRequired tls.AlertError = 116
	alertNoProtocol          tls.AlertError = 120
)

// explain gives an error of crypto/tls our kind.
func explain(err error) error {
	if err == nil || errors.Is(err, ErrCertificate) || errors.Is(err, ErrHandshake) {
		return err
	}
	var alert tls.AlertError
	if errors.As(err, &alert) {
		switch alert {
		case alertNoProtocol:
			return fmt.Errorf("%w: %w; upgrade the older node", ErrVersion, err)
		case alertBadCertificate, alertCertificateRequired:
			return fmt.Errorf("%w: %w", ErrCertificate, err)
		}
	}
	return fmt.Errorf("%w: %w", ErrHandshake, err)
}
