package bpf

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// address is a key of locals and peers: an IPv4 address is ::ffff:a.b.c.d.
type address [16]byte

func keyOf(a netip.Addr) address { return a.As16() }

func (a address) addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Register has the datagrams that arrive at the queue redirected to the AF_XDP
// socket fd, which must have an RX ring and be bound to that queue of that NIC;
// bound to another, the kernel drops what is redirected. A socket that was there
// before is replaced. The kernel keeps the entry as long as the socket is open.
// Errors: the queue is out of range, or fd is no bound AF_XDP socket. That it is
// bound is checked, as Linux 5.10 crashes when it redirects to one that isn't.
func (s *Steer) Register(queue, fd int) error {
	if queue < 0 || queue >= s.queues {
		return fmt.Errorf("bpf: register a socket: there is no queue %d, the NIC has 0 to %d", queue, s.queues-1)
	}
	// A ring of no entries is refused in any case: with EBUSY when the socket is
	// bound, when it's too late for rings; else with EINVAL.
	if err := unix.SetsockoptInt(fd, unix.SOL_XDP, unix.XDP_RX_RING, 0); !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("bpf: register a socket for queue %d: it is not an AF_XDP socket that is bound (%w)", queue, err)
	}
	if err := s.maps.Sockets.Put(uint32(queue), uint32(fd)); err != nil {
		return fmt.Errorf("bpf: register a socket for queue %d: %w", queue, err)
	}
	return nil
}

// Unregister has what arrives at the queue passed to the kernel again. It is no
// error when no socket was registered.
func (s *Steer) Unregister(queue int) error {
	if queue < 0 || queue >= s.queues {
		return fmt.Errorf("bpf: unregister a socket: there is no queue %d, the NIC has 0 to %d", queue, s.queues-1)
	}
	if err := s.maps.Sockets.Delete(uint32(queue)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("bpf: unregister the socket of queue %d: %w", queue, err)
	}
	return nil
}

// AllowPeer lets datagrams from the address in; a zone is ignored. One that is
// allowed already keeps its counters. The error is that the list is full, or
// that the address is not a host's.
func (s *Steer) AllowPeer(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
		return fmt.Errorf("bpf: allow peer %v: want a unicast address", a)
	}
	err := s.maps.Peers.Update(keyOf(a), make([]steerTraffic, ebpf.MustPossibleCPU()), ebpf.UpdateNoExist)
	switch {
	case err == nil, errors.Is(err, ebpf.ErrKeyExist):
		return nil
	case errors.Is(err, errTooBig):
		return fmt.Errorf("bpf: allow peer %v: the list is full with %d peers; raise Config.PeersMax, or remove peers that are gone", a, s.peersMax)
	}
	return fmt.Errorf("bpf: allow peer %v: %w", a, err)
}

// RemovePeer has datagrams from the address dropped from now on, and forgets
// its counters. It is no error when the address was not allowed.
func (s *Steer) RemovePeer(a netip.Addr) error {
	if !a.IsValid() {
		return errors.New("bpf: remove peer: no address")
	}
	if err := s.maps.Peers.Delete(keyOf(a)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("bpf: remove peer %v: %w", a, err)
	}
	return nil
}
