package iscsi

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/turn"
	"blockd.dev/target/auth"
	"blockd.dev/target/scsi"
)

// Config is what a Server serves. Target and Arena are required.
type Config struct {
	TargetName string // iSCSI name, normalised by New
	Alias      string // TargetAlias, shown by initiators; may be empty
	Target     *scsi.Target
	Arena      *arena.Arena
	Auth       auth.Directory // nil lets every host in
	Limits     Limits         // used by New only

	// Redirect sends every new session elsewhere; nil serves them here.
	Redirect *Redirect
	// Portals are what SendTargets announces; nil announces the addresses of
	// the listeners, and for wildcard ones the address the host came to.
	Portals []Portal
	// Elsewhere are portals of other nodes with the same target, which SendTargets
	// announces after these.
	Elsewhere []Portal

	// Soon is who sends several answers at once at the end of a turn (sockio.Config); nil
	// has each sent by itself.
	Soon turn.Soon
	// Events gets what happened, from any goroutine; it must not block. nil
	// drops the events.
	Events func(Event)
}

// Redirect is where a host shall log in instead (RFC 7143 §11.13.5).
type Redirect struct {
	Address   string // host:port or [IPv6]:port, with ",tag" if wanted
	Permanent bool
}

// Portal is an address that serves the target.
type Portal struct {
	Address string // host:port, IPv6 in brackets
	TPGT    uint16 // target portal group tag
}

// String is the form of the TargetAddress key.
func (p Portal) String() string { return fmt.Sprintf("%s,%d", p.Address, p.TPGT) }

// validate checks c and fills in defaults.
func (c *Config) validate() error {
	name, err := NormalizeName(c.TargetName)
	if err != nil {
		return err
	}
	c.TargetName = name
	if len(c.Alias) > 255 {
		return fmt.Errorf("iscsi: alias of %d bytes: use at most 255", len(c.Alias))
	}
	if c.Target == nil || c.Arena == nil {
		return errors.New("iscsi: config without Target or Arena: set both")
	}
	if c.Auth == nil {
		c.Auth = auth.AllowAll{}
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	if r := c.Redirect; r != nil && r.Address == "" {
		return errors.New("iscsi: redirect without an address")
	}
	for _, p := range slices.Concat(c.Portals, c.Elsewhere) {
		if _, _, err := net.SplitHostPort(p.Address); err != nil {
			return fmt.Errorf("iscsi: portal %q: %w", p.Address, err)
		}
	}
	return c.Limits.fill()
}
