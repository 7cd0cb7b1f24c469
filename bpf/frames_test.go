package bpf

import (
	"encoding/binary"
	"net/netip"
)

// frame describes a frame to craft. Zero values are those of a good datagram
// from peerV4 to localV4 with a payload of 32 bytes.
type frame struct {
	tags     []uint16 // EtherTypes of VLAN tags, outermost first
	from, to netip.Addr
	toPort   uint16
	protocol byte // default UDP
	options  int  // bytes of IPv4 options
	// headWords is what the IPv4 header says of its length; default right, below
	// 0 is 0.
	headWords int
	fragment  uint16 // IPv4's flags and offset
	udpLen    uint16 // default right
	payload   []byte
}

func (f frame) bytes() []byte {
	if !f.from.IsValid() {
		f.from = peerV4
	}
	if !f.to.IsValid() {
		f.to = localV4
	}
	if f.toPort == 0 {
		f.toPort = port
	}
	if f.protocol == 0 {
		f.protocol = 17
	}
	if f.payload == nil {
		f.payload = make([]byte, 32)
	}
	if f.udpLen == 0 {
		f.udpLen = uint16(8 + len(f.payload))
	}
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	for i, t := range f.tags {
		b = binary.BigEndian.AppendUint16(b, t)
		b = binary.BigEndian.AppendUint16(b, uint16(100+i))
	}
	if f.to.Is4() {
		b = binary.BigEndian.AppendUint16(b, 0x0800)
		if f.headWords == 0 {
			f.headWords = 5 + f.options/4
		}
		b = append(b, 0x40+byte(max(f.headWords, 0)), 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+f.options+8+len(f.payload)))
		b = append(b, 0, 1)
		b = binary.BigEndian.AppendUint16(b, f.fragment)
		b = append(b, 64, f.protocol, 0, 0)
	} else {
		b = binary.BigEndian.AppendUint16(b, 0x86dd)
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(f.payload)))
		b = append(b, f.protocol, 64)
	}
	b = append(b, f.from.AsSlice()...)
	b = append(b, f.to.AsSlice()...)
	for range f.options {
		b = append(b, 1) // no operation
	}
	b = binary.BigEndian.AppendUint16(b, 40000)
	b = binary.BigEndian.AppendUint16(b, f.toPort)
	b = binary.BigEndian.AppendUint16(b, f.udpLen)
	b = append(b, 0, 0)
	return append(b, f.payload...)
}

// hinted returns a payload that carries a hint, behind a first byte with flags.
func hinted(flags byte, hint uint64) []byte {
	p := make([]byte, HintOffset, HintOffset+HintSize+16)
	p[0] = flags
	p = binary.BigEndian.AppendUint64(p, hint)
	return append(p, make([]byte, 16)...)
}
