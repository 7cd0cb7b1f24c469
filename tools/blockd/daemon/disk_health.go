package daemon

import (
	"context"
	"fmt"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/raftmeta/catalog"
)

// A node says of a disk that it has failed, so that others get the copies on it, when the disk's
// store takes no writes for failAfter, or when it could not be opened for as long as a node is
// waited for that is down. A store that has stopped to take writes doesn't begin again by itself:
// its node has to be started anew, and a minute is the time for that. Nothing but an administrator
// makes a disk active again: an error that a restart has ended may come again.
const (
	failAfter   = time.Minute
	healthEvery = 10 * time.Second
)

// badDisk is a disk of this node that takes no writes.
type badDisk struct {
	id     catalog.ID
	path   string
	reason string
	after  time.Duration // for which it is waited for
}

// badDisks are those that are bad now.
func (d *Daemon) badDisks() (bad []badDisk) {
	rebuildAfter := d.cfg.RebuildAfter
	for _, s := range d.disks {
		if state, err := s.store.State(); state == store.StateFailed {
			bad = append(bad, badDisk{s.id(), s.path, fmt.Sprintf("its store takes no more writes: %v", err), min(failAfter, rebuildAfter)})
		}
	}
	for _, l := range d.lostDisks {
		bad = append(bad, badDisk{l.disk.ID, l.disk.Path, "it could not be opened: " + l.reason, rebuildAfter})
	}
	return bad
}

// reportBadDisks says of disks that are bad for long that they have failed, until ctx ends.
func (d *Daemon) reportBadDisks(ctx context.Context) {
	every := min(healthEvery, d.cfg.RebuildAfter)
	tick := time.NewTicker(every)
	defer tick.Stop()
	since := map[catalog.ID]time.Time{}
	for {
		select {
		case now := <-tick.C:
			since = d.reportNow(ctx, now, since)
		case <-ctx.Done():
			return
		}
	}
}

// reportNow is one look. since has when disks were found bad that the catalog takes for good.
func (d *Daemon) reportNow(ctx context.Context, now time.Time, since map[catalog.ID]time.Time) map[catalog.ID]time.Time {
	still := map[catalog.ID]time.Time{}
	for _, b := range d.badDisks() {
		known := d.catalog.State().DiskByID(b.id)
		if known == nil || known.State == catalog.DiskFailed {
			continue
		}
		still[b.id] = now
		if first, ok := since[b.id]; ok {
			still[b.id] = first
		}
		if now.Sub(still[b.id]) < b.after {
			continue
		}
		if _, err := d.doContext(ctx, nil, diskCommand(known, catalog.DiskFailed, clip(b.reason, reasonBytes))); err != nil {
			if ctx.Err() == nil && d.errorGate.pass("failed "+b.path) {
				d.events.add(levelWarning, "disk.failed", b.path, fmt.Sprintf("the cluster could not be told: %v", err))
			}
			continue
		}
		d.events.add(levelError, "disk.failed", b.path, b.reason+"; other disks get the copies that are on it; when it is mended: blockctl disk resume "+diskName(d.catalog.State(), b.id))
	}
	return still
}

// reasonBytes is how much of an error the catalog is told.
const reasonBytes = 200

// clip is the first bytes of a text.
func clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return text[:n-3] + "..."
}

// diagnoseMended warns of disks that are good, and that the catalog says have failed.
func (d *Daemon) diagnoseMended(add func(lv, subject, advice, format string, args ...any)) {
	for _, s := range d.disks {
		known := d.catalog.State().DiskByID(s.id())
		if state, _ := s.store.State(); state == store.StateOnline && known != nil && known.State == catalog.DiskFailed {
			name := diskName(d.catalog.State(), s.id())
			add("warning", "disk "+s.path, "`blockctl disk resume "+name+"` if it is mended, `blockctl disk remove "+name+" --force --yes` if it is to go",
				"it works, and gets nothing, since it had failed: %s", known.Reason)
		}
	}
}
