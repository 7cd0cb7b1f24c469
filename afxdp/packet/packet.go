// Package packet writes and reads the headers of the node wire's datagrams:
// Ethernet, up to two VLAN tags, IPv4 or IPv6, UDP. It is a codec: no sockets,
// no allocation, nothing kept.
//
// # Checksums
//
// The IPv4 header's is written and checked. The UDP checksum is written as zero,
// "none", over IPv4 (RFC 768), which every receiver takes, and computed over
// IPv6, where zero is for tunnels only (RFC 6935) and Linux drops it. It is
// never checked: a datagram of the local machine or of another virtual machine
// reaches XDP before a NIC would have filled it in (the kernel's
// CHECKSUM_PARTIAL), with a sum of the addresses alone; and what carries blockd's
// data has an AEAD over header and payload, which finds far more than 16 bits do.
package packet

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// TagsMax is how many VLAN tags a frame may have.
const TagsMax = 2

// Tag is a VLAN tag, without priority (IEEE 802.1Q-2018 §9.6).
type Tag struct {
	Protocol uint16 // EtherType, 0x8100 or 0x88A8; 0 means no tag
	ID       uint16 // 1 to 4094
}

// Lengths of headers, in bytes.
const (
	ethernetLen = 14
	vlanLen     = 4
	ipv4Len     = 20
	ipv6Len     = 40
	udpLen      = 8

	// HeadersMax is the most that Put writes.
	HeadersMax = ethernetLen + TagsMax*vlanLen + ipv6Len + udpLen
)

const (
	etherIPv4  = 0x0800
	etherIPv6  = 0x86DD
	etherVLAN  = 0x8100 // IEEE 802.1Q
	etherQinQ  = 0x88A8 // IEEE 802.1ad
	protoUDP   = 17
	hopLimit   = 64 // the default of IANA's "IP Option Numbers" registry, and Linux's
	vlanIDMask = 0x0FFF
)

// Header is what the headers of one datagram say.
type Header struct {
	Source, Destination MAC
	Tags                [TagsMax]Tag   // outermost first
	From, To            netip.AddrPort // of one family; IPv4 not mapped into IPv6, IPv6 without zone
}

// HeaderLen is how many bytes Put writes for the family and the tags.
func HeaderLen(is4 bool, tags *[TagsMax]Tag) int {
	n := ethernetLen + udpLen + ipv6Len
	if is4 {
		n = ethernetLen + udpLen + ipv4Len
	}
	for i := range tags {
		if tags[i].Protocol != 0 {
			n += vlanLen
		}
	}
	return n
}

// Put writes the headers into the HeaderLen bytes of b, for a payload that
// follows. The payload is read, for IPv6 only; header and payload together are
// at most 65535 bytes, since the lengths have 16 bits.
//
// The IPv4 identification is zero and fragmenting is forbidden, which RFC 6864
// §4.1 allows: such a datagram is never one of several pieces.
func (h *Header) Put(b, payload []byte) {
	copy(b[0:6], h.Destination[:])
	copy(b[6:12], h.Source[:])
	at := 12
	for i := range h.Tags {
		if t := &h.Tags[i]; t.Protocol != 0 {
			binary.BigEndian.PutUint16(b[at:], t.Protocol)
			binary.BigEndian.PutUint16(b[at+2:], t.ID)
			at += vlanLen
		}
	}
	udpBytes := udpLen + len(payload)
	if h.From.Addr().Is4() {
		binary.BigEndian.PutUint16(b[at:], etherIPv4)
		ip := b[at+2:][:ipv4Len]
		putIPv4(ip, h.From.Addr().As4(), h.To.Addr().As4(), udpBytes)
		h.putUDP(b[at+2+ipv4Len:][:udpLen], udpBytes)
		return
	}
	binary.BigEndian.PutUint16(b[at:], etherIPv6)
	ip := b[at+2:][:ipv6Len]
	putIPv6(ip, h.From.Addr().As16(), h.To.Addr().As16(), udpBytes)
	udp := b[at+2+ipv6Len:][:udpLen]
	h.putUDP(udp, udpBytes)
	// The pseudo-header of RFC 8200 §8.1: addresses, length, next header.
	acc := sum(ip[8:], uint64(swap16(uint16(udpBytes)))+uint64(swap16(protoUDP)))
	check := ^fold(sum(payload, sum(udp, acc)))
	if check == 0 {
		check = 0xFFFF // zero means none
	}
	binary.LittleEndian.PutUint16(udp[6:], check)
}

// putIPv4 writes a header without options (RFC 791 §3.1).
func putIPv4(b []byte, from, to [4]byte, payloadBytes int) {
	b[0], b[1] = 4<<4|ipv4Len/4, 0
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Len+payloadBytes))
	binary.BigEndian.PutUint32(b[4:], 0x4000) // identification 0, don't fragment
	b[8], b[9] = hopLimit, protoUDP
	b[10], b[11] = 0, 0
	copy(b[12:16], from[:])
	copy(b[16:20], to[:])
	binary.LittleEndian.PutUint16(b[10:], ^fold(sum(b[:ipv4Len], 0)))
}

