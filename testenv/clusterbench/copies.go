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

// Result is one load on one kind of volume, with disks in memory.
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

// memoryVolume is the size of each volume in bytes: two fit on a disk besides its log.
const memoryVolume = 256 << 20

// network is a way in which nodes talk.
type network struct{ mode, name string }

var networks = []network{{"auto", "AF_XDP"}, {"udp", "UDP"}}

// oneCopy is what volumes of three are compared with.
const oneCopy = "1 copy"

// copies measures what three copies cost beside one, over each network.
func copies(ctx context.Context, cfg Config, w io.Writer) ([]Result, error) {
	type key struct{ load, volume string }
	rounds := map[key][]Sample{}
	var order []key
	for _, n := range networks {
		err := onNetwork(ctx, cfg, n, w, func(load, volume string, s Sample) {
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
func onNetwork(ctx context.Context, cfg Config, n network, w io.Writer, found func(load, volume string, s Sample)) (err error) {
	fmt.Fprintf(w, "three nodes, disks in memory, %s between them\n", n.name)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, n.mode), BinDir: cfg.BinDir, DiskSize: 2 << 30, Args: []string{"--wire-mode", n.mode}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	if err := b.createPool(ctx); err != nil {
		return err
	}
	one, three := &target{name: "one"}, &target{name: "three"}
	if err := b.create(ctx, one, "default", memoryVolume); err != nil {
		return err
	}
	if err := b.create(ctx, three, safePool, memoryVolume); err != nil {
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
