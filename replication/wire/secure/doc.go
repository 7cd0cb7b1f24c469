// Package secure makes connections between nodes safe: who the peer is, and
// keys that only the two share. It implements wire.Handshake, wire.Sealer and
// wire.Opener.
//
// # What is a library's and what is ours
//
// The key exchange is TLS 1.3 with certificates on both sides, run by
// crypto/tls through its interface for QUIC: it hands out handshake bytes,
// which travel in our packets, and traffic secrets, of which our keys are
// made. Ours are:
//
//   - the check of the peer's certificate (credentials.go): chain, dates,
//     cluster and node
//   - keys from secrets, by HKDF-Expand-Label (RFC 8446 §7.1) with labels of
//     our own, so that no key is ever one of QUIC's (keys.go)
//   - packet protection by AES-GCM, or by ChaCha20-Poly1305 where a processor
//     has no AES instructions, with the header as associated data, and a nonce
//     of IV xor packet number as in RFC 9001 §5.3 (protect.go)
//   - tokens: that a client receives at the address it sends from
//     (retry.go), and that a node knows a connection no more (reset.go)
//
// When to change keys, which of them opens a packet, and that none is taken
// twice is the Conn's matter: it knows what was acknowledged.
//
// # Levels
//
// Packets of the level Initial are not protected: nothing is known of the
// peer yet. What they say is bound nevertheless, by the TLS transcript that
// both sign. From Handshake on, everything is sealed. A client is done, and
// has data keys, before the server has seen the client's certificate: its
// server may still refuse it, so a client must wait for a packet sealed by
// the server's data key before it calls itself connected. Go's server has
// that key early but no proof of the client before its own StepDone, and must
// not use it before.
//
// # Goroutines
//
// crypto/tls keeps one goroutine per Handshake, which runs only while a method
// of the Handshake does. It ends when the handshake completes or fails, or by
// Close. Nothing else here has a goroutine, a socket or a clock.
package secure
