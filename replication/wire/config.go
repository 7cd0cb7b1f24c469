package wire

import (
	"fmt"
	"time"

	"blockd.dev/replication/wire/packet"
)

// ConnID names a connection at the node that chose it. Zero names none.
type ConnID = packet.ConnID

// ResetTokenLen is the length in bytes of the token that proves a reset.
const ResetTokenLen = packet.ResetTokenLen

// Buffer is memory for a message that arrives: an arena's Buf is one.
type Buffer interface {
	// Bytes is the same slice until Release. It starts at a 4 KiB boundary if
	// it is that long.
	Bytes() []byte
	// Release gives the memory back. It is called once, by any goroutine.
	Release()
}

// DefaultWindowBytes and DefaultWindowMessages are Config.WindowBytes and Config.WindowMessages where these are not set.
const (
	DefaultWindowBytes    = 8 << 20
	DefaultWindowMessages = 1024
)

// Config is what a Conn is made of. What has a default may be left zero.
type Config struct {
	// Handshake is a fresh key exchange, of the right role. The Conn closes it.
	Handshake Handshake
	// LocalID is what the peer puts into its packets so that they find this
	// Conn: random, and not in use on this node.
	LocalID ConnID
	// ResetToken is derived from LocalID by a secret that this node keeps when
	// it restarts. The peer learns it under encryption, and believes a reset
	// that carries it.
	ResetToken [ResetTokenLen]byte
	// Seed makes what must not be guessed (path challenges). From crypto/rand.
	Seed [32]byte
	// Path is the first path of a client, and DatagramMax its longest datagram
	// in bytes. For both roles the length may be changed by SetPathMTU.
	Path        PathID
	DatagramMax int

	// Alloc lends memory for an arriving message of n > 0 bytes; nil when there
	// is none just now, and then the peer will have to send again. Default:
	// the Go heap.
	Alloc func(n int) Buffer
	// Wake is called when a Release, on any goroutine, gives the Conn a reason
	// to send: the owner must then call Produce soon. It must not call the Conn.
	Wake func()

	// WindowBytes and WindowMessages bound what the peer may have sent and the
	// application not yet released. Defaults 8 MiB and 1024; 1 MiB..1 GiB and 1..8192.
	WindowBytes    int
	WindowMessages int
	// SendBytes and SendMessages bound what Send takes and the peer has not
	// acknowledged, and answers by themselves; Requests how many may wait for their answer. Defaults
	// 16 MiB, 4096 and 8192. One message is always taken when there is none.
	SendBytes    int
	SendMessages int
	Requests     int

	// Features are bits of what this node's application understands; Up
	// reports those that both sides have.
	Features uint64

	// Hints puts Outgoing.Hint in front of packets, 8 bytes each, outside the
	// encryption but authenticated. Any peer understands it. Default: none is
	// told.
	Hints bool

	// DeadAfter is how long a peer that should answer may be silent. Default
	// 400 ms; 20 ms or more.
	DeadAfter time.Duration
	// KeepAlive is the interval of pings on a connection on which nothing is
	// outstanding. Default 10 s; at least DeadAfter.
	KeepAlive time.Duration
	// HandshakeTimeout ends an attempt to connect. Default 3 s.
	HandshakeTimeout time.Duration
	// DrainTimeout is how long Close waits for acknowledgements. Default 200 ms.
	DrainTimeout time.Duration
	// AckDelay is how long an acknowledgement waits for data to travel with.
	// Default 1 ms, longer than most disks take to answer; at most 10 ms.
	AckDelay time.Duration
	// Granularity is the finest timer that the owner can be trusted to keep.
	// Default 100 µs. Bursts are sized so that one per Granularity suffices.
	Granularity time.Duration

	// RekeyPackets and RekeyBytes are how much one key protects before the
	// next takes over. Defaults 2^23 packets, which AES-GCM bears with a margin
	// (RFC 9001 §6.6), and 2^36 bytes.
	RekeyPackets uint64
	RekeyBytes   uint64
}

// limits of Config
const (
	deadAfterMin   = 20 * time.Millisecond
	ackDelayMax    = 10 * time.Millisecond
	windowBytesMax = 1 << 30
	windowMsgsMax  = 8192
	sendMsgsMax    = 8192
)

func (c *Config) setDefaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	span := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.DatagramMax, packet.DatagramMin)
	def(&c.WindowBytes, DefaultWindowBytes)
	def(&c.WindowMessages, DefaultWindowMessages)
	def(&c.SendBytes, 16<<20)
	def(&c.SendMessages, 4096)
	def(&c.Requests, 8192)
	span(&c.DeadAfter, 400*time.Millisecond)
	span(&c.KeepAlive, 10*time.Second)
	span(&c.HandshakeTimeout, 3*time.Second)
	span(&c.DrainTimeout, 200*time.Millisecond)
	span(&c.AckDelay, time.Millisecond)
	span(&c.Granularity, 100*time.Microsecond)
	if c.RekeyPackets == 0 {
		c.RekeyPackets = 1 << 23
	}
	if c.RekeyBytes == 0 {
		c.RekeyBytes = 1 << 36
	}
	if c.Alloc == nil {
		c.Alloc = heapAlloc
	}
	if c.Wake == nil {
		c.Wake = func() {}
	}
}

func (c *Config) validate() error {
	within := func(name string, v, low, high int64) error {
		if v < low || v > high {
			return fmt.Errorf("wire: %s is %d, must be %d to %d", name, v, low, high)
		}
		return nil
	}
	if c.Handshake == nil {
		return fmt.Errorf("wire: Handshake is missing")
	}
	if c.LocalID == 0 {
		return fmt.Errorf("wire: LocalID is zero, which names no connection")
	}
	for _, err := range []error{
		within("DatagramMax", int64(c.DatagramMax), packet.DatagramMin, packet.DatagramMax),
		within("WindowBytes", int64(c.WindowBytes), MessageMax, windowBytesMax),
		within("WindowMessages", int64(c.WindowMessages), 1, windowMsgsMax),
		within("SendBytes", int64(c.SendBytes), 1, windowBytesMax),
		within("SendMessages", int64(c.SendMessages), 1, sendMsgsMax),
		within("Requests", int64(c.Requests), 1, 1<<20),
		within("DeadAfter", int64(c.DeadAfter), int64(deadAfterMin), int64(time.Hour)),
		within("KeepAlive", int64(c.KeepAlive), int64(c.DeadAfter), int64(24*time.Hour)),
		within("HandshakeTimeout", int64(c.HandshakeTimeout), int64(time.Millisecond), int64(time.Hour)),
		within("DrainTimeout", int64(c.DrainTimeout), 1, int64(time.Hour)),
		within("AckDelay", int64(c.AckDelay), 0, int64(ackDelayMax)),
		within("Granularity", int64(c.Granularity), 1, int64(10*time.Millisecond)),
	} {
		if err != nil {
			return err
		}
	}
	if c.RekeyPackets < 16 || c.RekeyBytes < 1<<14 {
		return fmt.Errorf("wire: keys that last %d packets and %d bytes, must be at least 16 and 16384", c.RekeyPackets, c.RekeyBytes)
	}
	return nil
}
