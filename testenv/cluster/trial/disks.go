package trial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/testenv/cluster"
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

// wrongWrites is of a disk that acknowledges what it then does not hold: a bit of it is another, or it lies 64 KiB further on,
// over something else. That is so for all data that leave the log. Hosts see nothing of it; it ends when a scrub has
// compared all of the volume since. Where the store keeps its own state the disk is sound: a store that can't read that is lost.
func wrongWrites(t *Trial, name string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
		defer cancel()
		const file = "disk0"
		area, err := t.dataArea(ctx, name, file)
		if err != nil {
			return nil, err
		}
		repairs, err1 := t.count(ctx, `blockd_volume_repairs_total{volume="`+volumeName+`"}`)
		scrubbed, err2 := t.count(ctx, `blockd_volume_scrub_regions_total{found="unreadable",volume="`+volumeName+`"}`)
		err = errors.Join(err1, err2, t.c.DiskFaults(name+"/"+file, "write flip p=0.1 "+area, "write misplace=65536 p=0.1 "+area))
		if err == nil {
			err = t.settle() // which hosts read
		}
		if err == nil {
			err = t.ballast(unreadBytes)
		}
		return func(ctx context.Context) error {
			if err := t.c.DiskFaults(name + "/" + file); err != nil {
				return err
			}
			if err := t.scrub(ctx); err != nil {
				return err
			}
			read, err1 := repairs.grown(ctx)
			found, err2 := scrubbed.grown(ctx)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			if read == 0 || found == 0 {
				return fmt.Errorf("%v repairs, and %v regions that the scrub could not read: want some of either", read, found)
			}
			return nil
		}, err
	}
}

// unreadBytes is how much is written wrong, in part, that hosts do not read before a scrub does.
const unreadBytes = 32 << 20

// dataArea is where the store of a disk has the data of volumes, as the range of a rule. What is misplaced stays within.
func (t *Trial) dataArea(ctx context.Context, node, file string) (string, error) {
	d, err := t.diskAt(ctx, node, file)
	if err != nil {
		return "", err
	}
	f, err := os.Open(d.GetPath())
	if err != nil {
		return "", err
	}
	defer f.Close()
	var at [16]byte // docs/ONDISK.md, "Superblock": where the data begins, and the superblock behind it
	if _, err := f.ReadAt(at[:], 168); err != nil {
		return "", err
	}
	const margin = 4 << 20 // longer than any write
	return fmt.Sprintf("range=%d-%d", binary.LittleEndian.Uint64(at[:]), binary.LittleEndian.Uint64(at[8:])-margin), nil
}

// scrubAhead makes scrubs due, which they are once a week.
const scrubAhead = 8 * 24 * time.Hour

// scrub has the owner compare all copies. Nodes that have not seen the volume before take it for scrubbed.
func (t *Trial) scrub(ctx context.Context) error {
	owner, err := t.Owner(ctx)
	if err != nil {
		return err
	}
	v, err := t.volumeNamed(ctx, volumeName)
	if err != nil {
		return err
	}
	rounds, err := t.count(ctx, `blockd_volume_scrub_rounds_total{volume="`+volumeName+`"}`)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(t.nodes, func(n cluster.NodeStatus) bool { return n.Name == owner })
	notes := filepath.Join(t.nodes[i].DataDir, "scrubs.json")
	err = t.ask(ctx, "the owner to have seen the volume", readyPatience, func(context.Context, connect.HTTPClient, string) error {
		text, err := os.ReadFile(notes)
		if err == nil && !strings.Contains(string(text), v.GetId()) {
			err = errors.New("it is not in " + notes)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := t.c.SetClock(scrubAhead, t.names()...); err != nil {
		return err
	}
	err = t.ask(ctx, "the scrub of the volume", syncPatience, func(ctx context.Context, _ connect.HTTPClient, _ string) error {
		n, err := rounds.grown(ctx)
		if err == nil && n == 0 {
			err = errors.New("it has not ended")
		}
		return err
	})
	return errors.Join(err, t.c.SetClock(0, t.names()...))
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

// verySlow is how long each I/O takes of a disk that is needed. The small writes of the load take one each, so answers come often
// enough that owners of older builds got over it too; replication/volume's tests have what they did not get over.
const verySlow = 200 * time.Millisecond

// missedBytes is what the third copy has missed.
const missedBytes = 48 << 20

// slowAndNeeded is a disk that has become very slow while the third copy is away: nothing can be written without it. It lasts until
// that copy is back, and in sync: hosts' writes must not keep it from that, nor wait for longer than the slow disk takes.
func slowAndNeeded(t *Trial, name string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), readyPatience)
		defer cancel()
		owner, err := t.Owner(ctx)
		if err != nil {
			return nil, err
		}
		third := t.others(owner, name)[0]
		if err := t.c.Kill(third); err != nil {
			return nil, err
		}
		err = t.ballast(missedBytes)
		if err == nil {
			err = t.c.DiskFaults(name, fmt.Sprintf("any delay=%v", verySlow))
		}
		return func(ctx context.Context) error {
			err := t.c.Restart(ctx, third)
			if err == nil {
				err = t.awaitCopies(ctx, third)
			}
			return errors.Join(err, t.c.DiskFaults(name))
		}, err
	}
}

// awaitCopies waits until the copies on a node are in sync.
func (t *Trial) awaitCopies(ctx context.Context, node string) error {
	return t.ask(ctx, "the copies on "+node+" to be in sync", syncPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewVolumeServiceClient(client, address).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: volumeName}))
		if err != nil {
			return err
		}
		if c := outOfSync(r.Msg.GetVolume(), node); c != nil {
			return fmt.Errorf("one is %s", c.GetState())
		}
		return nil
	})
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

// ballast is written to a part of the volume where no window is, in whole regions, which go to the disks at once and not
// through their logs.
func (t *Trial) ballast(size int64) error {
	data := make([]byte, regionBytes)
	for i := range data {
		data[i] = byte(i | 1)
	}
	dev := t.load.devices[0]
	return t.parallel(dev, size/regionBytes, func(_ *host, i int64) error {
		return blockdev.WriteAt(dev, data, scratchAt+i*regionBytes)
	})
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
