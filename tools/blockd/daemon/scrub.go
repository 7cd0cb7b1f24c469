package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev/store"
	"blockd.dev/raftmeta/catalog"
)

// scrubStatus is how far the scrub has come.
type scrubStatus struct {
	mu           sync.Mutex
	running      bool
	bytes        int64 // of the current or last round
	errors       uint64
	rounds       uint64
	lastFinished time.Time
	lastError    string
}

// scrubInfo is a copy of it.
type scrubInfo struct {
	running      bool
	bytes        int64
	errors       uint64
	rounds       uint64
	lastFinished time.Time
	lastError    string
}

func (s *scrubStatus) get() scrubInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return scrubInfo{s.running, s.bytes, s.errors, s.rounds, s.lastFinished, s.lastError}
}

// scrubLoop reads everything on a disk, again and again, until ctx ends. The
// first round begins one interval after the start.
func (d *Daemon) scrubLoop(ctx context.Context, on *storage) {
	timer := time.NewTimer(d.cfg.ScrubInterval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		d.scrubOnce(ctx, on)
		timer.Reset(d.cfg.ScrubInterval)
	}
}

func (d *Daemon) scrubOnce(ctx context.Context, on *storage) {
	s := &on.scrub
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
	before := on.store.Stats().ScrubbedBytes
	err := on.store.Scrub(ctx, d.cfg.ScrubRate, func(e store.ScrubError) {
		name := catalog.ID(e.Volume).String()
		if v := d.catalog.State().VolumeByID(e.Volume); v != nil {
			name = v.Name
		}
		text := fmt.Sprintf("volume %s at byte %d: %v", name, e.Offset, e.Err)
		s.mu.Lock()
		s.errors++
		s.lastError = text
		s.mu.Unlock()
		d.events.add(levelError, "scrub.error", on.path, text)
	})
	s.mu.Lock()
	s.running = false
	s.bytes = on.store.Stats().ScrubbedBytes - before
	if err == nil {
		s.rounds++
		s.lastFinished = time.Now().UTC()
	}
	s.mu.Unlock()
	if err != nil && !errors.Is(err, context.Canceled) {
		d.events.add(levelError, "scrub.failed", on.path, err.Error())
	}
}
