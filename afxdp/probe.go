package afxdp

import (
	"fmt"
	"slices"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/nic"
)

// Report says how a Link on an interface would be carried.
type Report struct {
	NIC nic.Info
	// Kind is the best that the interface, the kernel and the process's
	// privileges allow, as far as can be told without trying: link.UDP when not
	// AF_XDP at all. The Kind of an open Link is the truth.
	Kind link.Kind
	// Certain is false when the driver doesn't say what it can do (before Linux
	// 6.3), and Kind is a guess.
	Certain bool
	// Refused says for each better kind why it can't be had, best first.
	Refused []Refusal
}

// Refusal is why a kind can't be had, and what to do about it; Fix is "" where
// nothing helps but other hardware.
type Refusal struct {
	Kind     link.Kind
	Why, Fix string
}

// Probe looks at the interface, in the namespace of the calling thread. The
// error is that there is no such interface.
func Probe(name string) (Report, error) {
	info, err := nic.Look(name)
	if err != nil {
		return Report{}, fmt.Errorf("afxdp: %w", err)
	}
	return judge(info, lookAtMachine()), nil
}

// judge decides what the interface would get on the machine.
func judge(info nic.Info, m machine) Report {
	r := Report{NIC: info, Certain: info.XDP.Known}
	refuse := func(why, fix string, kinds ...link.Kind) {
		for _, k := range kinds {
			r.Refused = append(r.Refused, Refusal{k, why, fix})
		}
	}
	all := []link.Kind{link.XDPZeroCopy, link.XDPCopy, link.XDPGeneric}
	r.Kind = link.UDP
	switch lacks, fix := m.lacksForXDP(); {
	case lacks != "":
		refuse(lacks, fix, all...)
		return r
	case !info.Up:
		refuse("the interface is down", "ip link set "+info.Name+" up", all...)
		return r
	case info.Program != 0:
		refuse(fmt.Sprintf("XDP program %d is attached to %s already", info.Program, info.Device),
			"nothing, if it is blockd's own; else end what attached it (`ip link show "+info.Device+"`, `bpftool prog`)", all...)
		return r
	}
	x := &info.XDP
	r.Kind = link.XDPGeneric
	if x.Known && !x.Basic || x.Known && !x.Redirect {
		why := fmt.Sprintf("the driver %s runs no XDP programs that pass frames to sockets", driverName(&info))
		refuse(why, "use a NIC with native XDP (docs/NETWORK.md lists drivers)", link.XDPZeroCopy, link.XDPCopy)
		return r
	}
	r.Kind = link.XDPCopy
	switch {
	case !x.Known:
		refuse("the driver doesn't say whether it can", "boot Linux 6.3 or later to know; opening the link will tell too", link.XDPZeroCopy)
	case !x.ZeroCopy:
		refuse(fmt.Sprintf("the driver %s has no AF_XDP zero-copy", driverName(&info)), "use a NIC that has (docs/NETWORK.md lists drivers)", link.XDPZeroCopy)
	case info.DeviceMTU > oneChunkMTU && x.SegmentsMax == 1:
		refuse(fmt.Sprintf("the driver %s has zero-copy for frames up to 3.75 KiB only, and the MTU is %d", driverName(&info), info.DeviceMTU),
			fmt.Sprintf("ip link set %s mtu %d, if zero-copy is worth more than large frames", info.Device, oneChunkMTU), link.XDPZeroCopy)
	default:
		r.Kind = link.XDPZeroCopy
	}
	return r
}

// opened says that links of kind k are open on the interface: that is known then, and so is
// what only better kinds were refused for.
func (r *Report) opened(k link.Kind) {
	r.Kind, r.Certain = k, true
	r.Refused = slices.DeleteFunc(r.Refused, func(f Refusal) bool { return f.Kind >= k })
}

// oneChunkMTU is the largest MTU whose frames fit into a chunk: 4096 bytes less
// the kernel's headroom of 256, Ethernet's 14 and two VLAN tags.
const oneChunkMTU = 4096 - 256 - 14 - 8

func driverName(i *nic.Info) string {
	if i.Driver == "" {
		return "of " + i.Device
	}
	return i.Driver
}