// putIPv6 writes a header (RFC 8200 §3), with traffic class and flow label 0.
func putIPv6(b []byte, from, to [16]byte, payloadBytes int) {
	binary.BigEndian.PutUint32(b, 6<<28)
	binary.BigEndian.PutUint16(b[4:], uint16(payloadBytes))
	b[6], b[7] = protoUDP, hopLimit
	copy(b[8:24], from[:])
	copy(b[24:40], to[:])
}

// putUDP writes a header without checksum (RFC 768).
func (h *Header) putUDP(b []byte, udpBytes int) {
	binary.BigEndian.PutUint16(b[0:], h.From.Port())
	binary.BigEndian.PutUint16(b[2:], h.To.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(udpBytes))
	b[6], b[7] = 0, 0
}

// Errors of Parse. They are values, so that hostile frames cost no memory.
var (
	ErrTruncated  = errors.New("packet: shorter than its headers say")
	ErrNotUDP     = errors.New("packet: not UDP over IPv4 or IPv6")
	ErrFragment   = errors.New("packet: a fragment")
	ErrBadHeader  = errors.New("packet: an IP header that contradicts itself")
	ErrBadSum     = errors.New("packet: wrong IPv4 header checksum")
	ErrNoPayload  = errors.New("packet: a datagram without payload")
	ErrTaggedDeep = errors.New("packet: more than two VLAN tags")
)

// Parse reads the headers of a frame as it came from the wire and returns the
// payload, at least 1 byte, which aliases the frame without its padding. IPv4
// options are stepped over; IPv6 extension headers are not taken, as no sender
// of ours writes any. The UDP checksum is not checked.
func Parse(frame []byte) (h Header, payload []byte, err error) {
	if len(frame) < ethernetLen {
		return h, nil, ErrTruncated
	}
	copy(h.Destination[:], frame[0:6])
	copy(h.Source[:], frame[6:12])
	kind, rest := binary.BigEndian.Uint16(frame[12:]), frame[ethernetLen:]
	for i := 0; kind == etherVLAN || kind == etherQinQ; i++ {
		if i == TagsMax {
			return h, nil, ErrTaggedDeep
		}
		if len(rest) < vlanLen {
			return h, nil, ErrTruncated
		}
		h.Tags[i] = Tag{Protocol: kind, ID: binary.BigEndian.Uint16(rest) & vlanIDMask}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[vlanLen:]
	}
	var from, to netip.Addr
	switch kind {
	case etherIPv4:
		from, to, rest, err = parseIPv4(rest)
	case etherIPv6:
		from, to, rest, err = parseIPv6(rest)
	default:
		err = ErrNotUDP
	}
	if err != nil {
		return h, nil, err
	}
	if len(rest) < udpLen {
		return h, nil, ErrTruncated
	}
	h.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(rest))
	h.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(rest[2:]))
	switch n := int(binary.BigEndian.Uint16(rest[4:])); {
	case n > len(rest):
		return h, nil, ErrTruncated
	case n < udpLen:
		return h, nil, ErrBadHeader
	case n == udpLen:
		return h, nil, ErrNoPayload
	default:
		return h, rest[udpLen:n:n], nil
	}
}

// parseIPv4 returns the addresses and what follows the header, without padding.
func parseIPv4(b []byte) (from, to netip.Addr, rest []byte, err error) {
	if len(b) < ipv4Len {
		return from, to, nil, ErrTruncated
	}
	header, total := int(b[0]&0xF)*4, int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case b[0]>>4 != 4 || header < ipv4Len || total < header:
		return from, to, nil, ErrBadHeader
	case total > len(b):
		return from, to, nil, ErrTruncated
	case binary.BigEndian.Uint16(b[6:])&0x3FFF != 0: // more fragments, or an offset
		return from, to, nil, ErrFragment
	case b[9] != protoUDP:
		return from, to, nil, ErrNotUDP
	case fold(sum(b[:header], 0)) != 0xFFFF:
		return from, to, nil, ErrBadSum
	}
	return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[header:total], nil
}

// parseIPv6 returns the addresses and what follows the header, without padding.
func parseIPv6(b []byte) (from, to netip.Addr, rest []byte, err error) {
	if len(b) < ipv6Len {
		return from, to, nil, ErrTruncated
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	switch {
	case b[0]>>4 != 6:
		return from, to, nil, ErrBadHeader
	case b[6] != protoUDP:
		return from, to, nil, ErrNotUDP
	case n > len(b)-ipv6Len:
		return from, to, nil, ErrTruncated
	}
	return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[ipv6Len:][:n], nil
}
