package pdu

import (
	"bytes"
	"errors"
)

// Limits of text (RFC 7143 §6.1): a key name, and a value that isn't said to
// be longer.
const (
	KeyNameMax = 63
	ValueMax   = 8192
)

// ErrText means that a text segment is not a list of key=value pairs, each
// ended by a zero byte.
var ErrText = errors.New("iscsi pdu: malformed text")

// NextPair takes the first key=value pair off b and returns the rest. At the
// end of the list key is nil. The results alias b.
func NextPair(b []byte) (key, value, rest []byte, err error) {
	for len(b) > 0 && b[0] == 0 { // empty pairs and zero padding
		b = b[1:]
	}
	if len(b) == 0 {
		return nil, nil, nil, nil
	}
	end := bytes.IndexByte(b, 0)
	if end < 0 {
		return nil, nil, nil, ErrText
	}
	pair := b[:end]
	eq := bytes.IndexByte(pair, '=')
	if eq <= 0 || eq > KeyNameMax || len(pair)-eq-1 > ValueMax {
		return nil, nil, nil, ErrText
	}
	key, value = pair[:eq], pair[eq+1:]
	if !validKey(key) {
		return nil, nil, nil, ErrText
	}
	return key, value, b[end+1:], nil
}

// validKey checks the key name against §6.1: a letter, then letters, digits
// and .-+@_. Vendor keys begin with X- or X#.
func validKey(k []byte) bool {
	for i, c := range k {
		switch {
		case c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z':
		case i > 0 && (c >= '0' && c <= '9' || bytes.IndexByte([]byte(".-+@_/#"), c) >= 0):
		default:
			return false
		}
	}
	return true
}

// AppendPair appends key=value and the zero byte.
func AppendPair(dst []byte, key, value string) []byte {
	dst = append(dst, key...)
	dst = append(dst, '=')
	dst = append(dst, value...)
	return append(dst, 0)
}
