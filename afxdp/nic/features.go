package nic

import (
	"encoding/binary"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Features is what a driver says that it can do with XDP, as it is set up now
// (netdev-genl, Documentation/netlink/specs/netdev.yaml).
type Features struct {
	Known       bool // the kernel tells; Linux 6.3
	Basic       bool // runs XDP programs in the driver
	Redirect    bool // can pass frames to sockets
	ZeroCopy    bool // AF_XDP zero-copy
	MultiBuffer bool // frames over several buffers
	// SegmentsMax is how many chunks a zero-copy frame may take; 0 is not told,
	// 1 means no multi-buffer.
	SegmentsMax int
}

// The bits and attributes of linux/netdev.h.
const (
	actBasic    = 1 << 0
	actRedirect = 1 << 1
	actZeroCopy = 1 << 3
	actRXSG     = 1 << 5

	cmdDevGet       = 1
	attrIfindex     = 1
	attrFeatures    = 3
	attrZCSegsMax   = 4
	netdevVersion   = 1
	netdevFamily    = "netdev"
	genlHeaderBytes = 4
)

// genlHeader is struct genlmsghdr: command, version, and two bytes that must be
// zero. (netlink's own nl.Genlmsg leaves these to chance.)
type genlHeader [genlHeaderBytes]byte

// Len is the header's length in bytes.
func (genlHeader) Len() int { return genlHeaderBytes }

// Serialize returns its bytes.
func (h genlHeader) Serialize() []byte { return h[:] }

func features(index int) Features {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return Features{} // before Linux 6.3
	}
	req := nl.NewNetlinkRequest(int(family.ID), 0)
	req.AddData(genlHeader{cmdDevGet, netdevVersion})
	req.AddData(nl.NewRtAttr(attrIfindex, nl.Uint32Attr(uint32(index))))
	answers, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(answers) == 0 || len(answers[0]) < genlHeaderBytes {
		return Features{}
	}
	attrs, err := nl.ParseRouteAttr(answers[0][genlHeaderBytes:])
	if err != nil {
		return Features{}
	}
	f := Features{Known: true}
	for _, a := range attrs {
		switch {
		case a.Attr.Type == attrFeatures && len(a.Value) >= 8:
			bits := binary.NativeEndian.Uint64(a.Value)
			f.Basic, f.Redirect = bits&actBasic != 0, bits&actRedirect != 0
			f.ZeroCopy, f.MultiBuffer = bits&actZeroCopy != 0, bits&actRXSG != 0
		case a.Attr.Type == attrZCSegsMax && len(a.Value) >= 4:
			f.SegmentsMax = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return f
}
