package trial

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	"blockd.dev/internal/units"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/testenv/cluster"
	"blockd.dev/tools/blockbench/multipath"
)

// A filler is a volume of one copy, which another host writes until its disk has no chunk left.
type filler struct {
	volume *blockdv1.Volume
	dev    *multipath.Device
	data   []byte
	at     int64 // up to where it is written
}

const (
	fillerPool  = "filler"
	fillersMax  = 40 // volumes until each disk has one: they go where most room is
	fillerBytes = 512 << 10
	fillerEvery = 5 * time.Millisecond
	// roomFor is for how long no write is refused until a disk counts as having room again.
	roomFor = time.Second
)

// full fills all disks of some nodes, and goes on filling them with what hosts' unmaps give back. It ends when the
// other volumes are deleted. Nothing is started anew.
func full(t *Trial, names ...string) ending {
	return func() (func(context.Context) error, error) {
		ctx, cancel := context.WithTimeout(context.Background(), syncPatience)
		defer cancel()
		fillers, err := t.makeFillers(ctx, names)
		if err == nil {
			err = each(fillers, (*filler).fill)
		}
		if err != nil {
			return nil, errors.Join(err, t.dropFillers(ctx, fillers))
		}
		before := t.load.refusals()
		stop := again(fillerEvery, func() error {
			return each(fillers, func(f *filler) error { return noSpaceIsFine(f.write(regionBytes)) })
		}, func(ctx context.Context) error { return t.dropFillers(ctx, fillers) })
		return func(ctx context.Context) error {
			var met error
			if t.load.refusals() == before {
				met = t.missedWrites(ctx, names)
			}
			if err := errors.Join(met, stop(ctx)); err != nil {
				return err
			}
			return t.awaitRoom(ctx)
		}, nil
	}
}

// missedWrites is nil if a full disk shows in another way than that hosts are told: a copy that was marked out while
// the disk filled up misses what it has no room for, and is not in sync before there is some.
func (t *Trial) missedWrites(ctx context.Context, names []string) error {
	v, err := t.volumeNamed(ctx, volumeName)
	if err != nil {
		return err
	}
	if outOfSync(v, names...) != nil && len(names) < copies {
		return nil
	}
	disks, err := t.disks(ctx)
	if err != nil {
		return err
	}
	var used []string
	for _, d := range disks {
		used = append(used, fmt.Sprintf("%s %s of %s", d.GetName(), units.FormatBytes(d.GetUsedBytes()), units.FormatBytes(d.GetCapacityBytes())))
	}
	return fmt.Errorf("no host was told that the disks of %v are full, and all copies are in sync: %s", names, strings.Join(used, ", "))
}

// each does something with all fillers at once.
func each(fillers []*filler, do func(*filler) error) error {
	var working sync.WaitGroup
	errs := make([]error, len(fillers))
	for i, f := range fillers {
		working.Go(func() { errs[i] = do(f) })
	}
	working.Wait()
	return errors.Join(errs...)
}

// makeFillers makes a volume for each disk of the nodes.
func (t *Trial) makeFillers(ctx context.Context, names []string) (fillers []*filler, err error) {
	var others []*filler
	defer func() { err = errors.Join(err, t.dropFillers(ctx, others)) }()
	for range fillersMax {
		if len(fillers) == len(names)*Cluster.Disks {
			break
		}
		f, err := t.makeFiller(ctx)
		if err != nil {
			return fillers, err
		}
		disk := f.volume.GetReplicas()[0].GetDisk()
		taken := slices.ContainsFunc(fillers, func(g *filler) bool { return g.volume.GetReplicas()[0].GetDisk() == disk })
		if taken || !slices.Contains(names, f.volume.GetNode()) {
			others = append(others, f)
		} else {
			fillers = append(fillers, f)
		}
	}
	if len(fillers) < len(names)*Cluster.Disks {
		return fillers, fmt.Errorf("%d volumes of one copy were not put on every disk of %v", fillersMax, names)
	}
	for _, f := range fillers {
		if err := t.connectFiller(ctx, f); err != nil {
			return fillers, err
		}
	}
	return fillers, nil
}

