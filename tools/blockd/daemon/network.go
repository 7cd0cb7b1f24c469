package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/udplink"
	"blockd.dev/afxdp/xdplink"
	"blockd.dev/blockdev/disk"
	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/turn"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/pki"
	"blockd.dev/replication/message"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/endpoint"
	"blockd.dev/replication/wire/secure"
)

// wirePort is where nodes send data to each other, unless told otherwise.
const wirePort = 7481

// idleAsk is how often a node that has sent nothing is asked whether it is there. With the
// 400 ms until its silence counts, a node knows of another's end before it can get its
// leases: a new owner that had to find out first would begin to serve 0.3 s later.
const idleAsk = 500 * time.Millisecond

// wireModes are what --wire-mode can be.
var wireModes = []string{"auto", "xdp-zerocopy", "xdp-copy", "xdp-generic", "udp"}

// network is the node's part of the network between nodes, on which the data
// of replicated volumes travels. A node that belongs to no cluster has none.
type network struct {
	endpoint *endpoint.Endpoint
	device   *xdplink.Device // nil where sockets carry it
	local    netip.AddrPort
	kind     link.Kind // of its links; docs/NETWORK.md calls it the mode
	reason   string    // why no better one
	end      sync.Once

	mu       sync.Mutex
	peers    map[catalog.ID]networkPeer // the other nodes
	admitted admitted                   // by device
}

type networkPeer struct {
	*endpoint.Peer
	addrs []netip.AddrPort
}

// openNetwork opens the wire address, in the best mode that the machine has. handle
// gets what other nodes ask for, told what becomes of connections to them.
func (d *Daemon) openNetwork(handle func(*endpoint.Request), told func(endpoint.Event)) (*network, error) {
	local, err := d.wireAddress()
	if err != nil {
		return nil, err
	}
	creds, err := wireCredentials(d.plane.creds)
	if err != nil {
		return nil, err
	}
	mode, err := adaptive.ParseMode(d.cfg.Poll)
	if err != nil {
		return nil, err
	}
	n := &network{local: local, peers: map[catalog.ID]networkPeer{}, admitted: admitted{}}
	n.endpoint, err = endpoint.Open(endpoint.Config{
		Credentials: creds, Handler: handle, Events: told, Poll: adaptive.Config{Mode: mode},
		Accept: func(node string) bool { return d.catalog.State().NodeByID(parseID(node)) != nil },
		Wire:   wire.Config{Alloc: message.Alloc, KeepAlive: max(idleAsk, d.cfg.patience), DeadAfter: d.cfg.patience}, Sources: d.sources(),
	})
	if err != nil {
		return nil, err
	}
	links, err := n.openLinks(d.cfg.WireMode)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network between nodes, %v: %w; choose another address with --wire, or another mode with --wire-mode", local, err), n.close())
	}
	for _, l := range links {
		if err := n.endpoint.AddLink(l); err != nil {
			return nil, errors.Join(err, n.close())
		}
	}
	d.events.add(levelInfo, "network.open", local.String(), cmp.Or(n.reason, "in mode "+n.kind.String()))
	return n, nil
}

// sources are the disks whose completions the pumps may take.
func (d *Daemon) sources() (list []endpoint.Source) {
	for _, s := range d.disks {
		if a := disk.AttendedOf(s.disk); a != nil {
			list = append(list, a)
		}
	}
	return list
}

// wireAddress is the address that other nodes send to: the configured one, or
// that of the control port with the port number of the wire.
func (d *Daemon) wireAddress() (netip.AddrPort, error) {
	if d.cfg.Wire == "" {
		a, err := resolve(d.cfg.API)
		return netip.AddrPortFrom(a.Addr(), wirePort), err
	}
	return resolve(d.cfg.Wire)
}

// resolve looks an address up, once: links are bound to numbers.
func resolve(address string) (netip.AddrPort, error) {
	a, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("wire address %q: %w", address, err)
	}
	ip := a.AddrPort()
	if ip.Addr().IsUnspecified() || !ip.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("wire address %q: other nodes can't send there; name one of the machine's addresses with --wire", address)
	}
	return netip.AddrPortFrom(ip.Addr().Unmap(), ip.Port()), nil
}

// wireCredentials are the node's in the form that the transport takes.
func wireCredentials(c *pki.Credentials) (*secure.Credentials, error) {
	config := c.ClientConfig("")
	cert, err := config.GetClientCertificate(nil)
	if err != nil {
		return nil, err
	}
	return &secure.Credentials{Cluster: c.Self().Cluster, Certificate: *cert, Roots: c.Bundle().Pool()}, nil
}

