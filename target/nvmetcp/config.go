package nvmetcp

import (
	"errors"
	"fmt"

	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/turn"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
)

// Config is what a Server serves. Subsystem and Arena are required.
type Config struct {
	Subsystem *nvme.Subsystem
	Arena     *arena.Arena
	// Auth says what each host must prove; nil lets every host in.
	Auth auth.NVMeDirectory
	// DiscoveryAuth has hosts prove the same to the discovery subsystem. Without
	// it, that asks for no proof: it tells a host only what the subsystem's Config
	// lets it see.
	DiscoveryAuth bool
	Limits        Limits
	// Soon is who sends several answers at once at the end of a turn (sockio.Config); nil
	// has each sent by itself.
	Soon turn.Soon
	// Events gets what happened, from any goroutine; it must not block. nil
	// drops the events.
	Events func(Event)
}

// AdminCapsuleBytes is how much data a command capsule of an admin queue may
// carry, whatever IOCCSZ says (NVMe TCP 1.0 §3.4.2).
const AdminCapsuleBytes = 8 << 10

// Limits bound what peers can make a Server hold. Zero fields mean the
// defaults.
type Limits struct {
	// Connections is how many connections may exist; default 16384.
	Connections int
	// Handshakes is how many of them may be on their way to phaseLive;
	// default 256.
	Handshakes int
	// Authentications is how many of those may compute for an authentication at
	// once; default a quarter of the processors, at least 1.
	Authentications int
	// InitSeconds is how long a peer may take for its ICReq; default 10.
	InitSeconds int
	// HandshakeSeconds is how long it may take until its commands can be
	// served, Connect and authentication included; default 30.
	HandshakeSeconds int
	// StallSeconds is how long a peer that owes the rest of a PDU, or data
	// that it was asked for, may be silent; default 15.
	StallSeconds int
	// BufferBytes is how much buffer, and borrowed memory of devices, the commands
	// of one connection may hold; default 16 MiB, at least nvme.MaxTransferBytes.
	BufferBytes int64
	// MaxH2CData is the most data of one H2CData PDU; default
	// nvme.MaxTransferBytes, at least 4096 and a multiple of 4.
	MaxH2CData int
	// CapsuleBytes is how much data a command capsule of an I/O queue may
	// carry; default nvme.InCapsuleBytes, which is what Identify says.
	CapsuleBytes int
}

func (l *Limits) fill() error {
	for _, f := range []struct {
		name     string
		p        *int
		def, min int
	}{
		{"Connections", &l.Connections, 16384, 1},
		{"Handshakes", &l.Handshakes, 256, 1},
		{"Authentications", &l.Authentications, gateDefault(), 1},
		{"InitSeconds", &l.InitSeconds, 10, 1},
		{"HandshakeSeconds", &l.HandshakeSeconds, 30, 1},
		{"StallSeconds", &l.StallSeconds, 15, 1},
		{"MaxH2CData", &l.MaxH2CData, nvme.MaxTransferBytes, 4096},
		{"CapsuleBytes", &l.CapsuleBytes, nvme.InCapsuleBytes, nvme.InCapsuleBytes},
	} {
		if *f.p == 0 {
			*f.p = f.def
		}
		if *f.p < f.min {
			return fmt.Errorf("nvmetcp: limit %s is %d: use at least %d", f.name, *f.p, f.min)
		}
	}
	if l.MaxH2CData%4 != 0 {
		return fmt.Errorf("nvmetcp: limit MaxH2CData is %d: use a multiple of 4", l.MaxH2CData)
	}
	if l.BufferBytes == 0 {
		l.BufferBytes = 16 << 20
	}
	if l.BufferBytes < nvme.MaxTransferBytes { // less would park the longest command for ever
		return fmt.Errorf("nvmetcp: limit BufferBytes is %d: use at least %d", l.BufferBytes, nvme.MaxTransferBytes)
	}
	return nil
}

// validate checks c and fills in defaults.
func (c *Config) validate() error {
	if c.Subsystem == nil || c.Arena == nil {
		return errors.New("nvmetcp: config without Subsystem or Arena: set both")
	}
	if c.Auth == nil {
		c.Auth = auth.AllowAllNVMe{}
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	return c.Limits.fill()
}
