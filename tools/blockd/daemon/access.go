package daemon

import (
	"context"
	"fmt"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/target/access"
)

// protections are the write protection states in the words of the catalog.
var protections = map[catalog.Protection]access.Protection{
	catalog.Unprotected: access.Unprotected, catalog.Protected: access.Protected,
	catalog.UntilPowerCycle: access.UntilPowerCycle, catalog.Permanent: access.Permanent,
}

// protectFor gives NVMe hosts what they write-protect volumes with: a change of
// the catalog like any other, in the host's name, that is done when the node
// serves it. ctx ends with the node.
func (d *Daemon) protectFor(ctx context.Context) func(volume [16]byte, hostNQN string, p access.Protection) error {
	return func(volume [16]byte, hostNQN string, p access.Protection) error {
		v := d.catalog.State().VolumeByID(volume)
		if v == nil {
			return fmt.Errorf("volume %x is being deleted", volume)
		}
		cmd := &catalogpb.ProtectVolume{Name: v.Name}
		for word, state := range protections {
			if state == p {
				cmd.Protection = string(word)
			}
		}
		res, err := d.do(&caller{actor: hostNQN}, protectCommand(cmd))
		if err != nil {
			return err
		}
		return d.applied.wait(ctx, res.Revision)
	}
}

func protectCommand(c *catalogpb.ProtectVolume) *catalogpb.Command {
	return &catalogpb.Command{Kind: &catalogpb.Command_ProtectVolume{ProtectVolume: c}}
}

// powerCycled ends the write protection that a start of the node ends. It runs
// before anything is served.
func (d *Daemon) powerCycled() error {
	s := d.catalog.State()
	for i := range s.Volumes {
		if v := &s.Volumes[i]; v.Protection == catalog.UntilPowerCycle && !v.Retired && d.serves(s, v) {
			if _, err := d.do(nil, protectCommand(&catalogpb.ProtectVolume{Name: v.Name, PowerCycle: true})); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetAccess says how hosts reach a volume through this node, and returns when
// every connected one has been told: by a unit attention over iSCSI, by an
// asynchronous event over NVMe. Whoever shares volumes between nodes calls it; a
// node alone leaves them all optimized.
func (d *Daemon) SetAccess(volume string, state access.State) error {
	v := d.catalog.State().Volume(volume)
	switch {
	case v == nil || v.Retired:
		return fmt.Errorf("no volume %q to change the access state of", volume)
	case !state.Valid():
		return fmt.Errorf("volume %q: %v is unknown", volume, state)
	}
	d.volumes.setAccess(v.ID, state)
	return d.configureTarget()
}
