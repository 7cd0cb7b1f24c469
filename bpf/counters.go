package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
)

// Counters is what a Steer did since it was loaded. Each number is exact;
// together they are no snapshot, since frames come in meanwhile.
type Counters struct {
	// Queues is by number of the receive queue.
	Queues []QueueCounters
	// Peers has every allowed peer, in order of address.
	Peers []PeerCounters
}

// QueueCounters counts the frames of one receive queue by what became of them.
// The table in the package comment says when each grows. Each frame is in
// exactly one.
type QueueCounters struct {
	Redirected  uint64 // to the AF_XDP socket
	NoSocket    uint64 // passed to the kernel
	UnknownPeer uint64 // dropped
	Malformed   uint64 // dropped
	Fragments   uint64 // passed to the kernel
	Other       uint64 // passed to the kernel
}

// PeerCounters counts what was redirected of one peer's datagrams.
type PeerCounters struct {
	Addr    netip.Addr
	Packets uint64
	Bytes   uint64 // of UDP payload, as the headers say
}

// ExtentCounters counts the packets with one hint.
type ExtentCounters struct {
	Hint    uint64 // big-endian in the packet
	Packets uint64
	Bytes   uint64 // of UDP payload
}

// Counters reads the counters.
func (s *Steer) Counters() (Counters, error) {
	c := Counters{Queues: make([]QueueCounters, s.queues)}
	var perCPU []steerQueueCounters
	for q := range c.Queues {
		if err := s.maps.Queues.Lookup(uint32(q), &perCPU); err != nil {
			return Counters{}, fmt.Errorf("bpf: counters of queue %d: %w", q, err)
		}
		for _, v := range perCPU {
			c.Queues[q].add(v)
		}
	}
	peers, err := s.peerAddrs()
	if err != nil {
		return Counters{}, err
	}
	var traffic []steerTraffic
	for _, a := range peers {
		switch err := s.maps.Peers.Lookup(keyOf(a), &traffic); {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			continue // removed just now
		case err != nil:
			return Counters{}, fmt.Errorf("bpf: counters of peer %v: %w", a, err)
		}
		p := PeerCounters{Addr: a}
		for _, v := range traffic {
			p.Packets += v.Packets
			p.Bytes += v.Bytes
		}
		c.Peers = append(c.Peers, p)
	}
	return c, nil
}

func (q *QueueCounters) add(v steerQueueCounters) {
	q.Redirected += v.Redirected
	q.NoSocket += v.NoSocket
	q.UnknownPeer += v.UnknownPeer
	q.Malformed += v.Malformed
	q.Fragments += v.Fragments
	q.Other += v.Other
}

// peerAddrs lists the allowed addresses in order. Walking the kernel's table
// starts over when the entry that it stands at is removed, hence the set.
func (s *Steer) peerAddrs() ([]netip.Addr, error) {
	seen := map[netip.Addr]bool{}
	var key address
	err := s.maps.Peers.NextKey(nil, &key)
	for ; err == nil; err = s.maps.Peers.NextKey(key, &key) {
		if len(seen) > 2*s.peersMax {
			break
		}
		seen[key.addr()] = true
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("bpf: list peers: %w", err)
	}
	peers := make([]netip.Addr, 0, len(seen))
	for a := range seen {
		peers = append(peers, a)
	}
	slices.SortFunc(peers, netip.Addr.Compare)
	return peers, nil
}

// HotExtents returns the up to n hints with the most packets, most first; none
// without Config.CountExtents. A hint is counted since it entered the table: for
// a rate, call twice and subtract. Under pressure counts are a little low, as
// the least recently touched are forgotten.
func (s *Steer) HotExtents(n int) ([]ExtentCounters, error) {
	var all []ExtentCounters
	var hint [HintSize]byte
	var t steerTraffic
	walk := s.maps.Extents.Iterate()
	for walk.Next(&hint, &t) {
		all = append(all, ExtentCounters{Hint: binary.BigEndian.Uint64(hint[:]), Packets: t.Packets, Bytes: t.Bytes})
	}
	// An entry that is forgotten while the walk stands at it makes the walk
	// start over, and give up at last: what it saw is still good.
	if err := walk.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, fmt.Errorf("bpf: hot extents: %w", err)
	}
	slices.SortFunc(all, func(a, b ExtentCounters) int {
		return cmp.Or(cmp.Compare(a.Hint, b.Hint), cmp.Compare(b.Packets, a.Packets))
	})
	all = slices.CompactFunc(all, func(a, b ExtentCounters) bool { return a.Hint == b.Hint })
	slices.SortFunc(all, func(a, b ExtentCounters) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Hint, b.Hint))
	})
	return all[:min(max(n, 0), len(all))], nil
}
