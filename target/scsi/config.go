package scsi

import (
	"fmt"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/clock"
	"blockd.dev/target/access"
)

// UnitID names a volume; see package target/identity for what follows from it.
type UnitID = [16]byte

// UnitConfig is one logical unit.
type UnitConfig struct {
	ID     UnitID
	Name   string // the volume's name; goes into VPD page 83h as a T10 vendor designator
	Device blockdev.Device
	Serial string // unit serial number; empty means identity.Serial(ID)

	// Rotational says that the medium has seek times (VPD page B1h).
	Rotational bool
	// WriteCache says that completed writes may sit in a volatile cache until
	// a flush (WCE=1 in the caching page).
	WriteCache bool

	// SoftThreshold is the available space, in bytes, at which hosts of a thin unit
	// are warned, see Target.CheckSpace; 0 means never.
	SoftThreshold int64

	// Access is the unit's state through every port; the port groups' own states
	// and what hosts set come on top, and the worst of them counts.
	Access access.State
	// Protect is the unit's write protection.
	Protect access.Protection
}

// AccessState is an asymmetric access state (SPC-5 §5.16.2.4); the values are
// those of REPORT TARGET PORT GROUPS.
type AccessState uint8

// The asymmetric access states.
const (
	AccessOptimized     AccessState = 0x0
	AccessNonOptimized  AccessState = 0x1
	AccessStandby       AccessState = 0x2
	AccessUnavailable   AccessState = 0x3
	AccessTransitioning AccessState = 0xf
)

// PortConfig is one target port.
type PortConfig struct {
	RelativeID uint16 // relative target port identifier, 1 and up
	Group      uint16 // target port group; the iSCSI portal group tag
	Name       string // SCSI name string, e.g. "iqn.2025-01.dev.blockd:x,t,0x0001"
}

// GroupConfig is one target port group.
type GroupConfig struct {
	ID        uint16
	State     AccessState
	Preferred bool
}

// View maps LUNs, 0 to 16383, to units.
type View map[uint16]UnitID

// TargetConfig is what a Target serves to whom. A Target keeps no reference
// to the maps after New or Configure returns.
type TargetConfig struct {
	Name     string // iSCSI name of the target device
	Vendor   string // T10 vendor identification, at most 8 characters; empty means "blockd"
	Product  string // at most 16 characters; empty means "blockd volume"
	Revision string // at most 4 characters; empty means "1"

	Units []UnitConfig
	// Views gives each initiator, by its name, the LUNs it sees. AnyView is
	// added for everyone; an initiator's own view wins where both have a LUN.
	Views   map[string]View
	AnyView View

	Ports  []PortConfig  // empty means port 1 in group 1
	Groups []GroupConfig // groups of Ports not listed here are active/optimized
}

// LUNMax is the largest LUN that a View may use: what fits into the flat
// space addressing format (SAM-5 §4.7.7.3).
const LUNMax = 0x3fff

// Validate reports the first thing in c that can't be served, by name.
func (c *TargetConfig) Validate() error {
	units := make(map[UnitID]bool, len(c.Units))
	for i := range c.Units {
		u := &c.Units[i]
		if units[u.ID] {
			return fmt.Errorf("scsi: unit %x is configured twice", u.ID)
		}
		units[u.ID] = true
		if u.Device == nil {
			return fmt.Errorf("scsi: unit %x (%s) has no device", u.ID, u.Name)
		}
		if !u.Access.Valid() || !u.Protect.Valid() {
			return fmt.Errorf("scsi: unit %x (%s): access state %d or protection %d is unknown", u.ID, u.Name, u.Access, u.Protect)
		}
		if g := u.Device.Geometry(); g.BlockSize != 512 && g.BlockSize != 4096 {
			return fmt.Errorf("scsi: unit %x (%s): block size is %d, must be 512 or 4096", u.ID, u.Name, g.BlockSize)
		}
		if len(u.Serial) > 64 || !printable(u.Serial) {
			return fmt.Errorf("scsi: unit %x (%s): serial number %q must be at most 64 printable ASCII characters", u.ID, u.Name, u.Serial)
		}
	}
	check := func(who string, v View) error {
		for lun, id := range v {
			if lun > LUNMax {
				return fmt.Errorf("scsi: LUN %d of %s is above %d", lun, who, LUNMax)
			}
			if !units[id] {
				return fmt.Errorf("scsi: LUN %d of %s is unit %x, which is not configured", lun, who, id)
			}
		}
		return nil
	}
	if err := check("everyone", c.AnyView); err != nil {
		return err
	}
	for who, v := range c.Views {
		if err := check(who, v); err != nil {
			return err
		}
	}
	seen := make(map[uint16]bool, len(c.Ports))
	for _, p := range c.Ports {
		if p.RelativeID == 0 || seen[p.RelativeID] {
			return fmt.Errorf("scsi: relative target port identifier %d is zero or used twice", p.RelativeID)
		}
		if len(p.Name) > 223+len(",t,0x0000") {
			return fmt.Errorf("scsi: name of target port %d is %d bytes long, iSCSI names have at most 223", p.RelativeID, len(p.Name))
		}
		seen[p.RelativeID] = true
	}
	for _, g := range c.Groups {
		switch g.State {
		case AccessOptimized, AccessNonOptimized, AccessStandby, AccessUnavailable, AccessTransitioning:
		default:
			return fmt.Errorf("scsi: target port group %d has the unknown access state %#x", g.ID, uint8(g.State))
		}
	}
	for _, s := range []struct {
		what, val string
		max       int
	}{{"vendor", c.Vendor, 8}, {"product", c.Product, 16}, {"revision", c.Revision, 4}} {
		if len(s.val) > s.max || !printable(s.val) {
			return fmt.Errorf("scsi: %s %q must be at most %d printable ASCII characters", s.what, s.val, s.max)
		}
	}
	return nil
}

// printable reports whether s is what SPC-5 §4.3.1 calls ASCII data.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// Event is something that the owner of a Target may want to log or count.
type Event struct {
	Kind  EventKind
	Unit  UnitID // zero when the event is not about one unit
	Nexus NexusID
	Group uint16      // EventAccessState
	State AccessState // EventAccessState
	Text  string      // in words
}

// EventKind says what an Event is about.
type EventKind uint8

// The kinds of Event.
const (
	EventDeviceError EventKind = iota + 1 // a device failed a request: medium, hardware, gone
	EventReset                            // a logical unit or the target was reset
	EventAccessState                      // a host changed the access state of a port group
)

// Deps is what a Target needs from outside. Arena is required.
type Deps struct {
	Arena *arena.Arena // for commands that move data without a host buffer
	// Reservations keeps persistent reservations; nil keeps them in memory.
	Reservations ReservationBackend
	// Events gets what happened, from any goroutine; it must not block. nil
	// drops the events.
	Events func(Event)
	// Clock tells how long ago something was; nil means clock.Boot.
	Clock clock.Clock
}
