package nic

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"

	"blockd.dev/afxdp/netlab"
	"blockd.dev/afxdp/packet"
)

// TestLookAtAVeth: a veth says what it can do.
func TestLookAtAVeth(t *testing.T) {
	lab, err := netlab.New(netlab.Config{MTU: 3000, Queues: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	if err := lab.A.Do(func() error {
		i, err := Look("eth0")
		if err != nil {
			return err
		}
		if i.Driver != "veth" || i.RXQueues != 3 || i.MTU != 3000 || !i.Up || i.Device != "eth0" || i.Tags != [packet.TagsMax]packet.Tag{} || i.Program != 0 {
			t.Errorf("%+v", i)
		}
		// A veth runs programs, and has no zero-copy. Linux 6.3 and later tell.
		if told := hasFamily(); i.XDP.Known != told || told && (!i.XDP.Basic || i.XDP.ZeroCopy) {
			t.Errorf("XDP of a veth: %+v", i.XDP)
		}
		if _, err := Look("eth9"); err == nil {
			t.Error("found an interface that isn't there")
		}
		names, err := Candidates()
		if err == nil && (len(names) != 1 || names[0] != "eth0") {
			t.Errorf("interfaces for the wire: %v", names)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// hasFamily tells whether the kernel can be asked for XDP features.
func hasFamily() bool {
	_, err := netlink.GenlFamilyGet(netdevFamily)
	return err == nil
}

// TestVLANsLeadToTheDevice with interfaces that are only described, since not
// every kernel has VLANs.
func TestVLANsLeadToTheDevice(t *testing.T) {
	attrs := func(index, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: "n", Index: index, ParentIndex: parent}
	}
	device := &netlink.Dummy{LinkAttrs: attrs(1, 0)}
	outer := &netlink.Vlan{LinkAttrs: attrs(2, 1), VlanId: 5, VlanProtocol: netlink.VLAN_PROTOCOL_8021AD}
	inner := &netlink.Vlan{LinkAttrs: attrs(3, 2), VlanId: 6}
	third := &netlink.Vlan{LinkAttrs: attrs(4, 3), VlanId: 7}
	lost := &netlink.Vlan{LinkAttrs: attrs(5, 9), VlanId: 8}
	byIndex := func(i int) (netlink.Link, error) {
		for _, l := range []netlink.Link{device, outer, inner, third} {
			if l.Attrs().Index == i {
				return l, nil
			}
		}
		return nil, errors.New("no such interface")
	}
	for _, c := range []struct {
		from netlink.Link
		tags [packet.TagsMax]packet.Tag
		ok   bool
	}{
		{device, [2]packet.Tag{}, true},
		{outer, [2]packet.Tag{{Protocol: 0x88A8, ID: 5}}, true},
		{inner, [2]packet.Tag{{Protocol: 0x88A8, ID: 5}, {Protocol: 0x8100, ID: 6}}, true},
		{third, [2]packet.Tag{}, false},
		{lost, [2]packet.Tag{}, false},
	} {
		var i Info
		l, err := i.below(c.from, byIndex)
		if (err == nil) != c.ok || i.Tags != c.tags || c.ok && l != netlink.Link(device) {
			t.Errorf("from %d: %v, tags %v, %v", c.from.Attrs().Index, l, i.Tags, err)
		}
	}
}

func TestQueuesOfSpread(t *testing.T) {
	i := Info{RXQueues: 3, Spread: []uint32{0, 2, 0, 7}}
	if got := i.QueuesOfSpread(); len(got) != 3 || !got[0] || got[1] || !got[2] {
		t.Error(got)
	}
	if i.Spread = nil; i.QueuesOfSpread() != nil {
		t.Error("queues without a table")
	}
}