// renew has connections to come use the node's new certificate.
func (n *network) renew(c *pki.Credentials) error {
	creds, err := wireCredentials(c)
	if err != nil {
		return err
	}
	return n.endpoint.SetCredentials(creds)
}

// openLinks opens the links of the network, trying AF_XDP first where mode
// allows.
func (n *network) openLinks(mode string) ([]link.Link, error) {
	if mode != "udp" {
		links, err := n.openXDP(mode)
		if err == nil || mode != "auto" {
			return links, err
		}
		n.reason = fmt.Sprintf("in mode udp, since AF_XDP can't be had: %v", err)
	}
	n.kind = link.UDP
	l, err := udplink.Open(udplink.Config{Local: n.local})
	if err != nil {
		return nil, err
	}
	return []link.Link{l}, nil
}

func (n *network) openXDP(mode string) (_ []link.Link, err error) {
	cfg := xdplink.Config{Local: n.local.Addr(), Port: n.local.Port()}
	if cfg.Interface, err = interfaceOf(n.local.Addr()); err != nil {
		return nil, err
	}
	if mode != "auto" {
		if cfg.Mode, err = xdplink.ParseMode(mode[len("xdp-"):]); err != nil {
			return nil, err
		}
	}
	if n.device, err = xdplink.OpenDevice(cfg); err != nil {
		return nil, err
	}
	var links []link.Link
	for queue := range n.device.Queues() {
		l, err := n.device.Link(queue)
		if err != nil {
			for _, l := range links {
				err = errors.Join(err, l.Close())
			}
			err = errors.Join(err, n.device.Close())
			n.device = nil
			return nil, err
		}
		links = append(links, l)
	}
	n.kind = links[0].Kind()
	return links, nil
}

// interfaceOf is the interface that has an address.
func interfaceOf(a netip.Addr) (string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for i := range list {
		addrs, err := list[i].Addrs()
		if err != nil {
			return "", err
		}
		has := slices.ContainsFunc(addrs, func(e net.Addr) bool {
			p, err := netip.ParsePrefix(e.String())
			return err == nil && p.Addr() == a
		})
		switch {
		case has && list[i].Flags&net.FlagLoopback != 0:
			return "", fmt.Errorf("%v is of interface %s, and what goes there never leaves the kernel", a, list[i].Name)
		case has:
			return list[i].Name, nil
		}
	}
	return "", fmt.Errorf("no interface of this machine has the address %v", a)
}

// follow keeps a connection to each of the other nodes that the catalog has an
// address of.
func (n *network) follow(s *catalog.State, self catalog.ID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var errs []error
	for i := range s.Nodes {
		node := &s.Nodes[i]
		if node.ID == self {
			continue
		}
		var addrs []netip.AddrPort
		for _, text := range node.Portals.Data {
			if a, err := netip.ParseAddrPort(text); err == nil {
				addrs = append(addrs, a)
			}
		}
		p := n.peers[node.ID]
		if len(addrs) == 0 || slices.Equal(p.addrs, addrs) {
			continue
		}
		if n.device != nil {
			errs = append(errs, n.admitted.admit(n.device, addrs))
		}
		n.peers[node.ID] = networkPeer{n.endpoint.Peer(node.ID.String(), addrs...), addrs}
	}
	for id := range n.peers {
		if s.NodeByID(id) != nil {
			continue
		}
		n.endpoint.Forget(id.String())
		delete(n.peers, id)
	}
	if n.device != nil {
		errs = append(errs, n.admitted.only(n.device, n.peers))
	}
	return errors.Join(errs...)
}

// peer is another node; nil for one that is not known, or can't be reached.
func (n *network) peer(id catalog.ID) *endpoint.Peer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[id].Peer
}

// soon leaves a task to a pump of the network between nodes: turn.Soon.
func (d *Daemon) soon(t turn.Task) bool {
	s := d.shared.Load()
	return s != nil && s.network.endpoint.Soon(t)
}

// close takes leave of the other nodes. It may be called again.
func (n *network) close() (err error) {
	if n == nil {
		return nil
	}
	n.end.Do(func() {
		err = n.endpoint.Close()
		if n.device != nil {
			err = errors.Join(err, n.device.Close())
		}
	})
	return err
}
