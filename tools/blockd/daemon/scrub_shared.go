package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/internal/units"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/replication/device"
)

// sharedScrub is how far the scrub of a volume has come, as far as this node
// has made it, and in how many regions it found what. The owner of a volume
// compares its copies with each other; what the scrub of a disk finds by
// checksums is repaired here too.
type sharedScrub struct {
	scrubStatus
	differ, unreadable, lost atomic.Uint64
}

// scrubEventsMax is how many regions of a volume one round names.
const scrubEventsMax = 32

// scrub compares the copies of all volumes that this node owns and that are due, one
// after the other. One that moves meanwhile is left to its new owner, who begins
// where it was with that volume itself.
func (s *sharing) scrub(ctx context.Context) {
	for _, v := range s.all() {
		if ctx.Err() == nil && v.Status().Owner && s.d.scrubDue(v.scrubName(), &v.scrub.scrubStatus) {
			v.scrubOnce(ctx)
		}
	}
	state := s.d.catalog.State()
	if err := s.d.scrubs.keep(func(name string) bool {
		id, of := strings.CutPrefix(name, scrubVolume)
		return !of || state.VolumeByID(parseID(id)) != nil
	}); err != nil && s.d.errorGate.pass("scrub notes") {
		s.d.events.add(levelWarning, "scrub.notes", s.d.nodeName(), err.Error())
	}
}

// scrubVolume begins what the notes have shared volumes by.
const scrubVolume = "volume "

func (v *sharedVolume) scrubName() string { return scrubVolume + v.id.String() }

// scrubOnce compares all of the volume, or what a round that was ended has left.
func (v *sharedVolume) scrubOnce(ctx context.Context) {
	s, events := v.d.shared.Load(), v.d.events
	r := v.d.beginScrub(v.scrubName(), &v.scrub.scrubStatus)
	regions, from := 0, r.note.At
	err := v.Scrub(ctx, from, v.d.cfg.ScrubRate, func(at int64) { r.passed("", at, at-from) }, func(f device.Finding) {
		lv, text := v.found(f)
		if regions++; regions <= scrubEventsMax {
			events.add(lv, "volume.scrub", s.d.volumeNamed(v.id), text)
		}
	})
	r.end(err)
	if regions > scrubEventsMax {
		events.add(levelWarning, "volume.scrub", s.d.volumeNamed(v.id), fmt.Sprintf("%d more regions were repaired, or could not be", regions-scrubEventsMax))
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, device.ErrNotOwner) {
		events.add(levelWarning, "volume.scrub", s.d.volumeNamed(v.id), fmt.Sprintf("stopped after %s, and goes on from there in %v: %v", units.FormatBytes(r.note.At), scrubRetry, err))
	}
}

// found counts what was found in a region, and says it.
func (v *sharedVolume) found(f device.Finding) (lv level, text string) {
	where := fmt.Sprintf("at byte %d: ", f.Offset)
	var whose []string
	state := v.d.catalog.State()
	for _, number := range f.Disks {
		name := fmt.Sprintf("disk %d", number)
		if d := state.DiskByNumber(extmap.Disk(number)); d != nil {
			name = fmt.Sprintf("disk %s of node %s", d.Path, v.d.nodeNamed(d.Node.String()))
		}
		whose = append(whose, name)
	}
	copies := "the copy on " + strings.Join(whose, " and ")
	switch {
	case f.Err != nil:
		v.scrub.lost.Add(1)
		lv, text = levelError, where+"every copy has blocks that can't be read; what hosts can't read there restore from a backup"
	case f.Tied > 0:
		v.scrub.differ.Add(1)
		lv, text = levelError, where+fmt.Sprintf("%s differed in %s, and no content had a majority; the newest is on all copies now", copies, units.FormatBytes(f.Differ))
	case f.Differ > 0:
		v.scrub.differ.Add(1)
		lv, text = levelWarning, where+fmt.Sprintf("%s differed from most in %s, and was written again", copies, units.FormatBytes(f.Differ))
	default:
		v.scrub.unreadable.Add(1)
		lv, text = levelWarning, where+copies+" could not be read, and was written again"
	}
	v.scrub.found(text)
	return lv, text
}

// ended says when the last round ended, for people.
func (s scrubInfo) ended() string {
	if s.lastFinished.IsZero() {
		return "never"
	}
	return s.lastFinished.Format(time.RFC3339)
}

// repair has a block of a shared volume that the scrub of a disk of this node
// could not read written again at once if this node owns the volume. It returns
// what is to be said of that; "" of volumes that aren't shared.
func (s *sharing) repair(ctx context.Context, e store.ScrubError) string {
	v := s.sharedVolume(e.Volume)
	if v == nil {
		return ""
	}
	f, err := v.ScrubStored(ctx, e.Offset)
	switch {
	case errors.Is(err, device.ErrNotOwner):
		return " (of this copy; the scrub of the node that owns the volume, and hosts' reads, repair it)"
	case err != nil:
		return fmt.Sprintf(" (of this copy; not repaired until the volume's scrub: %v)", err)
	case f.Clean():
		return " (of this copy; those that are in sync are alike)"
	}
	lv, text := v.found(f)
	s.d.events.add(lv, "volume.scrub", s.d.volumeNamed(v.id), text)
	if f.Err != nil {
		return " (of this copy, and others can't be read either)"
	}
	return " (of this copy; it was written again from the others)"
}

// diagnoseScrubs says what the scrubs of shared volumes by this node have found.
func (s *sharing) diagnoseScrubs(add func(lv, subject, advice, format string, args ...any)) {
	if s == nil {
		return
	}
	for _, v := range s.all() {
		scrub, subject := v.scrub.get(), "scrub of volume "+s.d.volumeNamed(v.id)
		switch lost := v.scrub.lost.Load(); {
		case lost > 0:
			add("error", subject, "see `blockctl events`; restore what is named there from a backup, and replace the disks", "%d errors, %d of them not repaired, the last: %s", scrub.errors, lost, scrub.lastError)
		case scrub.errors > 0:
			add("warning", subject, "see `blockctl events`; a disk that is named there again and again should be replaced", "%d errors, all repaired, the last: %s", scrub.errors, scrub.lastError)
		case scrub.at > 0:
			add("ok", subject, "", "%d%% of this round; the last one ended %s", scrub.at*100/v.Geometry().SizeBytes, scrub.ended())
		case !scrub.lastFinished.IsZero():
			add("ok", subject, "", "the last round ended %s", scrub.ended())
		}
	}
}
