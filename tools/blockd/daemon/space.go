package daemon

import (
	"context"
	"fmt"
	"time"

	"blockd.dev/internal/units"
	"blockd.dev/raftmeta/catalog"
)

// spaceLowPercent is how much of a disk is left when hosts and operators are
// warned: thin volumes may fill it, and then writes fail.
const spaceLowPercent = 10

// spaceInterval is the time between two looks.
const spaceInterval = 5 * time.Second

// spaceLoop watches the space on the disk until ctx ends.
func (d *Daemon) spaceLoop(ctx context.Context) {
	t := time.NewTicker(spaceInterval)
	defer t.Stop()
	low := map[*storage]bool{}
	d.checkSpace(low)
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		d.checkSpace(low)
	}
}

// checkSpace tells hosts and operators when space has become low. was has the
// disks on which it was at the last look.
func (d *Daemon) checkSpace(was map[*storage]bool) {
	least := int64(100)
	for _, on := range d.disks {
		st := on.store.Stats()
		if st.CapacityBytes == 0 {
			continue
		}
		left := 100 * st.AvailableBytes / st.CapacityBytes
		least = min(least, left)
		low := left < spaceLowPercent
		if low && !was[on] {
			d.events.add(levelWarning, "disk.space-low", on.path, fmt.Sprintf("%s of %s are free; writes to a full disk fail",
				units.FormatBytes(st.AvailableBytes), units.FormatBytes(st.CapacityBytes)))
		}
		was[on] = low
	}
	if d.target != nil {
		d.target.CheckSpace()
	}
	if d.nvme.subsystem != nil {
		d.nvme.subsystem.SetSpare(uint8(least), spaceLowPercent)
	}
}

// softThreshold is the space left on the volume's disk, in bytes, at which its
// hosts are warned; 0 for a volume without one here.
func (d *Daemon) softThreshold(v *catalog.Volume) int64 {
	on := d.diskOf(v)
	if on == nil {
		return 0
	}
	return on.store.Stats().CapacityBytes / 100 * spaceLowPercent
}
