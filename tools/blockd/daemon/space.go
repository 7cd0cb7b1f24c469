package daemon

import (
	"context"
	"fmt"
	"time"

	"blockd.dev/internal/units"
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
	low := d.checkSpace(false)
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		low = d.checkSpace(low)
	}
}

// checkSpace tells hosts and operators when space has become low, and reports
// whether it is. was is what it reported before.
func (d *Daemon) checkSpace(was bool) (low bool) {
	st := d.storage.store.Stats()
	if st.CapacityBytes == 0 {
		return was
	}
	left := 100 * st.AvailableBytes / st.CapacityBytes
	low = left < spaceLowPercent
	if low && !was {
		d.events.add(levelWarning, "disk.space-low", d.storage.path, fmt.Sprintf("%s of %s are free; writes to a full disk fail",
			units.FormatBytes(st.AvailableBytes), units.FormatBytes(st.CapacityBytes)))
	}
	if d.target != nil {
		d.target.CheckSpace()
	}
	if d.nvme.subsystem != nil {
		d.nvme.subsystem.SetSpare(uint8(left), spaceLowPercent)
	}
	return low
}

// softThreshold is the space left on the disk, in bytes, at which hosts of thin
// volumes are warned.
func (d *Daemon) softThreshold() int64 {
	if d.storage == nil {
		return 0
	}
	return d.storage.store.Stats().CapacityBytes / 100 * spaceLowPercent
}
