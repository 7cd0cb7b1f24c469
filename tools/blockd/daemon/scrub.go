package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/replication/device"
)

// scrubStatus is how far the scrub of a disk or of a shared volume has come.
type scrubStatus struct {
	mu sync.Mutex
	scrubInfo
	notBefore time.Time // for the next, since the last has failed
}

// scrubInfo is a copy of it.
type scrubInfo struct {
	running      bool
	at           int64     // bytes: where the round under way is; 0 when there is none
	before       int64     // bytes of the current round that were done before it went on
	bytes        int64     // of the current or last round since it began or went on
	began        time.Time // what is under way, or was last
	errors       uint64
	rounds       uint64    // since the start
	lastFinished time.Time // also before the start
	lastError    string
}

func (s *scrubStatus) get() scrubInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.scrubInfo
}

// scrubLook is the time between two looks at what is due, which cost next to nothing.
const scrubLook = 10 * time.Second

// scrubSave is how much of a scrub is done again after a crash.
const scrubSave = time.Minute

// scrubRetry is when a scrub goes on that could not.
const scrubRetry = time.Hour

// scrubLoop has what is due scrubbed, again and again, until ctx ends.
func (d *Daemon) scrubLoop(ctx context.Context, look func(context.Context)) {
	ticker := time.NewTicker(scrubLook)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// scrubRound is one round of a scrub, or the part of it that is made in one go: what is noted
// of it, and what shows of it.
type scrubRound struct {
	d      *Daemon
	name   string // among the notes
	s      *scrubStatus
	note   scrubNote
	before int64 // note.Bytes when it began or went on
	kept   time.Time
}

// beginScrub begins a round, or goes on with the one that is under way.
func (d *Daemon) beginScrub(name string, s *scrubStatus) *scrubRound {
	note, err := d.scrubs.get(name)
	r := &scrubRound{d: d, name: name, s: s, note: note, before: note.Bytes, kept: time.Now()}
	r.tell(err)
	s.begin(note)
	return r
}

// passed notes how far it has come.
func (r *scrubRound) passed(volume string, at, bytes int64) {
	r.note.Volume, r.note.At, r.note.Bytes = volume, at, r.before+bytes
	r.s.reached(at, bytes)
	if time.Since(r.kept) >= scrubSave {
		r.keep()
	}
}

// end notes that the round has come to the end, or how far it came.
func (r *scrubRound) end(err error) {
	if err == nil {
		now := time.Now().UTC()
		r.note = scrubNote{Since: now, Finished: now}
	}
	r.keep()
	r.s.end(r.note.Finished, err)
}

func (r *scrubRound) keep() {
	r.kept = time.Now()
	r.tell(r.d.scrubs.put(r.name, r.note))
}

func (r *scrubRound) tell(err error) {
	if err != nil && r.d.errorGate.pass("scrub notes") {
		r.d.events.add(levelWarning, "scrub.notes", r.name, err.Error())
	}
}

// scrubDue reports whether there is something to scrub of what is noted by that name.
func (d *Daemon) scrubDue(name string, s *scrubStatus) bool {
	now := time.Now()
	note, err := d.scrubs.get(name)
	if err != nil && d.errorGate.pass("scrub notes") {
		d.events.add(levelWarning, "scrub.notes", name, err.Error())
	}
	return note.due(now, d.cfg.ScrubInterval) && s.ready(now)
}

// begin notes that a round has begun, or goes on where it was.
func (s *scrubStatus) begin(n scrubNote) {
	s.mu.Lock()
	s.running, s.at, s.before, s.bytes, s.began = true, n.At, n.Bytes, 0, time.Now()
	s.mu.Unlock()
}

// reached notes how far it has come.
func (s *scrubStatus) reached(at, bytes int64) {
	s.mu.Lock()
	s.at, s.bytes = at, bytes
	s.mu.Unlock()
}

// ready reports whether a round may begin: it may not for a while where one has failed.
func (s *scrubStatus) ready(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !now.Before(s.notBefore)
}

// recall takes over what was noted before the node's start.
func (s *scrubStatus) recall(n scrubNote) {
	s.mu.Lock()
	s.lastFinished, s.at = n.Finished, n.At
	s.mu.Unlock()
}

// found notes an error.
func (s *scrubStatus) found(text string) {
	s.mu.Lock()
	s.errors++
	s.lastError = text
	s.mu.Unlock()
}

// end notes that the round has ended: finished, or with err.
func (s *scrubStatus) end(finished time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	if err == nil {
		s.rounds++
		s.lastFinished, s.at = finished, 0
		return
	}
	if !errors.Is(err, device.ErrNotOwner) {
		s.notBefore = time.Now().Add(scrubRetry)
	}
}

// recallScrubs takes over what was noted before the start.
func (d *Daemon) recallScrubs() {
	var err error
	if d.scrubs, err = openScrubNotes(d.data.join(fileScrubs)); err != nil {
		d.events.add(levelWarning, "scrub.notes", d.nodeName(), err.Error())
	}
	for _, on := range d.disks {
		on.scrub.recall(d.scrubs.peek(on.scrubName()))
	}
}

// scrubDisk scrubs a disk if that is due.
func (d *Daemon) scrubDisk(ctx context.Context, on *storage) {
	if d.scrubDue(on.scrubName(), &on.scrub) {
		d.scrubOnce(ctx, on)
	}
}

// scrubName is what the notes have a disk by.
func (s *storage) scrubName() string { return "disk " + s.id().String() }

// scrubOnce reads everything on a disk, or what a round that was ended has left.
func (d *Daemon) scrubOnce(ctx context.Context, on *storage) {
	r := d.beginScrub(on.scrubName(), &on.scrub)
	from := store.ScrubPlace{Offset: r.note.At}
	if r.note.At > 0 {
		from.Volume = store.VolumeID(parseID(r.note.Volume))
	}
	before := on.store.Stats().ScrubbedBytes
	err := on.store.ScrubFrom(ctx, from, d.cfg.ScrubRate, func(p store.ScrubPlace) {
		r.passed(catalog.ID(p.Volume).String(), p.Offset, on.store.Stats().ScrubbedBytes-before)
	}, func(e store.ScrubError) {
		text := fmt.Sprintf("volume %s at byte %d: %v", d.volumeNamed(e.Volume), e.Offset, e.Err)
		if d.shared.Load() != nil {
			text += d.shared.Load().repair(ctx, e)
		}
		on.scrub.found(text)
		d.events.add(levelError, "scrub.error", on.path, text)
	})
	r.end(err)
	if err != nil && !errors.Is(err, context.Canceled) {
		d.events.add(levelError, "scrub.failed", on.path, err.Error())
	}
}
