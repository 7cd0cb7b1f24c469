package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/group"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/nvme"
)

// Each node is a port of the one target: one target portal group, whose tag is
// the relative target port identifier too. So hosts tell the paths to a volume apart.

// portNumber is that of this node: its number in the cluster, and 1 for a node that is alone.
func (d *Daemon) portNumber() uint16 {
	if n := d.catalog.State().NodeByID(d.plane.id()); n != nil && n.Number != 0 {
		return n.Number
	}
	return 1
}

// ownPortals are the addresses of this node, as others reach them.
func (d *Daemon) ownPortals() catalog.Portals {
	var p catalog.Portals
	for _, l := range d.portals {
		p.ISCSI = append(p.ISCSI, reachedAt(l.Addr())...)
	}
	for _, l := range d.nvme.ports {
		p.NVMe = append(p.NVMe, reachedAt(l.Addr())...)
	}
	for _, l := range d.nvme.discovery {
		p.Discovery = append(p.Discovery, reachedAt(l.Addr())...)
	}
	if d.shared.Load() != nil {
		p.Data = []string{d.shared.Load().network.local.String()}
	}
	return p
}

// reachedAt are the addresses of a listener, as HOST:PORT.
func reachedAt(a net.Addr) []string {
	var out []string
	for _, p := range nvmePorts(a, 0) {
		out = append(out, net.JoinHostPort(p.Addr, p.Service))
	}
	return out
}

// announceEvery is the time between two attempts. While nodes of an older
// release are in the cluster, which don't understand it, it is refused.
const announceEvery = 2 * time.Second

// announceLoop tells the catalog where the node is reached, until it knows.
func (d *Daemon) announceLoop(ctx context.Context) {
	id, want := d.plane.id(), d.ownPortals()
	for {
		n := d.catalog.State().NodeByID(id)
		if n == nil || n.Number != 0 && n.Portals.Equal(want) {
			return
		}
		_, err := d.doContext(ctx, nil, &catalogpb.Command{Kind: &catalogpb.Command_SetNodePortals{SetNodePortals: &catalogpb.SetNodePortals{
			Node: id[:], Portals: &catalogpb.Portals{Iscsi: want.ISCSI, Nvme: want.NVMe, Discovery: want.Discovery, Data: want.Data}}}})
		if err == nil {
			return
		}
		if !errors.Is(err, group.ErrGate) && ctx.Err() == nil && d.errorGate.pass("announce") {
			d.events.add(levelWarning, "node.announce", d.nodeName(), err.Error())
		}
		select {
		case <-time.After(announceEvery):
		case <-ctx.Done():
			return
		}
	}
}

// portalsElsewhere are the iSCSI portals of the other nodes.
func (d *Daemon) portalsElsewhere(s *catalog.State) []iscsi.Portal {
	var out []iscsi.Portal
	for _, n := range d.otherNodes(s) {
		for _, a := range n.Portals.ISCSI {
			out = append(out, iscsi.Portal{Address: a, TPGT: n.Number})
		}
	}
	return out
}

// portsPerNode is how many NVMe port ids a node has.
const portsPerNode = 64

// portID is the NVMe port id of listener i of the node with a number.
func portID(node uint16, i int) uint16 {
	return (max(node, 1)-1)*portsPerNode + uint16(i%portsPerNode) + 1
}

// nvmeElsewhere are the NVMe/TCP ports and discovery ports of the other nodes.
func (d *Daemon) nvmeElsewhere(s *catalog.State) (ports, discovery []nvme.Port) {
	for _, n := range d.otherNodes(s) {
		for j, a := range n.Portals.NVMe {
			if p, ok := nvmePort(a, portID(n.Number, j)); ok {
				ports = append(ports, p)
			}
		}
		for _, a := range n.Portals.Discovery {
			if p, ok := nvmePort(a, 0); ok {
				discovery = append(discovery, p)
			}
		}
	}
	return ports, discovery
}

// nvmePort reads HOST:PORT.
func nvmePort(address string, id uint16) (nvme.Port, bool) {
	host, service, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	if err != nil || ip == nil {
		return nvme.Port{}, false
	}
	if _, err := strconv.ParseUint(service, 10, 16); err != nil {
		return nvme.Port{}, false
	}
	return nvmePortAt(ip, service, id), true
}

// portName is the SCSI name of the target port of this node.
func (d *Daemon) portName(iqn string) string { return fmt.Sprintf("%s,t,0x%04x", iqn, d.portNumber()) }
