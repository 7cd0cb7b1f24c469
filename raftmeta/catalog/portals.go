package catalog

import (
	"net"
	"slices"
	"strconv"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// PortalsMax bounds the addresses of a node for each use.
const PortalsMax = 16

// Portals is where a node is reached, each HOST:PORT, the preferred ones first.
type Portals struct {
	ISCSI     []string
	NVMe      []string
	Discovery []string // of NVMe
	Data      []string // of the network between nodes
}

// Equal reports whether p and o are the same.
func (p Portals) Equal(o Portals) bool {
	return slices.Equal(p.ISCSI, o.ISCSI) && slices.Equal(p.NVMe, o.NVMe) && slices.Equal(p.Discovery, o.Discovery) && slices.Equal(p.Data, o.Data)
}

func (f *fold) setNodePortals(c *catalogpb.SetNodePortals) error {
	id, _ := idFrom(c.GetNode())
	i := slices.IndexFunc(f.Nodes, func(n Node) bool { return n.ID == id })
	if i < 0 {
		return refuse(ErrNotFound, "no node with id %s", id)
	}
	n := f.Nodes[i]
	n.Portals = portalsFrom(c.GetPortals())
	for _, list := range [][]string{n.Portals.ISCSI, n.Portals.NVMe, n.Portals.Discovery, n.Portals.Data} {
		if len(list) > PortalsMax {
			return refuse(ErrInvalid, "node %q: %d portals of a kind: at most %d", n.Name, len(list), PortalsMax)
		}
		for _, address := range list {
			if !validPortal(address) {
				return refuse(ErrInvalid, "node %q: portal %q: want HOST:PORT of at most %d bytes", n.Name, clip(address), addressMax)
			}
		}
	}
	f.Nodes = replaced(f.Nodes, i, n)
	f.did("node.portals", n.Name, "iscsi %q, nvme %q, discovery %q, data %q", n.Portals.ISCSI, n.Portals.NVMe, n.Portals.Discovery, n.Portals.Data)
	return nil
}

func validPortal(address string) bool {
	host, port, err := net.SplitHostPort(address)
	n, numErr := strconv.ParseUint(port, 10, 16)
	return err == nil && numErr == nil && n > 0 && host != "" && len(address) <= addressMax
}

func portalsTo(p Portals) *catalogpb.Portals {
	if p.Equal(Portals{}) {
		return nil
	}
	return &catalogpb.Portals{Iscsi: p.ISCSI, Nvme: p.NVMe, Discovery: p.Discovery, Data: p.Data}
}

func portalsFrom(e *catalogpb.Portals) Portals {
	return Portals{ISCSI: slices.Clone(e.GetIscsi()), NVMe: slices.Clone(e.GetNvme()), Discovery: slices.Clone(e.GetDiscovery()), Data: slices.Clone(e.GetData())}
}
