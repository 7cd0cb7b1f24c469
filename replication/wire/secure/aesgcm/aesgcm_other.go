//go:build !amd64

package aesgcm

import "crypto/cipher"

const wide = false

// newWide is for processors that this build is not for.
func newWide([]byte, cipher.Block) cipher.AEAD { panic("aesgcm: not for this processor") }
