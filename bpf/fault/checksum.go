package fault

import "encoding/binary"

// finishChecksum does what a NIC would have done: the kernel leaves the sum of
// the pseudo header in the UDP checksum of a frame that it sends, and has the NIC
// add the rest (checksum offload). A frame with any other checksum stays as it
// is, right or wrong.
func finishChecksum(frame []byte) {
	be := binary.BigEndian
	kind, rest := be.Uint16(frame[12:]), frame[14:]
	for (kind == 0x8100 || kind == 0x88a8) && len(rest) >= 4 {
		kind, rest = be.Uint16(rest[2:]), rest[4:]
	}
	var addresses, datagram []byte
	switch {
	case kind == 0x0800 && len(rest) >= 20:
		head, total := int(rest[0]&15)*4, int(be.Uint16(rest[2:]))
		if head < 20 || rest[9] != 17 || total < head+8 || total > len(rest) {
			return
		}
		addresses, datagram = rest[12:20], rest[head:total]
	case kind == 0x86dd && len(rest) >= 40:
		total := 40 + int(be.Uint16(rest[4:]))
		if rest[6] != 17 || total < 48 || total > len(rest) {
			return
		}
		addresses, datagram = rest[8:40], rest[40:total]
	default:
		return
	}
	pseudo := sum(uint64(17)+uint64(len(datagram)), addresses)
	if be.Uint16(datagram[6:]) != pseudo {
		return
	}
	check := ^sum(0, datagram) // the pseudo header's sum stands in the field
	if check == 0 {
		check = 0xffff // RFC 768: zero would mean that there is none
	}
	be.PutUint16(datagram[6:], check)
}

// sum is the ones' complement sum of RFC 1071 over b, in addition to start.
func sum(start uint64, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint64(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		start += uint64(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}
