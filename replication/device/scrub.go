package device

import (
	"context"
	"errors"
	"fmt"
	"time"

	"blockd.dev/replication/volume"
)

// ErrNotOwner says that a volume can't be scrubbed here: only its owner can.
var ErrNotOwner = errNotOwner

// Finding is a region of 64 KiB whose copies a scrub found unlike each other, or
// could not read. Unless Err is set all of them are alike now.
type Finding struct {
	Offset     int64    // of the region, in the volume
	Differ     int64    // bytes that copies had differently
	Tied       int64    // of these, no content had a majority: the newest was taken
	Unreadable bool     // at least one copy could not be read
	Disks      []uint16 // whose copies these were
	Err        error    // every copy has blocks that can't be read
}

// Clean tells whether there is nothing to tell of the region.
func (f *Finding) Clean() bool { return f.Differ == 0 && !f.Unreadable && f.Err == nil }

const (
	// scrubDepth is how many regions are compared at a time.
	scrubDepth = 4
	// emptyShare is what regions that are zeroes everywhere count for the pace:
	// 1/8, since most of them are holes and cost neither disks nor network much.
	emptyShare = 8
	// A replica that goes away ends the comparisons that ask it; after scrubPause
	// it is back, or marked out. So do owners that end, of which the next one
	// may be here too.
	scrubAttempts = 3
	scrubPause    = time.Second
)

// Scrub compares all copies of the volume from the byte from on, at no more than
// bytesPerSecond of it (0: as fast as it goes), repairs what differs or can't be
// read, and calls report for each region where there was anything, and passed with how far it has come.
// Hosts go on meanwhile. It returns why it did not come to the end: ctx has ended, this
// node does not own the volume (any more), or copies did not answer.
func (v *Volume) Scrub(ctx context.Context, from, bytesPerSecond int64, passed func(int64), report func(Finding)) error {
	if v.route.Load().run == nil {
		return ErrNotOwner
	}
	size := v.Geometry().SizeBytes
	start, cost := time.Now(), int64(0)
	for at := from - from%regionBytes; at < size; {
		next := min(at+scrubDepth*regionBytes, size)
		n, err := v.scrubWell(ctx, at, next, report)
		if err != nil {
			return err
		}
		at = next
		passed(at)
		cost += n
		if bytesPerSecond <= 0 {
			continue
		}
		ahead := time.Duration(float64(cost)/float64(bytesPerSecond)*float64(time.Second)) - time.Since(start)
		if err := pause(ctx, ahead); err != nil {
			return err
		}
	}
	return nil
}

// ScrubStored does the same for the region of the volume's extents, one after the
// other, that has the byte at off, which is how stores count. It may be one that
// is in no part of the volume that hosts see: then there is nothing to find.
func (v *Volume) ScrubStored(ctx context.Context, off int64) (f Finding, err error) {
	if v.route.Load().run == nil {
		return f, ErrNotOwner
	}
	at, ok := v.addressOf(off)
	if !ok {
		return f, nil
	}
	at -= at % regionBytes
	f.Offset = at
	_, err = v.scrubWell(ctx, at, min(at+regionBytes, v.Geometry().SizeBytes), func(found Finding) { f = found })
	return f, err
}

// addressOf is the inverse of the layout, for rare use: it searches.
func (v *Volume) addressOf(off int64) (at int64, ok bool) {
	layout, size := *v.layout.Load(), v.Geometry().SizeBytes
	for at < size {
		extent, offset, run := layout.Locate(at)
		if from := int64(extent)*extentBytes + offset; off >= from && off < from+run {
			at += off - from
			return at, at < size
		}
		at += run
	}
	return 0, false
}

// Scrubbed is how many bytes of the volume scrubs have compared on this node.
func (v *Volume) Scrubbed() int64 { return v.scrubbed.Load() }

// scrubWell scrubs [from, to), no more than scrubDepth regions, and does so again
// if that fails for a reason that may pass. It returns what counts for the pace.
func (v *Volume) scrubWell(ctx context.Context, from, to int64, report func(Finding)) (cost int64, err error) {
	for attempt := 1; ; attempt++ {
		cost, err = v.scrubRegions(ctx, from, to, report)
		if err == nil || ctx.Err() != nil || attempt == scrubAttempts {
			return cost, err
		}
		if err := pause(ctx, scrubPause); err != nil {
			return cost, err
		}
	}
}

// scrubRegions scrubs [from, to), all regions at once.
func (v *Volume) scrubRegions(ctx context.Context, from, to int64, report func(Finding)) (cost int64, err error) {
	done := make(chan *scrub, scrubDepth) // takes all, also when nobody waits any more
	begun := 0
	for at := from; at < to && err == nil; at += regionBytes {
		if err = v.scrubRegion(at, min(regionBytes, to-at), done); err == nil {
			begun++
		}
	}
	for range begun {
		select {
		case s := <-done:
			c, f, failed := s.result()
			if err == nil {
				err = failed
			}
			if failed == nil {
				cost += c
				v.scrubbed.Add(s.op.Len)
			}
			if !f.Clean() {
				report(f)
			}
		case <-ctx.Done():
			return cost, ctx.Err()
		}
	}
	return cost, err
}

// scrub is a region being scrubbed.
type scrub struct {
	op    volume.Op
	run   *run
	at    int64    // in the volume
	disks []uint16 // of op.Found.Wrong
	done  chan<- *scrub
}

// scrubRegion begins to scrub n bytes at at, a part of one region.
func (v *Volume) scrubRegion(at, n int64, done chan<- *scrub) error {
	if !v.enter() {
		return errClosed
	}
	r := v.route.Load().run
	if r == nil || !r.enter() {
		v.leave()
		return ErrNotOwner
	}
	extent, offset, _ := (*v.layout.Load()).Locate(at)
	s := &scrub{run: r, at: at, done: done}
	s.op = volume.Op{Kind: volume.Scrub, Off: int64(extent)*extentBytes + offset, Len: n, Tag: s}
	r.inbox.Post(event{kind: evScrub, scrub: s})
	return nil
}

// completed takes the op back from the owner, as one who works at its inbox.
func (s *scrub) completed() {
	for d, disk := range s.run.disks {
		if s.op.Found.Wrong&(1<<d) != 0 {
			s.disks = append(s.disks, disk)
		}
	}
	s.run.leave()
	s.run.v.leave()
	s.done <- s
}

// result is what the region costs, what there is to tell of it, and why it was
// not compared.
func (s *scrub) result() (cost int64, f Finding, err error) {
	found := s.op.Found
	f = Finding{Offset: s.at, Differ: found.Differ, Tied: found.Tied, Unreadable: found.Unreadable > 0, Disks: s.disks}
	switch err := s.op.Err; {
	case err == nil && found.Data == 0 && f.Clean():
		return s.op.Len / emptyShare, f, nil
	case err == nil:
		return s.op.Len, f, nil
	case errors.Is(err, volume.ErrMedium):
		f.Unreadable, f.Err = true, err
		return s.op.Len, f, nil
	case errors.Is(err, volume.ErrNotOwner):
		return 0, Finding{}, ErrNotOwner
	default:
		return 0, Finding{}, fmt.Errorf("not all copies of 64 KiB at byte %d have answered: %w", s.at, err)
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
