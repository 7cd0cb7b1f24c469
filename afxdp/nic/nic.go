package nic

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"

	"blockd.dev/afxdp/packet"
)

// Info is what there is to know of one interface.
type Info struct {
	Name  string // as asked for
	Index int
	MTU   int
	Up    bool
	// Device takes the frames: the interface itself, or the one below its
	// VLANs, whose tags are Tags, outermost first.
	Device      string
	DeviceIndex int
	DeviceMTU   int
	MAC         packet.MAC // of the interface
	Tags        [packet.TagsMax]packet.Tag

	Driver   string // of the device; "" when it has none to tell
	RXQueues int    // receive queues in use, 1 or more
	// Spread is the indirection table of RSS: the queue of each hash bucket. Nil
	// when the device has none, or doesn't tell.
	Spread []uint32
	// StripsTags tells that the device takes VLAN tags off before XDP sees frames.
	StripsTags bool
	XDP        Features
	// Program is the number of the XDP program that is attached to the device, 0
	// for none; ProgramGeneric tells that it is in generic mode.
	Program        uint32
	ProgramGeneric bool
}

// Look finds out about the interface, in the namespace of the calling thread.
// It fails when there is no such interface, or when it is over more VLANs than
// a frame may have tags; all else that can't be found out stays zero.
func Look(name string) (Info, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return Info{}, fmt.Errorf("interface %s: %w", name, err)
	}
	a := l.Attrs()
	i := Info{Name: a.Name, Index: a.Index, MTU: a.MTU, Up: a.RawFlags&iffUp != 0}
	copy(i.MAC[:], a.HardwareAddr)
	device, err := i.below(l, netlink.LinkByIndex)
	if err != nil {
		return Info{}, err
	}
	d := device.Attrs()
	i.Device, i.DeviceIndex, i.DeviceMTU = d.Name, d.Index, d.MTU
	if d.Xdp != nil && d.Xdp.Attached {
		i.Program, i.ProgramGeneric = d.Xdp.ProgId, d.Xdp.AttachMode == xdpAttachedSKB
	}
	i.RXQueues = max(countQueues(d.Name), 1)
	if fd, err := ethtoolSocket(); err == nil {
		i.Driver = driver(fd, d.Name)
		if n := channels(fd, d.Name); n > 0 {
			i.RXQueues = n
		}
		i.Spread = indirection(fd, d.Name)
		i.StripsTags = flags(fd, d.Name)&flagRXVLAN != 0
		closeSocket(fd)
	}
	i.XDP = features(d.Index)
	return i, nil
}

const (
	iffUp          = 1 // IFF_UP
	xdpAttachedSKB = 2 // XDP_ATTACHED_SKB of linux/if_link.h
)

// below goes down from a VLAN interface to the device and notes the tags.
func (i *Info) below(l netlink.Link, byIndex func(int) (netlink.Link, error)) (netlink.Link, error) {
	var tags []packet.Tag
	for {
		v, ok := l.(*netlink.Vlan)
		if !ok {
			break
		}
		tags = append([]packet.Tag{{Protocol: cmp.Or(uint16(v.VlanProtocol), 0x8100), ID: uint16(v.VlanId)}}, tags...)
		parent, err := byIndex(v.Attrs().ParentIndex)
		if err != nil {
			return nil, fmt.Errorf("interface %s: the interface under %s: %w", i.Name, v.Name, err)
		}
		l = parent
	}
	if len(tags) > packet.TagsMax {
		return nil, fmt.Errorf("interface %s is over %d VLANs; frames can have %d tags", i.Name, len(tags), packet.TagsMax)
	}
	copy(i.Tags[:], tags)
	return l, nil
}

// countQueues counts the receive queues in sysfs, which shows those of the
// namespace in which it was mounted.
func countQueues(name string) int {
	found, err := filepath.Glob(filepath.Join("/sys/class/net", name, "queues", "rx-*"))
	if err != nil {
		return 0
	}
	return len(found)
}

// QueuesOfSpread returns which queues the indirection table names, as a
// bitmap by queue; nil without a table.
func (i *Info) QueuesOfSpread() []bool {
	if len(i.Spread) == 0 {
		return nil
	}
	used := make([]bool, i.RXQueues)
	for _, q := range i.Spread {
		if int(q) < len(used) {
			used[q] = true
		}
	}
	return used
}

// Candidates lists the interfaces that may carry the node wire: those that are
// up, have an address of more than the link, and stand, over VLANs or not, on a
// device of the machine (a PCI card, a virtio device) or a veth.
func Candidates() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().RawFlags&iffUp == 0 || !hasGlobalAddress(l) {
			continue
		}
		device, err := (&Info{Name: l.Attrs().Name}).below(l, netlink.LinkByIndex)
		if err != nil {
			continue // more VLANs than the wire can do
		}
		_, err = os.Stat(filepath.Join("/sys/class/net", device.Attrs().Name, "device"))
		if err == nil || device.Type() == "veth" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

func hasGlobalAddress(l netlink.Link) bool {
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	return err == nil && slices.ContainsFunc(list, func(a netlink.Addr) bool { return a.IP.IsGlobalUnicast() })
}
