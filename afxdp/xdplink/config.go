package xdplink

import (
	"errors"
	"fmt"
	"net/netip"

	"blockd.dev/afxdp/socket"
	"blockd.dev/blockdev/arena"
)

// Mode says which of the ways to use AF_XDP to take.
type Mode uint8

// The modes, best first after Auto.
const (
	Auto     Mode = iota // the best that can be had
	ZeroCopy             // the driver runs the program, the NIC works in our memory
	Copy                 // the driver runs the program, the kernel copies once
	Generic              // the kernel runs the program late, and copies
)

// String returns the mode's name as configuration spells it.
func (m Mode) String() string {
	switch m {
	case Auto:
		return "auto"
	case ZeroCopy:
		return "zerocopy"
	case Copy:
		return "copy"
	case Generic:
		return "generic"
	}
	return "invalid"
}

// ParseMode is the reverse of String.
func ParseMode(s string) (Mode, error) {
	for m := Auto; m <= Generic; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("AF_XDP mode %q; want auto, zerocopy, copy or generic", s)
}

// Defaults of Config.
const (
	DefaultRxBuffers = 2048
	DefaultTxBuffers = 512
)

// Config says what to open. Zero values mean the documented defaults.
type Config struct {
	// Interface is the name of the interface that has the address, in the
	// network namespace of the calling thread; a VLAN's is fine. Required.
	Interface string
	// Queue is the number of the receive and transmit queue, for Open only.
	Queue int
	// Local is the address that peers send to, one of the interface's. Default:
	// the first of it that is global, IPv4 before IPv6.
	Local netip.Addr
	// Port is the cluster's UDP port. Required.
	Port uint16
	// Mode is the way to take. Default: Auto.
	Mode Mode
	// Peers may send to us from the start; see Device.AllowPeer.
	Peers []netip.Addr
	// PeersMax is how many there may be. Default: bpf.DefaultPeersMax.
	PeersMax int
	// CountExtents has the kernel count packets by their hint, for
	// Device.HotExtents. Peers give hints if they are configured to
	// (replication/wire.Config.Hints).
	CountExtents bool
	// Links is how many queues OpenDevice reserves memory for. Default: all.
	Links int
	// RxBuffers and TxBuffers are how many datagrams each queue has room for: 16 to
	// 65536, default 2048 and 512. Each takes 4 KiB with an MTU up to some 3800
	// bytes, 12 KiB with one of 9000.
	RxBuffers, TxBuffers int
	// Arena is where memory is reserved. Default: one of the Device's own.
	Arena *arena.Arena
	// BusyPoll has the kernel's driver run when the link is polled. Default: off.
	BusyPoll socket.BusyPoll
}

// withDefaults returns c with defaults filled in, or what is wrong with it.
func (c Config) withDefaults() (Config, error) {
	if c.Interface == "" {
		return c, errors.New("xdplink: Config.Interface is empty; want the interface that has the node's address")
	}
	if c.Port == 0 {
		return c, errors.New("xdplink: Config.Port is 0; want the cluster's UDP port")
	}
	if c.Mode > Generic {
		return c, fmt.Errorf("xdplink: Config.Mode is %d; want Auto, ZeroCopy, Copy or Generic", c.Mode)
	}
	if c.Queue < 0 || c.Links < 0 {
		return c, fmt.Errorf("xdplink: Config.Queue is %d, Links %d; want 0 or more", c.Queue, c.Links)
	}
	if c.RxBuffers == 0 {
		c.RxBuffers = DefaultRxBuffers
	}
	if c.TxBuffers == 0 {
		c.TxBuffers = DefaultTxBuffers
	}
	for _, n := range []int{c.RxBuffers, c.TxBuffers} {
		if n < 16 || n > 1<<16 {
			return c, fmt.Errorf("xdplink: %d buffers; want 16 to 65536", n)
		}
	}
	c.Local = c.Local.Unmap()
	return c, nil
}
