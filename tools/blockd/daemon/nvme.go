package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
)

// nvmeTarget is what serves hosts over NVMe/TCP. Without the role target, or
// without ports, it is empty.
type nvmeTarget struct {
	subsystem *nvme.Subsystem
	server    *nvmetcp.Server
	ports     []net.Listener // of the subsystem; port i has the id portID(i)
	discovery []net.Listener

	idMin, idMax uint16 // of controllers; zero: all that there are
}

// The controllers of a subsystem have distinct ids, also on different nodes: a
// host refuses a second controller with an id that it knows. So each node has a
// slot of them: slot i has ids from i*idsPerSlot+1 on.
const (
	idSlots    = 64
	idsPerSlot = 1000
)

// controllerSlot is the slot of the node with the identifier id. Nodes choose
// in the order in which they came, each the one that its identifier names, or the next
// free one, so that a new node changes nothing for those before it. With more
// nodes than slots some share one.
func controllerSlot(nodes []catalog.Node, id catalog.ID) int {
	byAge := slices.SortedFunc(slices.Values(nodes), func(a, b catalog.Node) int {
		return cmp.Or(a.Created.Compare(b.Created), slices.Compare(a.ID[:], b.ID[:]))
	})
	var taken [idSlots]bool
	for count, n := range byAge {
		slot := int(n.ID[0]) % idSlots
		for count < idSlots && taken[slot] {
			slot = (slot + 1) % idSlots
		}
		taken[slot] = true
		if n.ID == id {
			return slot
		}
	}
	return int(id[0]) % idSlots
}

// stop ends the connections and closes the ports.
func (t *nvmeTarget) stop(ctx context.Context) error {
	var errs []error
	if t.server != nil {
		if err := t.server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, err)
		}
	}
	for _, l := range append(t.ports[:len(t.ports):len(t.ports)], t.discovery...) {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close lets go of the volumes.
func (t *nvmeTarget) close() {
	if t.subsystem != nil {
		t.subsystem.Close()
	}
}

func (d *Daemon) startNVMe(ctx context.Context, s *catalog.State) error {
	if len(d.nvme.ports) == 0 {
		return nil
	}
	if d.plane.creds != nil {
		d.nvme.idMin = uint16(controllerSlot(s.Nodes, d.plane.id())*idsPerSlot + 1)
		d.nvme.idMax = d.nvme.idMin + idsPerSlot - 1
	}
	var err error
	d.nvme.subsystem, err = nvme.NewSubsystem(d.nvmeConfig(s), nvme.Deps{
		Arena: d.arena, Reservations: d.reservations, Protect: d.protectFor(ctx), Events: d.nvmeEvent})
	if err != nil {
		return err
	}
	d.nvme.server, err = nvmetcp.New(nvmetcp.Config{
		Subsystem: d.nvme.subsystem, Arena: d.arena, Auth: directory{d.catalog}, DiscoveryAuth: d.cfg.DiscoveryAuth, Soon: d.soon, Events: d.nvmetcpEvent})
	return err
}

// configureNVMe shows the hosts what the catalog says, and ends the
// controllers of those that are not allowed any more.
func (d *Daemon) configureNVMe(s *catalog.State) error {
	if d.nvme.server == nil {
		return nil
	}
	err := d.nvme.subsystem.Configure(d.nvmeConfig(s))
	allowed := directory{d.catalog}
	d.nvme.server.Drop(errNotAllowedNow, func(i nvmetcp.SessionInfo) bool {
		_, err := allowed.NVMeHost(i.HostNQN)
		return !i.Discovery && errors.Is(err, auth.ErrNotAllowed)
	})
	return err
}

// nvmeConfig is what the catalog says, less what hosts can't be shown.
func (d *Daemon) nvmeConfig(s *catalog.State) nvme.Config {
	cfg := nvme.Config{NQN: s.NQN, Serial: s.ClusterID.String()[:8] + s.ClusterID.String()[9:13], Views: map[string]nvme.View{}}
	cfg.ControllerIDMin, cfg.ControllerIDMax = d.nvme.idMin, d.nvme.idMax
	open := map[catalog.ID]bool{}
	for i := range s.Volumes {
		cv := &s.Volumes[i]
		if v, ok := d.shown(cv); ok {
			open[cv.ID] = true
			cfg.Namespaces = append(cfg.Namespaces, nvme.NamespaceConfig{ID: cv.ID, Name: cv.Name, Device: v.dev,
				Access: d.volumes.accessOf(cv.ID), Shared: shared(s, cv), Protect: protections[cv.Protection]})
		}
	}
	view := func(host catalog.ID) nvme.View {
		out := nvme.View{}
		for lun, id := range s.View(host) {
			if open[id] {
				out[uint32(lun)+1] = id
			}
		}
		return out
	}
	cfg.AnyView = view(catalog.ID{})
	for i := range s.Hosts {
		if h := &s.Hosts[i]; h.NQN != "" {
			cfg.Views[h.NQN] = view(h.ID)
			cfg.Hosts = append(cfg.Hosts, h.NQN)
		}
	}
	for i, l := range d.nvme.ports {
		cfg.Ports = append(cfg.Ports, nvmePorts(l.Addr(), portID(d.portNumber(), i))...)
	}
	for _, l := range d.nvme.discovery {
		cfg.DiscoveryPorts = append(cfg.DiscoveryPorts, nvmePorts(l.Addr(), 0)...)
	}
	ports, discovery := d.nvmeElsewhere(s)
	cfg.Ports = append(cfg.Ports, ports...)
	cfg.Referrals = append(cfg.Referrals, discovery...)
	return cfg
}

// nvmePorts are the addresses at which hosts reach a listener: its own, or,
// for one on every address, those of the machine that others can reach.
func nvmePorts(a net.Addr, id uint16) []nvme.Port {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return nil
	}
	ips := []net.IP{t.IP}
	if t.IP.IsUnspecified() {
		ips = nil
		addrs, _ := net.InterfaceAddrs() // without any, loopback is left
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				ips = append(ips, n.IP)
			}
		}
		if len(ips) == 0 {
			ips = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
	}
	var out []nvme.Port
	for _, ip := range ips {
		out = append(out, nvmePortAt(ip, fmt.Sprint(t.Port), id))
	}
	return out
}

