package nvme

import (
	"fmt"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// VolumeID names a volume; see package target/identity for what follows from it.
type VolumeID = [16]byte

// NamespaceConfig is one namespace: a volume.
type NamespaceConfig struct {
	ID     VolumeID
	Name   string // the volume's name, for events
	Device blockdev.Device
	// Access is the namespace's state through every port. It decides the ANA
	// group unless ANAGroup does.
	Access access.State
	// ANAGroup is the ANA group the namespace is in, 1 and up; 0 means the one
	// for Access. Groups 1 to 4 are those of the access states in their order,
	// where Config.ANAGroups does not say otherwise: so the number of groups
	// never changes under a host, and a namespace whose state changes moves.
	ANAGroup uint32
	// Shared says that other nodes serve the volume, too: a device that is busy is one without an owner, and
	// hosts are told that the path is to blame.
	Shared bool
	// Protect is the namespace's write protection.
	Protect access.Protection
	// WriteCache says that completed writes may sit in a volatile cache until
	// a flush. Without it every write is durable before it completes.
	WriteCache bool
}

// ANAState is an asymmetric namespace access state (NVMe Base 2.0 §8.1.3).
type ANAState uint8

// The asymmetric namespace access states.
const (
	ANAOptimized    ANAState = 0x1
	ANANonOptimized ANAState = 0x2
	ANAInaccessible ANAState = 0x3
	ANAPersistent   ANAState = 0x4 // Persistent Loss
	ANAChange       ANAState = 0xf
)

// ANAGroup is the state of an ANA group.
type ANAGroup struct {
	ID uint32 // 1 and up
	// State is the group's state through every port; 0 means optimized.
	State ANAState
	// Ports overrides State for single ports, by Port.ID.
	Ports map[uint16]ANAState
}

// View maps NSIDs, 1 to NSIDMax, to volumes.
type View map[uint32]VolumeID

// NSIDMax is the largest NSID that a View may use, NN in Identify Controller:
// LUN n is NSID n+1.
const NSIDMax = 1 << 14

// AddressFamily is the ADRFAM of a discovery log page entry.
type AddressFamily uint8

// The address families.
const (
	IPv4 AddressFamily = 1
	IPv6 AddressFamily = 2
)

// Port is a transport address through which hosts reach a subsystem. All are
// NVMe/TCP without TLS.
type Port struct {
	ID      uint16 // PORTID
	Family  AddressFamily
	Addr    string // TRADDR: an IP address, at most 256 bytes
	Service string // TRSVCID: a TCP port, at most 32 bytes
}

// Config is what a Subsystem serves to whom. A Subsystem keeps no reference
// to its maps after New or Configure returns.
type Config struct {
	NQN      string // of the NVM subsystem
	Serial   string // at most 20 ASCII characters; must not change while hosts are connected
	Model    string // at most 40; empty means "blockd"
	Firmware string // at most 8; empty means "1"

	Namespaces []NamespaceConfig
	// Views gives each host, by its NQN, the namespaces it sees. AnyView is
	// added for everyone; a host's own view wins where both have an NSID. A
	// host that sees nothing is refused at Connect.
	Views   map[string]View
	AnyView View
	// Hosts are allowed to connect although they see nothing yet.
	Hosts []string

	ANAGroups []ANAGroup // groups of namespaces not listed are those of access states, or optimized

	Ports          []Port // of the NVM subsystem, in the discovery log page
	DiscoveryPorts []Port // where the discovery subsystem itself listens
	Referrals      []Port // other discovery subsystems

	// MaxIOQueues bounds the I/O queues of a controller; 0 means 128.
	MaxIOQueues int
	// MaxQueueEntries bounds the size of a queue; 0 means 1024, at most 65535.
	MaxQueueEntries int
	// MaxControllers bounds the controllers that exist at once, of which each
	// host may have 1/4; 0 means 1024.
	MaxControllers int
	// ControllerIDMin and Max bound the controller ids that this node gives
	// out, so that nodes which serve one subsystem together don't clash. 0
	// means 1 and FFEFh.
	ControllerIDMin, ControllerIDMax uint16
}

// Deps is what a Subsystem needs from outside. Arena is required.
type Deps struct {
	Arena *arena.Arena // for commands that move data without a host buffer
	// Reservations keeps reservations, shared with SCSI; nil keeps them in
	// memory.
	Reservations reservation.Backend
	// Protect keeps the write protection (feature 84h) that a host sets, durably,
	// from then on has it in NamespaceConfig.Protect, and returns when that was
	// configured; or fails. Hosts set Protected and Unprotected only: the other
	// two can't be taken back by any host, so they are for administrators. It may
	// block, and call Configure. nil means that hosts are not offered it.
	Protect func(volume VolumeID, hostNQN string, p access.Protection) error
	// Now is the clock of keep-alive, monotonic; nil means time.Now.
	Now func() time.Time
	// Events gets what happened, from any goroutine; it must not block. nil
	// drops the events.
	Events func(Event)
}

// Event is something that the owner of a Subsystem may want to log or count.
type Event struct {
	Kind    EventKind
	Volume  VolumeID // zero when the event is not about one namespace
	HostNQN string   // empty when the event is not about one host
	CNTLID  uint16
	Text    string // in words
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	EventDeviceError EventKind = iota + 1 // a device failed a request: medium, hardware, gone
	EventConnected                        // a host's controller was created
	EventEnded                            // a controller ended; Text says why
)

// Validate reports the first thing in c that can't be served, by name.
func (c *Config) Validate() error {
	if err := validNQN(c.NQN); err != nil {
		return fmt.Errorf("nvme: subsystem: %w", err)
	}
	for _, s := range []struct {
		what, val string
		max       int
	}{{"serial number", c.Serial, 20}, {"model", c.Model, 40}, {"firmware revision", c.Firmware, 8}} {
		if len(s.val) > s.max || !printable(s.val) {
			return fmt.Errorf("nvme: %s %q must be at most %d printable ASCII characters", s.what, s.val, s.max)
		}
	}
	volumes := make(map[VolumeID]bool, len(c.Namespaces))
	for i := range c.Namespaces {
		n := &c.Namespaces[i]
		if volumes[n.ID] {
			return fmt.Errorf("nvme: volume %x is configured twice", n.ID)
		}
		volumes[n.ID] = true
		if n.Device == nil {
			return fmt.Errorf("nvme: volume %x (%s) has no device", n.ID, n.Name)
		}
		if !n.Access.Valid() || !n.Protect.Valid() {
			return fmt.Errorf("nvme: volume %x (%s): access state %d or protection %d is unknown", n.ID, n.Name, n.Access, n.Protect)
		}
		if g := n.Device.Geometry(); g.BlockSize != 512 && g.BlockSize != 4096 {
			return fmt.Errorf("nvme: volume %x (%s): block size is %d, must be 512 or 4096", n.ID, n.Name, g.BlockSize)
		}
	}
	if err := validView("everyone", c.AnyView, volumes); err != nil {
		return err
	}
	for who, v := range c.Views {
		if err := validView(who, v, volumes); err != nil {
			return err
		}
	}
	groups := make(map[uint32]bool, len(c.ANAGroups))
	for _, g := range c.ANAGroups {
		if g.ID == 0 || groups[g.ID] {
			return fmt.Errorf("nvme: ANA group %d is zero or configured twice", g.ID)
		}
		groups[g.ID] = true
		states := []ANAState{g.State}
		for _, s := range g.Ports {
			states = append(states, s)
		}
		for _, s := range states {
			if !s.valid() {
				return fmt.Errorf("nvme: ANA group %d has the unknown state %#x", g.ID, uint8(s))
			}
		}
	}
	if err := c.validLimits(); err != nil {
		return err
	}
	for _, list := range [][]Port{c.Ports, c.DiscoveryPorts, c.Referrals} {
		for _, p := range list {
			if p.Addr == "" || len(p.Addr) > 256 || p.Service == "" || len(p.Service) > 32 || p.Family != IPv4 && p.Family != IPv6 {
				return fmt.Errorf("nvme: port %d: address %q, service %q and family %d must be an IP address, a TCP port and 1 or 2", p.ID, p.Addr, p.Service, p.Family)
			}
		}
	}
	return nil
}

func (c *Config) validLimits() error {
	for _, l := range []struct {
		what string
		val  int
		max  int
	}{
		{"MaxIOQueues", c.MaxIOQueues, 65534},
		{"MaxQueueEntries", c.MaxQueueEntries, 65535},
		{"MaxControllers", c.MaxControllers, 65519},
	} {
		if l.val < 0 || l.val > l.max {
			return fmt.Errorf("nvme: %s is %d, must be 0 to %d", l.what, l.val, l.max)
		}
	}
	if c.ControllerIDMax > cntlidLast || c.ControllerIDMax != 0 && c.ControllerIDMin > c.ControllerIDMax {
		return fmt.Errorf("nvme: controller ids %d to %d are no range within 1 to %d", c.ControllerIDMin, c.ControllerIDMax, cntlidLast)
	}
	return nil
}

func (s ANAState) valid() bool {
	switch s {
	case 0, ANAOptimized, ANANonOptimized, ANAInaccessible, ANAPersistent, ANAChange:
		return true
	}
	return false
}

func validView(who string, v View, volumes map[VolumeID]bool) error {
	for nsid, id := range v {
		if nsid == 0 || nsid > NSIDMax {
			return fmt.Errorf("nvme: NSID %d of %s is not within 1 to %d", nsid, who, NSIDMax)
		}
		if !volumes[id] {
			return fmt.Errorf("nvme: NSID %d of %s is volume %x, which is not configured", nsid, who, id)
		}
	}
	return nil
}

// nqnMax is the longest NQN in bytes (NVMe Base 2.0 §4.5).
const nqnMax = 223

// validNQN checks the form that every NQN has: it begins "nqn." and is at most
// 223 bytes of UTF-8 without control characters.
func validNQN(s string) error {
	if len(s) < 5 || len(s) > nqnMax || s[:4] != "nqn." {
		return fmt.Errorf("%q is no NQN: it must begin with nqn. and have at most %d bytes", s, nqnMax)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == 0x7f {
			return fmt.Errorf("NQN %q has a control character", s)
		}
	}
	return nil
}

// printable reports whether s is an ASCII string (NVMe Base 2.0 §1.4.2).
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
