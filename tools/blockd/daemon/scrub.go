package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev/store"
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

// scrubLoop has rounds of a scrub made, again and again, until ctx ends. The
// first one begins one interval after the start.
func (d *Daemon) scrubLoop(ctx context.Context, round func(context.Context)) {
	timer := time.NewTimer(d.cfg.ScrubInterval)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		round(ctx)
		timer.Reset(d.cfg.ScrubInterval)
	}
}

// begin notes that a round has begun.
func (s *scrubStatus) begin() {
	s.mu.Lock()
	s.running = true
	s.mu.Unlock()
}

// found notes an error.
func (s *scrubStatus) found(text string) {
	s.mu.Lock()
	s.errors++
	s.lastError = text
	s.mu.Unlock()
}

// end notes that the round has ended, after bytes, with err or all of it.
func (s *scrubStatus) end(bytes int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.bytes = false, bytes
	if err == nil {
		s.rounds++
		s.lastFinished = time.Now().UTC()
	}
}

// scrubOnce reads everything on a disk.
func (d *Daemon) scrubOnce(ctx context.Context, on *storage) {
	s := &on.scrub
	s.begin()
	before := on.store.Stats().ScrubbedBytes
	err := on.store.Scrub(ctx, d.cfg.ScrubRate, func(e store.ScrubError) {
		text := fmt.Sprintf("volume %s at byte %d: %v", d.volumeNamed(e.Volume), e.Offset, e.Err)
		if d.shared.Load() != nil {
			text += d.shared.Load().repair(ctx, e)
		}
		s.found(text)
		d.events.add(levelError, "scrub.error", on.path, text)
	})
	s.end(on.store.Stats().ScrubbedBytes-before, err)
	if err != nil && !errors.Is(err, context.Canceled) {
		d.events.add(levelError, "scrub.failed", on.path, err.Error())
	}
}
