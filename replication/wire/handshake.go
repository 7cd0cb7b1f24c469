package wire

// Level says by which keys a packet is protected.
type Level uint8

// The levels, in the order in which a handshake reaches them.
const (
	LevelInitial   Level = iota // no keys: a checksum, and TLS's transcript in the end
	LevelHandshake              // keys without proof of who the peer is
	LevelData                   // the peer is known
)

// Handshake is the key exchange of one connection, as secure does it by TLS
// 1.3. It has no clock and no socket, and is used by its Conn only.
type Handshake interface {
	// Start begins, with what the peer shall know about this side, which is
	// kept. A client has its first StepSend ready afterwards.
	Start(params []byte) error
	// Receive takes the peer's handshake bytes of one level, in order, without
	// gaps, and keeps no reference. An error ends the connection; its text is
	// sent to the peer.
	Receive(level Level, data []byte) error
	// Next returns what is to be done, in order, until there is nothing.
	Next() (Step, bool)
	// Close frees what the handshake holds, also goroutines. After it, keys
	// that were handed out stay usable.
	Close()
}

// StepKind says what a Step asks for.
type StepKind uint8

// The steps of a handshake.
const (
	StepSend   StepKind = iota + 1 // send Data at Level
	StepSealer                     // protect packets of Level by Sealer
	StepOpener                     // open packets of Level by Opener
	StepParams                     // Data is what the peer gave to Start
	StepDone                       // the peer is Peer, proven
)

// Step is one thing that a Handshake wants its Conn to do.
type Step struct {
	Kind   StepKind
	Level  Level
	Data   []byte // the Conn's from now on
	Sealer Sealer
	Opener Opener
	Peer   any // who the peer is, for Conn.Peer; its type is the Handshake's matter
}

// Sealer protects packets of one direction by one key. It never allocates.
type Sealer interface {
	// Seal encrypts packet[header:] in place, and authenticates it together
	// with packet[:header]. It returns packet extended by Overhead bytes,
	// for which packet has capacity. No number is used twice.
	Seal(packet []byte, header int, number uint64) []byte
	// Overhead is by how many bytes Seal extends a packet.
	Overhead() int
	// Next returns the Sealer of the key after this one. It may allocate.
	Next() Sealer
}

// Opener is the other end of a Sealer.
type Opener interface {
	// Open decrypts packet[header:] in place and returns the payload, without
	// Overhead; ok is false, and the packet's bytes may be destroyed, if it
	// was not made by the Sealer with this key, header and number.
	Open(packet []byte, header int, number uint64) (payload []byte, ok bool)
	// ForgedMax is how many packets may fail to open in the life of a
	// connection, by all its keys together, before one more might succeed by
	// chance (RFC 9001 §6.6, integrity limit).
	ForgedMax() uint64
	// Next returns the Opener of the key after this one. It may allocate.
	Next() Opener
}
