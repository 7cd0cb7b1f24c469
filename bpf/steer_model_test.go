package bpf

import (
	"encoding/binary"
	"net/netip"
)

// The verdicts of XDP (linux/bpf.h, enum xdp_action).
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpRedirect = 4
)

// model is the table in the package comment a second time, written for
// simplicity: the program must decide as it does, whatever the frame.
type model struct {
	locals, peers map[netip.Addr]bool
	socket        bool // whether there is one for the queue
}

// outcome is what the program must do with a frame, and count.
type outcome struct {
	verdict uint32
	queue   QueueCounters
	peer    PeerCounters // when redirected
	hint    uint64
	hinted  bool
}

func (m model) decide(f []byte) outcome {
	passed := outcome{verdict: xdpPass, queue: QueueCounters{Other: 1}}
	be := binary.BigEndian
	if len(f) < 14 {
		return passed
	}
	kind, rest := be.Uint16(f[12:]), f[14:]
	for range 2 {
		if kind != 0x8100 && kind != 0x88a8 {
			break
		}
		if len(rest) < 4 {
			return passed
		}
		kind, rest = be.Uint16(rest[2:]), rest[4:]
	}

	var from, to netip.Addr
	var protocol byte
	var isFragment bool
	switch {
	case kind == 0x0800 && len(rest) >= 20 && rest[0]>>4 == 4:
		headLen := int(rest[0]&15) * 4
		from, to = netip.AddrFrom4([4]byte(rest[12:])), netip.AddrFrom4([4]byte(rest[16:]))
		protocol = rest[9]
		isFragment = protocol == 17 && be.Uint16(rest[6:])&0x3fff != 0
		if headLen < 20 {
			return passed
		}
		if !isFragment && len(rest) < headLen {
			return passed
		}
		rest = rest[min(headLen, len(rest)):]
	case kind == 0x86dd && len(rest) >= 40 && rest[0]>>4 == 6:
		from, to = netip.AddrFrom16([16]byte(rest[8:])).Unmap(), netip.AddrFrom16([16]byte(rest[24:])).Unmap()
		protocol = rest[6]
		isFragment = protocol == 44
		rest = rest[40:]
	default:
		return passed
	}
	if isFragment {
		if m.locals[to] {
			return outcome{verdict: xdpPass, queue: QueueCounters{Fragments: 1}}
		}
		return passed
	}
	if protocol != 17 || len(rest) < 8 || be.Uint16(rest[2:]) != port || !m.locals[to] {
		return passed
	}
	length := be.Uint16(rest[4:])
	switch {
	case !m.peers[from]:
		return outcome{verdict: xdpDrop, queue: QueueCounters{UnknownPeer: 1}}
	case length < 8:
		return outcome{verdict: xdpDrop, queue: QueueCounters{Malformed: 1}}
	case !m.socket:
		return outcome{verdict: xdpPass, queue: QueueCounters{NoSocket: 1}}
	}
	o := outcome{
		verdict: xdpRedirect,
		queue:   QueueCounters{Redirected: 1},
		peer:    PeerCounters{Addr: from, Packets: 1, Bytes: uint64(length) - 8},
	}
	if p := rest[8:]; len(p) >= HintOffset+HintSize && p[0]&HintFlag != 0 {
		o.hinted, o.hint = true, be.Uint64(p[HintOffset:])
	}
	return o
}
