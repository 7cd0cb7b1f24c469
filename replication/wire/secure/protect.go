package secure

import "blockd.dev/replication/wire"

// Sealer is a wire.Sealer by an AEAD of RFC 5116.
type Sealer struct {
	key   *key
	nonce [nonceLen]byte // here, since an argument of an interface would escape
}

// Overhead is how many bytes Seal appends: the tag.
func (s *Sealer) Overhead() int { return tagLen }

// Seal encrypts packet[header:] in place, appends the tag, for which packet
// must have Overhead bytes of capacity, and returns the longer packet. The
// header is authenticated as it is, so it must be final. A number must not be
// used twice: it would give the plaintext of both packets away.
func (s *Sealer) Seal(packet []byte, header int, number uint64) []byte {
	s.key.setNonce(&s.nonce, number)
	payload := packet[header:]
	sealed := s.key.aead.Seal(payload[:0], s.nonce[:], payload, packet[:header])
	return packet[:header+len(sealed)]
}

// Next returns the Sealer of the key after this one.
func (s *Sealer) Next() wire.Sealer { return &Sealer{key: s.key.next()} }

// Opener is a wire.Opener for what a Sealer sealed.
type Opener struct {
	key   *key
	nonce [nonceLen]byte
}

// Open decrypts packet[header:] in place and returns it without the tag. If
// packet is not the Sealer's, ok is false and its content is gone.
func (o *Opener) Open(packet []byte, header int, number uint64) (payload []byte, ok bool) {
	if header < 0 || len(packet) < header+tagLen {
		return nil, false
	}
	o.key.setNonce(&o.nonce, number)
	payload, err := o.key.aead.Open(packet[header:header], o.nonce[:], packet[header:], packet[:header])
	return payload, err == nil
}

// ForgedMax is the integrity limit of the cipher suite.
func (o *Opener) ForgedMax() uint64 { return o.key.suite.forgedMax }

// Next returns the Opener of the key after this one.
func (o *Opener) Next() wire.Opener { return &Opener{key: o.key.next()} }

var (
	_ wire.Sealer = (*Sealer)(nil)
	_ wire.Opener = (*Opener)(nil)
)
