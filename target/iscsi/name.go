package iscsi

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// nameMax is the longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
const nameMax = 223

// NormalizeName checks an iSCSI name (RFC 7143 §4.2.7) and returns it in
// lower case, the form in which names compare.
func NormalizeName(s string) (string, error) {
	if len(s) == 0 || len(s) > nameMax {
		return "", fmt.Errorf("iscsi: name of %d bytes: use 1 to %d", len(s), nameMax)
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("iscsi: name %q is not UTF-8", s)
	}
	n := strings.ToLower(s)
	switch {
	case strings.HasPrefix(n, "iqn.") && len(n) > 4:
	case strings.HasPrefix(n, "eui.") && isHex(n[4:], 16):
	case strings.HasPrefix(n, "naa.") && (isHex(n[4:], 16) || isHex(n[4:], 32)):
	default:
		return "", fmt.Errorf("iscsi: name %q: want iqn.…, eui. and 16 hexadecimal digits, or naa. and 16 or 32", s)
	}
	for _, r := range n {
		if r <= ' ' || r == 0x7f || (r < 0x80 && !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-.:_", r)) {
			return "", fmt.Errorf("iscsi: name %q: character %q is not allowed", s, r)
		}
	}
	return n, nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
