package device_test

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/replication/device"
)

// Reads wait for the disk of the owner's own copy, where the owner is.
func TestAttendedIsTheOwnersDisk(t *testing.T) {
	disks := map[uint16]*devtest.Attending{10: {}, 11: {}, 12: {}}
	c := newCluster(t, options{change: func(cfg *device.Config) {
		cfg.Attended = func(disk uint16) blockdev.Attended { return disks[disk] }
	}})
	v := c.nodes[1].vol
	if a := v.Attended(); a != nil {
		t.Errorf("without an owner: %v", a)
	}
	c.meta.grant(c.nodes[1])
	if a := v.Attended(); a != disks[11] {
		t.Errorf("at the owner: %v, want that of disk 11", a)
	}
	if a := c.nodes[0].vol.Attended(); a != nil {
		t.Errorf("elsewhere: %v", a)
	}
}
