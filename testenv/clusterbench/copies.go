package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"blockd.dev/testenv/cluster"
)

// Result is one load on one kind of volume.
type Result struct {
	Load   string `json:"load"`
	Volume string `json:"volume"` // copies, and how they travel
	Sample
	Ratio float64 `json:"ratio"` // of IOPS, to one copy on the node that the host is connected to
}

// allLoads are those of copies.
var allLoads = append(slices.Clone(randomLoads),
	load{"write 128k, in order, 8 in flight", true, true, 128, 8},
	load{"read 128k, in order, 8 in flight", false, true, 128, 8})

// disks are what the nodes of a cluster have.
type disks struct {
	name   string
	onDisk bool
	size   int64 // of each, in bytes
	volume int64 // bytes of each volume: two fit on a disk besides its log
}

var (
	inMemory = disks{"disks in memory", false, 2 << 30, 256 << 20}
	inFiles  = disks{"disks in files", true, durableDisk, durableVolume}
)

// network is a way in which nodes talk.
type network struct{ mode, name string }

var networks = []network{{"auto", "AF_XDP"}, {"udp", "UDP"}}

// oneCopy is what volumes of three are compared with.
const oneCopy = "1 copy"

// copies measures what three copies cost beside one, over each network.
func copies(ctx context.Context, cfg Config, d disks, w io.Writer) ([]Result, error) {
	if d.onDisk {
		if err := realDisk(cfg.Dir); err != nil {
			return nil, err
		}
	}
	type key struct{ load, volume string }
	rounds := map[key][]Sample{}
	var order []key
	for _, n := range networks {
		err := onNetwork(ctx, cfg, d, n, w, func(load, volume string, s Sample) {
			k := key{load, volume}
			if rounds[k] == nil {
				order = append(order, k)
			}
			rounds[k] = append(rounds[k], s)
		})
		if err != nil {
			return nil, err
		}
	}
	var out []Result
	for _, k := range order {
		r := Result{Load: k.load, Volume: k.volume, Sample: median(rounds[k])}
		if one := rounds[key{k.load, oneCopy}]; one != nil {
			r.Ratio = r.IOPS / median(one).IOPS
		}
		out = append(out, r)
	}
	return out, nil
}

// onNetwork measures on a fresh cluster.
func onNetwork(ctx context.Context, cfg Config, d disks, n network, w io.Writer, found func(load, volume string, s Sample)) (err error) {
	fmt.Fprintf(w, "three nodes, %s, %s between them\n", d.name, n.name)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, n.mode), BinDir: cfg.BinDir, OnDisk: d.onDisk, DiskSize: d.size, Args: []string{"--wire-mode", n.mode}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	if err := b.createPool(ctx); err != nil {
		return err
	}
	one, three := &target{name: "one"}, &target{name: "three"}
	if err := b.create(ctx, one, "default", d.volume); err != nil {
		return err
	}
	if err := b.create(ctx, three, safePool, d.volume); err != nil {
		return err
	}
	for round := range cfg.Rounds {
		for _, l := range allLoads {
			for _, v := range []*target{one, three} {
				s, err := b.measure(ctx, l, v)
				if err != nil {
					return err
				}
				volume := oneCopy
				if v == three {
					volume = "3 copies, " + n.name
				}
				found(l.name, volume, s)
				fmt.Fprintf(w, "  round %d: %-34s %-18s %8.0f IOPS, p50 %v\n", round+1, l.name, volume, s.IOPS, s.P50.Round(time.Microsecond))
			}
		}
	}
	return nil
}
