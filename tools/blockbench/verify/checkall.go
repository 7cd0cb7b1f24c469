package verify

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
)

// Reads of CheckAll.
const (
	checkBytes   = 256 << 10
	checkWorkers = 4
)

// CheckAll reads every block of the journal's range through d and compares it.
// It goes on after violations, which Checker.Report is told of, up to
// violationsMax, and returns the first error, a violation or another.
func CheckAll(ctx context.Context, d *Device, violationsMax int) error {
	first, end, unit := d.checker.Journal.Oracle.Range()
	var at, bad atomic.Int64
	var once sync.Once
	var firstErr error
	var wg sync.WaitGroup
	for range checkWorkers {
		wg.Go(func() {
			buf := make([]byte, checkBytes/unit*unit)
			for ctx.Err() == nil {
				off := first + at.Add(int64(len(buf))) - int64(len(buf))
				if off >= end {
					return
				}
				p := buf[:min(int64(len(buf)), end-off)]
				err := blockdev.ReadAt(d, p, off)
				if err == nil {
					continue
				}
				once.Do(func() { firstErr = err })
				if !errors.Is(err, ErrViolation) || bad.Add(1) >= int64(violationsMax) {
					at.Store(end - first)
					return
				}
			}
		})
	}
	wg.Wait()
	if firstErr != nil {
		return firstErr
	}
	return ctx.Err()
}
