package trial

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/tools/blockbench/multipath"
)

// failingWrites is a disk that gets no better while the node runs.
func failingWrites(t *Trial, name string) ending {
	return func() (func(context.Context) error, error) {
		return func(ctx context.Context) error {
			m, err := t.metrics(ctx, name)
			if up := sum(m, "blockd_disk_up"); err == nil && up == float64(Cluster.Disks) {
				err = fmt.Errorf("no disk of %s met a write that fails", name)
			}
			return errors.Join(err, t.c.DiskFaults(name), t.c.Restart(ctx, name))
		}, t.c.DiskFaults(name, "write err=EIO")
	}
}

// failingReads is of a disk that can't read some of what it has, or reads something else. Hosts see nothing of that,
// and what they met is written again from the other copies.
func failingReads(rule string) func(*Trial, string) ending {
	return func(t *Trial, name string) ending {
		return func() (func(context.Context) error, error) {
			ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
			defer cancel()
			repairs, err := t.count(ctx, `blockd_volume_repairs_total{volume="`+volumeName+`"}`)
			if err == nil {
				err = t.settle()
			}
			if err == nil {
				err = t.c.DiskFaults(name, rule)
			}
			return func(ctx context.Context) error {
				err := t.c.DiskFaults(name)
				n, asked := repairs.grown(ctx)
				if asked == nil && n == 0 {
					asked = fmt.Errorf("no block was repaired: no read met %q on a disk of %s", rule, name)
				}
				return errors.Join(err, asked)
			}, err
		}
	}
}

// slowBy is how long each I/O of a slow disk takes.
const slowBy = 50 * time.Millisecond

// slowDisk is one that has become slow, and says nothing of it. Its copies stay in sync, so writes wait for it.
func slowDisk(t *Trial, name string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
		defer cancel()
		stage := func(metric string) string {
			return fmt.Sprintf(`blockd_volume_owner_%s_total{stage="slowest-copy",volume=%q}`, metric, volumeName)
		}
		err := t.c.DiskFaults(name, fmt.Sprintf("any delay=%v", slowBy))
		seconds, err1 := t.count(ctx, stage("seconds"))
		requests, err2 := t.count(ctx, stage("requests"))
		return func(ctx context.Context) error {
			took, err1 := seconds.grown(ctx)
			n, err2 := requests.grown(ctx)
			err := errors.Join(err1, err2)
			if mean := time.Duration(took / max(n, 1) * float64(time.Second)); err == nil && mean < slowBy/2 {
				err = fmt.Errorf("%v writes waited %v for their slowest copy by the mean, and the disk takes %v", n, mean, slowBy)
			}
			return errors.Join(err, t.c.DiskFaults(name))
		}, errors.Join(err, err1, err2)
	}
}

const (
	scratchAt    = volumeBytes / 2 // no window goes so far
	scratchBytes = regionBytes - blockBytes
	scratchUnits = 2 * extmap.WidthMax // so that all extents have their turn
)

// settle has the disks hold a window of blocks, of which hosts then read: what was just written is read from
// memory, until a checkpoint has brought it home. So it is written, and then more than the logs of the disks have room for.
func (t *Trial) settle() error {
	first := (t.load.first/windowBlocks + 1) % windows * windowBlocks
	t.use(first)
	dev := t.load.devices[0]
	err := t.parallel(dev, windowBlocks, func(h *host, i int64) error { return h.write(first + i) })
	if err != nil {
		return err
	}
	data := make([]byte, scratchBytes)
	for i := range data {
		data[i] = byte(i | 1)
	}
	// Parts of regions go through the log, and 60 KiB take 64 there. Half as much again, since one disk may have more of the
	// extents than the other.
	log := Cluster.DiskSize / 16 / regionBytes
	err = t.parallel(dev, int64(Cluster.Disks)*log*3/2, func(_ *host, i int64) error {
		return blockdev.WriteAt(dev, data, scratchAt+i%scratchUnits*extmap.UnitBytes)
	})
	t.load.also.Store(first)
	return err
}

// parallel does something n times, by several at once.
func (t *Trial) parallel(dev *multipath.Device, n int64, do func(h *host, i int64) error) error {
	var workers sync.WaitGroup
	work := make(chan int64)
	errs := make([]error, readersMax)
	for k := range readersMax {
		workers.Go(func() {
			h := t.newHost(readerClient+k, dev)
			for i := range work {
				if err := do(h, i); err != nil && errs[k] == nil {
					errs[k] = err
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	workers.Wait()
	return errors.Join(errs...)
}
