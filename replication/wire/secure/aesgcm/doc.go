// Package aesgcm is AES-GCM (NIST SP 800-38D) as crypto/cipher has it, with
// nonces of 12 bytes and tags of 16, but 2.5 times as fast on processors that do AES
// and carry-less products on 512 bits (AVX-512 with VAES and VPCLMULQDQ: AMD
// since Zen 4, Intel since Ice Lake). On others it is crypto/cipher's.
//
// Sealing and opening a packet of 9000 bytes by crypto/cipher, which uses 128
// bits, takes as long as the kernel needs to carry it: docs/PERFORMANCE-NET.md.
//
// The assembly has one function for the key stream and one for the hash, both of which
// take any length by masks, have no branch or address that depends on a key or
// on data, and leave decisions to Go. Everything is compared to crypto/cipher by tests,
// at every length up to some hundred bytes, and by a fuzzer.
package aesgcm
