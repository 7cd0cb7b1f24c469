package neigh

import "net/netip"

// TagsMax is how many VLAN tags a frame may have.
const TagsMax = 2

// MAC is an Ethernet address.
type MAC [6]byte

// Tag is a VLAN tag as it stands in a frame (IEEE 802.1Q-2018 §9.6); a zero
// Protocol means that there is none.
type Tag struct {
	Protocol uint16 // EtherType: 0x8100 or 0x88a8
	ID       uint16 // 1 to 4094
}

// Hop is all that a sender needs to know of the way to a peer.
type Hop struct {
	// Device is the index of the interface that takes the frames, below all
	// VLANs: the one to bind an AF_XDP socket to. DeviceName is its name.
	Device     int
	DeviceName string
	// Interface is the name of the interface that the route says, such as
	// eth0.5; without VLANs it is DeviceName.
	Interface string
	// Tags are the VLAN tags, outermost first.
	Tags [TagsMax]Tag
	// Src and Dst are the frame's addresses. Dst is the next hop's.
	Src, Dst MAC
	// Source is the address that the kernel would send from. NextHop is the
	// peer itself, or the router on the way to it.
	Source, NextHop netip.Addr
	// MTU is how long an IP packet to the peer may be, header included, as far
	// as interface and route say. The path may take less.
	MTU int
}