func nvmePortAt(ip net.IP, service string, id uint16) nvme.Port {
	p := nvme.Port{ID: id, Family: nvme.IPv6, Addr: ip.String(), Service: service}
	if ip.To4() != nil {
		p.Family = nvme.IPv4
	}
	return p
}

// NVMeHost lets in the hosts of the catalog, with DH-HMAC-CHAP where they have
// it, and others only while something is mapped to any host.
func (d directory) NVMeHost(nqn string) (auth.NVMePolicy, error) {
	s := d.catalog.State()
	h := s.HostByNQN(nqn)
	if h == nil {
		if len(s.View(catalog.ID{})) == 0 {
			return auth.NVMePolicy{}, auth.ErrNotAllowed
		}
		return auth.NVMePolicy{}, nil
	}
	var p auth.NVMePolicy
	open, err := d.catalog.Unseal(h)
	if err != nil {
		return auth.NVMePolicy{}, fmt.Errorf("host %s: %w", h.Name, err)
	}
	for _, k := range []struct {
		text string
		to   *auth.DHKey
	}{{open.DHChap.Key, &p.Host}, {open.DHChap.ControllerKey, &p.Controller}} {
		if k.text == "" {
			continue
		}
		key, err := auth.ParseDHKey(k.text)
		if err != nil {
			return auth.NVMePolicy{}, fmt.Errorf("host %s: %w", h.Name, err)
		}
		*k.to = key
	}
	return p, nil
}

func (d *Daemon) nvmeEvent(e nvme.Event) {
	subject := cmp.Or(e.HostNQN, catalog.ID(e.Volume).String())
	if v := d.catalog.State().VolumeByID(e.Volume); v != nil {
		subject = v.Name
	}
	switch e.Kind {
	case nvme.EventDeviceError:
		if d.errorGate.pass("nvme " + subject) {
			d.events.add(levelError, "volume.error", subject, e.Text)
		}
	case nvme.EventConnected:
		d.events.add(levelInfo, "nvme.controller", subject, fmt.Sprintf("%s, id %d", e.Text, e.CNTLID))
	case nvme.EventEnded:
		d.events.add(levelInfo, "nvme.controller-ended", subject, fmt.Sprintf("%s, id %d", e.Text, e.CNTLID))
	}
}

func (d *Daemon) nvmetcpEvent(e nvmetcp.Event) {
	subject := cmp.Or(e.HostNQN, "unknown host")
	lv := levelInfo
	switch e.Kind {
	case nvmetcp.EventConnected, nvmetcp.EventDisconnected:
		if e.QID != 0 {
			return // the admin queue stands for the others
		}
	default:
		lv = levelWarning
		if !d.errorGate.pass(e.Kind.String() + subject) {
			return
		}
	}
	text := fmt.Sprintf("queue %d from %v", e.QID, e.Remote)
	if e.Discovery {
		text = "discovery " + text
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	d.events.add(lv, "nvme."+e.Kind.String(), subject, text)
}

// nvmeControllersOf counts the controllers of a host.
func (d *Daemon) nvmeControllersOf(nqn string) uint32 {
	if d.nvme.subsystem == nil || nqn == "" {
		return 0
	}
	n := uint32(0)
	for _, c := range d.nvme.subsystem.Controllers() {
		if c.HostNQN == nqn && !c.Discovery {
			n++
		}
	}
	return n
}

// nvmeSessions lists the controllers of connected hosts: what a session is to
// iSCSI. Queues of a controller come together and the admin queue first.
func (d *Daemon) nvmeSessions(s *catalog.State) []*blockdv1.Session {
	if d.nvme.server == nil {
		return nil
	}
	digest := map[bool]string{true: "CRC32C", false: "None"}
	alive := map[uint16]nvme.ControllerInfo{}
	for _, c := range d.nvme.subsystem.Controllers() {
		alive[c.ID] = c
	}
	var out []*blockdv1.Session
	last := uint16(0)
	for _, i := range d.nvme.server.Sessions() {
		if len(out) > 0 && last == i.CNTLID {
			out[len(out)-1].Commands += uint32(i.Stats.InFlight)
			continue
		}
		last = i.CNTLID
		kind := "I/O"
		if i.Discovery {
			kind = "Discovery"
		}
		c := alive[i.CNTLID]
		e := &blockdv1.Session{Id: fmt.Sprint(i.CNTLID), Protocol: "nvme-tcp", Initiator: i.HostNQN,
			RemoteAddress: i.Remote.String(), LocalAddress: i.Local.String(), Since: timeText(i.Since),
			Commands: uint32(i.Stats.InFlight), Parameters: map[string]string{
				"ControllerType": kind, "IOQueues": fmt.Sprint(c.IOQueues), "AdminQueueEntries": fmt.Sprint(i.Entries),
				"KeepAlive": c.KeepAlive.String(), "HostID": fmt.Sprintf("%x", c.HostID), "HeaderDigest": digest[i.HeaderDigest],
				"DataDigest": digest[i.DataDigest], "Authenticated": fmt.Sprint(i.Authenticated)}}
		if h := s.HostByNQN(i.HostNQN); h != nil {
			e.Host = h.Name
		}
		out = append(out, e)
	}
	return out
}
