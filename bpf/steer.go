package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// Mode says where the kernel runs an XDP program.
type Mode uint8

// The modes. Offload to a NIC's own processor is not among them: there, no
// frame can be redirected to a socket.
const (
	Auto    Mode = iota // native where the driver can, else generic
	Native              // in the driver, before the kernel has built anything
	Generic             // after the kernel has built an skb: any interface can
)

// String returns the mode's name as configuration spells it.
func (m Mode) String() string {
	switch m {
	case Auto:
		return "auto"
	case Native:
		return "native"
	case Generic:
		return "generic"
	}
	return "invalid"
}

// Defaults and limits of Config.
const (
	LocalsMax         = 16
	DefaultPeersMax   = 1024
	DefaultExtentsMax = 16384
)

// Config says what to steer. Zero values mean the documented defaults.
type Config struct {
	// Interface is the index of the NIC, in the network namespace of the
	// calling thread. For a VLAN it is the interface underneath, where frames
	// still have their tags. Required.
	Interface int
	// Port is the UDP port of the cluster. Required.
	Port uint16
	// Local lists the addresses of this node that Port is on, 1 to LocalsMax.
	// What is sent to the port at another address (of a virtual machine behind
	// a bridge, say) passes to the kernel.
	Local []netip.Addr
	// Mode is where to run. With Auto, Steer.Mode tells what it came to.
	Mode Mode
	// PeersMax is the size of the allowlist. Default DefaultPeersMax.
	PeersMax int
	// CountExtents counts packets by their hint (see HintFlag).
	CountExtents bool
	// ExtentsMax is for how many extents there is room; the one that was
	// touched least recently is forgotten. Default DefaultExtentsMax.
	ExtentsMax int
}

func (c Config) validate() error {
	if c.Interface <= 0 {
		return fmt.Errorf("bpf: Config.Interface is %d; want the index of an interface", c.Interface)
	}
	if c.Port == 0 {
		return errors.New("bpf: Config.Port is 0; want the cluster's UDP port")
	}
	if len(c.Local) == 0 || len(c.Local) > LocalsMax {
		return fmt.Errorf("bpf: Config.Local has %d addresses; want 1 to %d", len(c.Local), LocalsMax)
	}
	for _, a := range c.Local {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("bpf: Config.Local has %v; want the node's own unicast addresses", a)
		}
	}
	if c.Mode > Generic {
		return fmt.Errorf("bpf: Config.Mode is %d; want Auto, Native or Generic", c.Mode)
	}
	if c.PeersMax < 0 || c.ExtentsMax < 0 {
		return fmt.Errorf("bpf: Config.PeersMax is %d, ExtentsMax %d; want 0 for the default, or more", c.PeersMax, c.ExtentsMax)
	}
	return nil
}

// Steer is the steering program of one NIC, loaded and attached, with its
// tables. Its methods may be called from any goroutine, at the same time, until
// Close. Peers that are not allowed by AllowPeer are dropped: a fresh Steer
// drops all that comes to the port.
type Steer struct {
	maps     steerMaps
	program  *ebpf.Program
	link     link.Link
	mode     Mode
	frags    bool
	queues   int
	peersMax int
}

// LoadSteer loads the program, fills its tables and attaches it to the NIC.
// From then on it is in effect until Close, or until the process ends in
// whatever way.
//
// Errors: ErrBusy when the NIC has an XDP program already, ErrPermission,
// ErrUnsupported when the kernel or, with Mode Native, the driver can't; each
// text says what to do.
func LoadSteer(c Config) (*Steer, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	nic, err := netlink.LinkByIndex(c.Interface)
	if err != nil {
		return nil, fmt.Errorf("bpf: interface %d: %w", c.Interface, err)
	}
	s, programs, err := c.load(nic.Attrs().NumRxQueues)
	if err != nil {
		return nil, err
	}
	if err := s.attach(c, nic.Attrs(), programs); err != nil {
		return nil, errors.Join(err, programs.close(), s.maps.Close())
	}
	return s, nil
}

// programPair is the same program twice. Exactly one ends up attached.
type programPair struct {
	frags *ebpf.Program // for frames over several buffers; nil before Linux 5.18
	plain *ebpf.Program
}