// makeFiller makes one more volume.
func (t *Trial) makeFiller(ctx context.Context) (*filler, error) {
	t.fillers++
	name := fmt.Sprintf("%s-%d", fillerPool, t.fillers)
	if _, err := t.c.Ctl(ctx, cluster.HostName, "volume", "create", name, "--pool", fillerPool, "--size", fmt.Sprint(Cluster.DiskSize)); err != nil {
		return nil, err
	}
	v, err := t.volumeNamed(ctx, name)
	if err == nil && len(v.GetReplicas()) != 1 {
		err = fmt.Errorf("%s is on %d disks", name, len(v.GetReplicas()))
	}
	return &filler{volume: v}, err
}

// connectFiller has a host at the node that has the volume.
func (t *Trial) connectFiller(ctx context.Context, f *filler) error {
	if _, err := t.c.Ctl(ctx, cluster.HostName, "map", f.volume.GetName(), "any"); err != nil {
		return err
	}
	i := slices.IndexFunc(t.nodes, func(n cluster.NodeStatus) bool { return n.Name == f.volume.GetNode() })
	dial := multipath.NVMe(nvmehost.Config{Addr: t.nodes[i].NVMe[0], SubNQN: f.volume.GetNqn(), HostNQN: "nqn.2026-01.dev.blockd:filler",
		HostID: [16]byte{15: 2}, Depth: 64, KeepAlive: silence, Timeout: silence}, f.volume.GetNsid(),
		func(f func() error) error { return t.c.Do(cluster.HostName, f) })
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	var err error
	f.dev, err = multipath.New(ctx, multipath.Config{Paths: []func(context.Context) (multipath.Session, error){dial}, Patience: hostPatience})
	f.data = make([]byte, fillerBytes)
	for i := range f.data {
		f.data[i] = byte(i | 1) // zeroes would take no room
	}
	return err
}

// fill writes until the disk has no chunk left.
func (f *filler) fill() error {
	for _, size := range []int64{fillerBytes, regionBytes} {
		for {
			err := f.write(size)
			if errors.Is(err, blockdev.ErrNoSpace) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// write writes the next whole regions, each of which wants a chunk.
func (f *filler) write(size int64) error {
	if f.at+size > f.volume.GetSizeBytes() {
		return fmt.Errorf("%s is as large as its disk, and fits on it", f.volume.GetName())
	}
	err := blockdev.WriteAt(f.dev, f.data[:size], f.at)
	if err == nil {
		f.at += size
	}
	return err
}

func noSpaceIsFine(err error) error {
	if errors.Is(err, blockdev.ErrNoSpace) {
		return nil
	}
	return err
}

// dropFillers deletes volumes, and waits until their nodes have freed what they took.
func (t *Trial) dropFillers(ctx context.Context, fillers []*filler) error {
	var errs []error
	for _, f := range fillers {
		if f.dev != nil {
			errs = append(errs, f.dev.Close())
		}
		_, err := t.c.Ctl(ctx, cluster.HostName, "volume", "delete", f.volume.GetName(), "--yes")
		errs = append(errs, err)
	}
	return errors.Join(append(errs, t.ask(ctx, "the other volumes to be gone", readyPatience, func(ctx context.Context, client connect.HTTPClient, address string) error {
		r, err := blockdv1connect.NewVolumeServiceClient(client, address).ListVolumes(ctx, connect.NewRequest(&blockdv1.ListVolumesRequest{}))
		if err != nil {
			return err
		}
		for _, v := range r.Msg.GetVolumes() {
			if slices.ContainsFunc(fillers, func(f *filler) bool { return f.volume.GetName() == v.GetName() }) {
				err = fmt.Errorf("%s is %s", v.GetName(), v.GetState())
			}
		}
		return err
	}))...)
}

// awaitRoom waits until hosts are told no more that there is no space.
func (t *Trial) awaitRoom(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	for {
		before := t.load.refusals()
		pass(ctx, roomFor)
		if ctx.Err() != nil {
			return fmt.Errorf("hosts are still told that there is no space, %v after it was freed", readyPatience)
		}
		if t.load.refusals() == before {
			return nil
		}
	}
}
