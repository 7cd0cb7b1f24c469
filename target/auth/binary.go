package auth

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

// ErrBinary means that a text value is no binary value.
var ErrBinary = errors.New("auth: malformed binary value: want 0x and hexadecimal digits or 0b and base64")

// ParseBinary decodes a binary value of a text key: 0x with hexadecimal digits
// or 0b with base64 (RFC 7143 §6.1). Values longer than limit bytes are
// refused.
func ParseBinary(s string, limit int) ([]byte, error) {
	if len(s) < 3 || len(s) > 2+2*limit+4 {
		return nil, ErrBinary
	}
	var b []byte
	var err error
	switch digits := s[2:]; s[:2] {
	case "0x", "0X":
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case "0b", "0B":
		b, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(digits, "="))
	default:
		return nil, ErrBinary
	}
	if err != nil || len(b) == 0 || len(b) > limit {
		return nil, ErrBinary
	}
	return b, nil
}

// FormatHex encodes b as 0x and hexadecimal digits.
func FormatHex(b []byte) string { return "0x" + hex.EncodeToString(b) }
