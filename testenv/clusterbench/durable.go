package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/testenv/ceph"
	"blockd.dev/testenv/cluster"
)

// Durable is volumes of three copies whose disks are files of one file system,
// beside Ceph's RBD with its OSDs on the same, if that is installed.
type Durable struct {
	Floor     Floor        `json:"floor"`
	Ceph      string       `json:"ceph,omitempty"`         // its version
	CephError string       `json:"ceph_missing,omitempty"` // why it was not measured
	Rows      []DurableRow `json:"rows"`
}

// DurableRow is one load.
type DurableRow struct {
	Load   string  `json:"load"`
	Blockd Sample  `json:"blockd"`
	Ceph   *Sample `json:"ceph,omitempty"`
	Ratio  float64 `json:"ratio,omitempty"` // of IOPS, to Ceph's
	Goal   float64 `json:"goal_ratio,omitempty"`
	Bars   []Bar   `json:"bars"`
	Stages []Stage `json:"stages"` // of blockd's
}

// Met reports whether the row reaches its goal; without one, or without Ceph, it does.
func (r *DurableRow) Met() bool { return r.Ceph == nil || r.Ratio >= r.Goal }

// Bar is a figure from elsewhere that blockd is to pass.
type Bar struct {
	Name string  `json:"name"`
	IOPS float64 `json:"iops"`
}

// durableCase is a load with its goals.
type durableCase struct {
	load
	goal float64 // times Ceph's IOPS; 0 for none
	bars []Bar
}

// durableCases are randomLoads with the best figures that are known of three copies
// on one such machine and disk.
var durableCases = []durableCase{
	{randomLoads[0], 4, []Bar{{"Ceph 16", 840}, {"Vitastor", 1170}}},
	{randomLoads[1], 8, []Bar{{"Ceph 16", 2900}, {"Vitastor", 6090}}},
	{randomLoads[2], 0, []Bar{{"Ceph 16", 3950}, {"Vitastor", 9550}}},
	{randomLoads[3], 0, []Bar{{"Ceph 16", 9200}, {"Vitastor", 23060}}},
}

const (
	durableVolume = 512 << 20 // bytes; of the image as well
	durableDisk   = 4 << 30   // bytes of each node's disk, and of each OSD
)

// durable measures rounds of both in turn.
func durable(ctx context.Context, cfg Config, w io.Writer) (_ *Durable, err error) {
	if err := realDisk(cfg.Dir); err != nil {
		return nil, err
	}
	out := &Durable{}
	fmt.Fprintf(w, "three nodes, disks in files of %s\n", cfg.Dir)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, "durable"), BinDir: cfg.BinDir, OnDisk: true, DiskSize: durableDisk})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	v := &target{name: "three"}
	if err := b.createPool(ctx); err != nil {
		return nil, err
	}
	if err := b.create(ctx, v, safePool, durableVolume); err != nil {
		return nil, err
	}
	peer, err := newPeer(ctx, cfg, w, out)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, peer.down()) }()
	return out, b.durableRounds(ctx, v, peer, out)
}

func (b *bench) durableRounds(ctx context.Context, v *target, peer *peer, out *Durable) error {
	own, other := make([][]Sample, len(durableCases)), make([][]Sample, len(durableCases))
	var floors floors
	ways := make([]stages, len(durableCases))
	for round := range b.cfg.Rounds {
		if err := floors.measure(ctx, filepath.Join(b.cfg.Dir, "floor"), b.cfg.Runtime); err != nil {
			return err
		}
		for i := range durableCases {
			l := durableCases[i].load
			before, err := b.latency(ctx, v)
			if err != nil {
				return err
			}
			s, err := b.measure(ctx, l, v)
			if err != nil {
				return err
			}
			after, err := b.latency(ctx, v)
			if err != nil {
				return err
			}
			ways[i].load = l
			ways[i].add(s, before, after)
			own[i] = append(own[i], s)
			line := fmt.Sprintf("  round %d: %-34s blockd %8.0f IOPS, p50 %v", round+1, l.name, s.IOPS, s.P50.Round(time.Microsecond))
			if peer != nil {
				if s, err = peer.measure(ctx, l); err != nil {
					return err
				}
				other[i] = append(other[i], s)
				line += fmt.Sprintf("; Ceph %8.0f, %v", s.IOPS, s.P50.Round(time.Microsecond))
			}
			fmt.Fprintln(b.w, line)
		}
	}
	for i, c := range durableCases {
		r := DurableRow{Load: c.name, Blockd: median(own[i]), Goal: c.goal, Bars: c.bars, Stages: ways[i].mean()}
		if peer != nil {
			s := median(other[i])
			r.Ceph, r.Ratio = &s, r.Blockd.IOPS/s.IOPS
		}
		out.Rows = append(out.Rows, r)
	}
	out.Floor = floors.median()
	return nil
}

// realDisk refuses a directory in memory, where a sync costs nothing.
func realDisk(dir string) error {
	var st unix.Statfs_t
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is in memory, where durable writes cost nothing; give a directory on a disk by --on", dir)
	}
	return nil
}

// peer is Ceph with an image.
type peer struct {
	c       *ceph.Cluster
	runtime time.Duration
}

const image = "bench"

// newPeer starts Ceph and fills an image. Without Ceph it says so, and is nil.
func newPeer(ctx context.Context, cfg Config, w io.Writer, out *Durable) (*peer, error) {
	if err := ceph.Missing(ctx); err != nil {
		fmt.Fprintln(w, err)
		out.CephError = err.Error()
		return nil, nil
	}
	var err error
	if out.Ceph, err = ceph.Version(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "Ceph %s, three OSDs in files of %s\n", out.Ceph, cfg.Dir)
	c, err := ceph.Up(ctx, ceph.Config{Dir: filepath.Join(cfg.Dir, "ceph"), OSDSize: durableDisk})
	if err != nil {
		return nil, err
	}
	p := &peer{c, cfg.Runtime}
	if err = c.CreateImage(ctx, image, durableVolume); err == nil {
		_, err = c.Run(ctx, image, ceph.Load{Write: true, Sequential: true, BlockBytes: 1 << 20, Depth: 8})
	}
	if err != nil {
		return nil, errors.Join(err, p.down())
	}
	return p, nil
}

func (p *peer) measure(ctx context.Context, l load) (Sample, error) {
	return withCPU(p.c.PIDs(), p.runtime, func() (Sample, error) {
		s, err := p.c.Run(ctx, image, ceph.Load{Write: l.write, Sequential: l.sequential, BlockBytes: l.blockKiB << 10, Depth: l.depth,
			Warmup: warmup, Runtime: p.runtime})
		return Sample{IOPS: s.IOPS, P50: s.P50, P99: s.P99}, err
	})
}

// down takes Ceph down, where there is any.
func (p *peer) down() error {
	if p == nil {
		return nil
	}
	return p.c.Down()
}