func (p programPair) close() error { return errors.Join(p.frags.Close(), p.plain.Close()) }

// load puts maps and programs into the kernel, attached to nothing.
func (c Config) load(queues int) (*Steer, programPair, error) {
	var programs programPair
	spec, err := loadSteer()
	if err != nil {
		return nil, programs, fmt.Errorf("bpf: %w", err)
	}
	s := &Steer{queues: max(queues, 1), peersMax: cmp.Or(c.PeersMax, DefaultPeersMax)}
	spec.Maps[steerMapSockets].MaxEntries = uint32(s.queues)
	spec.Maps[steerMapQueues].MaxEntries = uint32(s.queues)
	spec.Maps[steerMapLocals].MaxEntries = LocalsMax
	spec.Maps[steerMapPeers].MaxEntries = uint32(s.peersMax)
	spec.Maps[steerMapExtents].MaxEntries = 1
	if c.CountExtents {
		spec.Maps[steerMapExtents].MaxEntries = uint32(cmp.Or(c.ExtentsMax, DefaultExtentsMax))
	}
	if err := errors.Join(
		spec.Variables[steerVarClusterPort].Set([2]byte{byte(c.Port >> 8), byte(c.Port)}),
		spec.Variables[steerVarCountExtents].Set(c.CountExtents),
	); err != nil {
		return nil, programs, fmt.Errorf("bpf: %w", err)
	}
	if err := allowLockedMemory(); err != nil {
		return nil, programs, err
	}
	collection, err := newCollection(spec, steerProgSteerFrags)
	if err != nil {
		return nil, programs, err
	}
	defer collection.Close()
	if err := collection.Assign(&s.maps); err != nil {
		return nil, programs, fmt.Errorf("bpf: %w", err)
	}
	programs.frags = collection.DetachProgram(steerProgSteerFrags)
	programs.plain = collection.DetachProgram(steerProgSteer)
	for _, a := range c.Local {
		if err := s.maps.Locals.Put(keyOf(a), uint64(0)); err != nil {
			return nil, programs, errors.Join(fmt.Errorf("bpf: local address %v: %w", a, err), programs.close(), s.maps.Close())
		}
	}
	return s, programs, nil
}

// attach hangs one of the programs on the NIC, the best that it takes, and
// closes the other.
func (s *Steer) attach(c Config, nic *netlink.LinkAttrs, programs programPair) error {
	rungs := []struct {
		mode    Mode
		program *ebpf.Program
		flags   link.XDPAttachFlags
	}{
		{Native, programs.frags, link.XDPDriverMode},
		{Native, programs.plain, link.XDPDriverMode},
		{Generic, programs.frags, link.XDPGenericMode},
		{Generic, programs.plain, link.XDPGenericMode},
	}
	var reasons []error
	for _, r := range rungs {
		if r.program == nil || c.Mode != Auto && c.Mode != r.mode {
			continue
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: r.program, Interface: c.Interface, Flags: r.flags})
		if err != nil {
			err = explainAttach(err, nic, r.mode)
			if errors.Is(err, ErrBusy) || errors.Is(err, ErrPermission) {
				return err // the other rungs would fail alike
			}
			reasons = append(reasons, err)
			continue
		}
		s.link, s.program, s.mode, s.frags = l, r.program, r.mode, r.program == programs.frags
		if s.frags {
			return programs.plain.Close()
		}
		return programs.frags.Close()
	}
	return errors.Join(reasons...)
}

// Mode returns where the program runs: Native or Generic.
func (s *Steer) Mode() Mode { return s.mode }

// Frags tells whether frames over several buffers are redirected too. If not, a
// driver may refuse an MTU over about 3,500 bytes while the program is attached.
func (s *Steer) Frags() bool { return s.frags }

// Queues returns how many receive queues the NIC may have: queues are numbered
// from 0 to one less.
func (s *Steer) Queues() int { return s.queues }

// Close takes the program off the NIC and frees it with its tables. Frames
// that come later pass to the kernel; registered sockets stay open.
func (s *Steer) Close() error {
	if err := errors.Join(s.link.Close(), s.program.Close(), s.maps.Close()); err != nil {
		return fmt.Errorf("bpf: close: %w", err)
	}
	return nil
}
