package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// fakeHandshake has the shape of TLS 1.3's, messages of the same lengths and
// no secrets, and works the same every time.
type fakeHandshake struct {
	client  bool
	params  []byte
	steps   []Step
	in      [LevelData][]byte
	refused bool // the server refuses the client in the end
	plain   bool // keys that cost nothing, for benchmarks
	closed  int
}

// What is said: client hello, server hello, server's flight, client's flight.
const (
	fakeHelloLen  = 300
	fakeFlightLen = 2600
)

func (h *fakeHandshake) say(level Level, kind byte, length int) {
	b := make([]byte, length, length+len(h.params))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(length+len(h.params)))
	b = append(b, h.params...)
	h.steps = append(h.steps, Step{Kind: StepSend, Level: level, Data: b})
}

func (h *fakeHandshake) keys(level Level, base uint32) {
	seal, open := base, base+1
	if !h.client {
		seal, open = open, seal
	}
	h.steps = append(h.steps, Step{Kind: StepSealer, Level: level, Sealer: &fakeKey{key: seal, plain: h.plain}},
		Step{Kind: StepOpener, Level: level, Opener: fakeOpener{&fakeKey{key: open, plain: h.plain}}})
}

func (h *fakeHandshake) Start(params []byte) error {
	h.params = params
	if h.client {
		h.say(LevelInitial, 1, fakeHelloLen)
	}
	return nil
}

func (h *fakeHandshake) Receive(level Level, data []byte) error {
	h.in[level] = append(h.in[level], data...)
	b := h.in[level]
	if len(b) < 5 || len(b) < int(binary.BigEndian.Uint32(b[1:])) {
		return nil
	}
	n := int(binary.BigEndian.Uint32(b[1:]))
	kind, length := b[0], map[byte]int{1: fakeHelloLen, 2: fakeHelloLen, 3: fakeFlightLen, 4: fakeFlightLen}[b[0]]
	if length == 0 || n < length || h.client != (kind == 2 || kind == 3) {
		return errors.New("fake handshake: unexpected message")
	}
	params := append([]byte(nil), b[length:n]...)
	h.in[level] = append([]byte(nil), b[n:]...)
	switch kind {
	case 1:
		h.steps = append(h.steps, Step{Kind: StepParams, Data: params})
		h.say(LevelInitial, 2, fakeHelloLen)
		h.keys(LevelHandshake, 10)
		h.say(LevelHandshake, 3, fakeFlightLen)
	case 2:
		h.keys(LevelHandshake, 10)
	case 3:
		h.steps = append(h.steps, Step{Kind: StepParams, Data: params})
		h.say(LevelHandshake, 4, fakeFlightLen)
		h.keys(LevelData, 20)
		h.steps = append(h.steps, Step{Kind: StepDone, Peer: "server"})
	case 4:
		if h.refused {
			return errors.New("bad certificate")
		}
		h.keys(LevelData, 20)
		h.steps = append(h.steps, Step{Kind: StepDone, Peer: "client"})
	}
	return nil
}

func (h *fakeHandshake) Next() (Step, bool) {
	if len(h.steps) == 0 {
		return Step{}, false
	}
	s := h.steps[0]
	h.steps = h.steps[1:]
	return s, true
}

func (h *fakeHandshake) Close() { h.closed++ }

// fakeKey notices damage and the wrong key, and hides nothing.
type fakeKey struct {
	key   uint32
	plain bool
	head  [12]byte
}

// fakeForgedMax is more than any simulated network damages.
const fakeForgedMax = 1 << 20

const fakeOverhead = 16

var fakeTable = crc32.MakeTable(crc32.Castagnoli)

func (k *fakeKey) tag(packet []byte, number uint64) uint32 {
	if k.plain {
		return k.key
	}
	binary.BigEndian.PutUint32(k.head[:], k.key)
	binary.BigEndian.PutUint64(k.head[4:], number)
	return crc32.Update(crc32.Checksum(k.head[:], fakeTable), fakeTable, packet)
}

func (k *fakeKey) Overhead() int { return fakeOverhead }

func (k *fakeKey) Seal(packet []byte, _ int, number uint64) []byte {
	tag := k.tag(packet, number)
	n := len(packet)
	packet = packet[:n+fakeOverhead]
	clear(packet[n:])
	binary.BigEndian.PutUint32(packet[n:], tag)
	return packet
}

func (k *fakeKey) Next() Sealer { return &fakeKey{key: k.key*7919 + 13, plain: k.plain} }

type fakeOpener struct{ *fakeKey }

func (o fakeOpener) ForgedMax() uint64 { return fakeForgedMax }

func (o fakeOpener) Next() Opener { return fakeOpener{o.fakeKey.Next().(*fakeKey)} }

func (o fakeOpener) Open(packet []byte, header int, number uint64) ([]byte, bool) {
	n := len(packet) - fakeOverhead
	if n < header {
		return nil, false
	}
	zero := uint32(0)
	for _, b := range packet[n+4:] {
		zero |= uint32(b)
	}
	if binary.BigEndian.Uint32(packet[n:]) != o.tag(packet[:n], number) || zero != 0 {
		for i := range packet { // a failed attempt destroys the packet
			packet[i] ^= 0x5a
		}
		return nil, false
	}
	return packet[header:n], true
}
