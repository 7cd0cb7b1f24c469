package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
	"time"

	"blockd.dev/testenv/cluster"
)

// Lost is what became of nodes that were lost for good: other disks get their copies, many from many.
type Lost struct {
	VolumeBytes int64   `json:"volume_bytes"` // of each volume
	Volumes     int     `json:"volumes"`
	Rate        float64 `json:"host_writes_per_s"` // of 4 KiB, at random places of one volume, where there is a load
	Limits      Limits  `json:"limits"`
	Nodes       []Loss  `json:"nodes"`
}

// Loss is one node that was killed.
type Loss struct {
	Hosts  Hosts         `json:"hosts"`
	Copied float64       `json:"copied_bytes"` // as far as owners were seen to count
	Took   time.Duration `json:"took_ns"`      // from when the first of these was seen until the last was, or hosts went away
	Rest   Rest          `json:"rest"`
	Whole  time.Duration `json:"whole_ns"` // from the end of the node until all copies were in sync again
	Before loadedResult  `json:"before"`   // of hosts, with all copies in sync
	Until  loadedResult  `json:"until"`    // from the end of the node until the first of these was seen
	During loadedResult  `json:"during"`   // from then until all copies were in sync, but no longer than lostWindow
}

// Rest is what was left to copy when that window ended, and hosts went away.
type Rest struct {
	Copied float64       `json:"copied_bytes"`
	Took   time.Duration `json:"took_ns"` // from then until the last of it was seen
}

// MBps is the rate of all copies together.
func (l *Loss) MBps() float64 { return l.Copied / 1e6 / max(l.Took.Seconds(), 1e-3) }

// P50 is the median of what hosts waited, to that before.
func (l *Loss) P50() float64 { return float64(l.During.P50) / float64(max(l.Before.P50, 1)) }

// P99 is the 99th percentile of that, to the one before.
func (l *Loss) P99() float64 { return float64(l.During.P99) / float64(max(l.Before.P99, 1)) }

// Hosts says what hosts write to meanwhile.
type Hosts string

// The loads.
const (
	NoHosts    Hosts = "none"
	OwnHosts   Hosts = "of a volume that has lost copies"
	OtherHosts Hosts = "of a volume that has lost none"
)

// goalP50 is what the median of hosts of other volumes may become.
const goalP50 = 1.5

const (
	lostVolumes   = 4
	lostVolume    = 256 << 20 // bytes
	lostNode      = "n4"
	lostAfter     = 3 * time.Second  // rebuild_after: an owner has to have marked the copies out, and hosts to have felt that
	lostWindow    = 15 * time.Second // for which hosts are there at most: by then there is a rate, and what they wait
	lostFollowing = 250 * time.Millisecond
)

// lost measures nodes that are lost on a cluster of four, with disks in files.
func lost(ctx context.Context, cfg Config, w io.Writer) (_ *Lost, err error) {
	if err := realDisk(cfg.Dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "four nodes, disks in files of %s\n", cfg.Dir)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, "rebuild"), BinDir: cfg.BinDir, Nodes: 4, OnDisk: true, Written: true, DiskSize: durableDisk,
		Args: []string{"--rebuild-after", lostAfter.String()}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	out := &Lost{VolumeBytes: lostVolume, Volumes: lostVolumes}
	if out.Limits, err = b.limits(ctx); err != nil {
		return out, err
	}
	r, err := newLoser(ctx, b, lostVolume)
	if err != nil {
		return out, err
	}
	out.Rate = r.rate
	for _, hosts := range []Hosts{NoHosts, OwnHosts, OtherHosts} {
		l, err := r.lose(ctx, hosts)
		if err != nil {
			return out, err
		}
		out.Nodes = append(out.Nodes, l)
	}
	return out, nil
}

// loser loses a node again and again.
type loser struct {
	*bench
	other   *target // has no copy on that node
	rate    float64 // what hosts ask for where there is a load, writes a second
	size    int64   // of each volume, in bytes
	volumes []*target
	round   int
}

// newLoser makes the volume that loses nothing, on the first three nodes.
func newLoser(ctx context.Context, b *bench, size int64) (*loser, error) {
	r := &loser{bench: b, other: &target{name: "other"}, size: size}
	if err := b.createPool(ctx); err != nil {
		return nil, err
	}
	if err := b.drain(ctx, lostNode); err != nil {
		return nil, err
	}
	if err := b.create(ctx, r.other, safePool, size); err != nil {
		return nil, err
	}
	if err := b.resume(ctx, lostNode); err != nil {
		return nil, err
	}
	s, err := r.measure(ctx, randomLoads[1], r.other)
	r.rate = max(1, math.Floor(s.IOPS*resyncShare))
	return r, err
}

// lose makes volumes that have copies on all nodes, and kills one. When others have its copies, it starts
// again, to be lost the next time.
func (r *loser) lose(ctx context.Context, hosts Hosts) (l Loss, err error) {
	l.Hosts = hosts
	if err := r.fresh(ctx); err != nil {
		return l, err
	}
	v, err := r.loaded(ctx, hosts)
	if err != nil {
		return l, err
	}
	c := &copying{loser: r}
	load := &resyncer{bench: r.bench, v: v, size: r.size, rate: r.rate}
	meanwhile := func(during func() error) (loadedResult, error) {
		if v == nil {
			return loadedResult{}, during()
		}
		return load.whileLoaded(ctx, r.size, during)
	}
	if v != nil {
		if l.Before, err = load.loadFor(ctx, r.size, max(calmFor, r.cfg.Runtime)); err != nil {
			return l, err
		}
	}
	began := time.Now()
	if l.Until, err = meanwhile(func() error { return errors.Join(r.c.Kill(lostNode), c.until(ctx, c.begun)) }); err == nil {
		l.During, err = meanwhile(func() error { return c.until(ctx, c.within(ctx, hosts)) })
	}
	alone := time.Now()
	l.Copied, l.Took = c.progress.copied, c.last.Sub(c.first)
	if err == nil {
		err = c.until(ctx, c.ended(ctx))
	}
	if l.Rest.Copied = c.progress.copied - l.Copied; l.Rest.Copied > 0 {
		l.Took, l.Rest.Took = alone.Sub(c.first), c.last.Sub(alone)
	}
	if err != nil {
		return l, fmt.Errorf("%s is lost, but its copies not made anew: %w", lostNode, err)
	}
	l.Whole = time.Since(began)
	fmt.Fprintf(r.w, "  %s was lost, hosts: %s: %.0f MB in %v, %.0f MB/s, then %.0f MB in %v; all in sync after %v; hosts' p50 %v, until then %v, before %v, p99 %v, until then %v, before %v\n", lostNode, hosts,
		l.Copied/1e6, l.Took.Round(time.Millisecond), l.MBps(), l.Rest.Copied/1e6, l.Rest.Took.Round(time.Millisecond), l.Whole.Round(time.Millisecond), l.During.P50, l.Until.P50, l.Before.P50, l.During.P99, l.Until.P99, l.Before.P99)
	return l, r.c.Restart(ctx, lostNode)
}

// fresh makes other volumes in the place of those of the last time.
func (r *loser) fresh(ctx context.Context) error {
	for _, v := range r.volumes {
		for _, args := range [][]string{{"unmap", v.name, "any"}, {"volume", "delete", v.name, "--yes"}} {
			if _, err := r.c.Ctl(ctx, "n1", args...); err != nil {
				return err
			}
		}
	}
	r.volumes = nil
	r.round++
	for i := range lostVolumes {
		v := &target{name: fmt.Sprintf("v%d-%d", r.round, i)}
		if err := r.create(ctx, v, safePool, r.size); err != nil {
			return err
		}
		r.volumes = append(r.volumes, v)
	}
	return nil
}

// loaded is the volume that hosts write to, by a node that is not lost; nil for none.
func (r *loser) loaded(ctx context.Context, hosts Hosts) (*target, error) {
	switch hosts {
	case NoHosts:
		return nil, nil
	case OtherHosts:
		return r.other, nil
	}
	for _, v := range r.volumes {
		if s, err := r.shown(ctx, v); err != nil || s.on(lostNode) && s.Node != lostNode {
			return v, err
		}
	}
	return nil, fmt.Errorf("no volume has copies on %s and its owner elsewhere", lostNode)
}

// copying is how far all volumes together have come.
type copying struct {
	progress
	*loser
	copied map[string]float64 // by node and volume; nil before any were read
}

// until reads the metrics of all nodes that are there until done says so.
func (c *copying) until(ctx context.Context, done func(nodes map[string]map[string]float64) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, resyncPatience, fmt.Errorf("still so after %v", resyncPatience))
	defer cancel()
	st, err := c.c.Status()
	if err != nil {
		return err
	}
	tick := time.NewTicker(lostFollowing)
	defer tick.Stop()
	for {
		nodes, err := nodesMetrics(ctx, st.Nodes, "")
		if err != nil {
			return err
		}
		c.read(nodes)
		if ok, err := done(nodes); err != nil || ok {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

func (c *copying) read(nodes map[string]map[string]float64) {
	first := c.copied == nil
	if first {
		c.copied = map[string]float64{}
	}
	for name, m := range nodes {
		for key, now := range m {
			if !strings.HasPrefix(key, "blockd_volume_rebuild_copied_bytes_total{") {
				continue
			}
			if !first {
				c.grew(c.copied[name+key], now, time.Now())
			}
			c.copied[name+key] = now
		}
	}
}

// begun tells whether anything was copied.
func (c *copying) begun(map[string]map[string]float64) (bool, error) { return !c.first.IsZero(), nil }

// within tells whether ended does, or the time is up in which hosts are there.
func (c *copying) within(ctx context.Context, hosts Hosts) func(map[string]map[string]float64) (bool, error) {
	ended := c.ended(ctx)
	return func(nodes map[string]map[string]float64) (bool, error) {
		if hosts != NoHosts && time.Since(c.first) >= lostWindow {
			return true, nil
		}
		return ended(nodes)
	}
}

// ended tells whether all is in sync without the node that is lost.
func (c *copying) ended(ctx context.Context) func(map[string]map[string]float64) (bool, error) {
	return func(nodes map[string]map[string]float64) (bool, error) {
		if time.Since(c.last) < stillFor { // what comes next starts a process, which hosts would feel
			return false, nil
		}
		return c.whole(ctx, nodes)
	}
}

// whole tells whether all volumes are in sync on nodes that are there.
func (r *loser) whole(ctx context.Context, nodes map[string]map[string]float64) (bool, error) {
	for _, v := range r.volumes {
		s, err := r.shown(ctx, v)
		if err != nil || s.on(lostNode) {
			return false, err
		}
		of := &resyncer{bench: r.bench, v: v}
		if m := nodes[s.Node]; m == nil || of.replicas(m, "in sync") != 3 {
			return false, nil
		}
	}
	return true, nil
}

func printLost(w io.Writer, r *Lost) error {
	fmt.Fprintf(w, "\nA node of four that is lost for good: %d volumes of %d MiB, %.0f writes of 4 KiB a second where there is a load\n"+
		"The disk copies %.0f MB/s, the link moves %.0f, a plain copy %.0f\n", r.Volumes, r.VolumeBytes>>20, r.Rate, r.Limits.Disk, r.Limits.Link, r.Limits.Plain)
	return table(w, func(row func(...any)) {
		row("HOSTS", "COPIED", "TOOK", "MB/S", "TO THE LIMIT", "THEN, WITHOUT HOSTS", "IN SYNC AFTER", "P50 BEFORE", "P50 MEANWHILE", "RATIO", "P99 BEFORE", "P99 MEANWHILE", "RATIO")
		for _, l := range r.Nodes {
			near := l.MBps() / r.Limits.least()
			cells := []any{l.Hosts, fmt.Sprintf("%.0f MB", l.Copied/1e6), l.Took.Round(10 * time.Millisecond), fmt.Sprintf("%.0f", l.MBps()), ratio(near), "", l.Whole.Round(10 * time.Millisecond)}
			if l.Hosts == NoHosts {
				cells[4] = atLeast(near, goalRate)
			} else {
				p50 := ratio(l.P50())
				if l.Hosts == OtherHosts {
					p50 = atMost(l.P50(), goalP50)
				}
				cells[5] = fmt.Sprintf("%.0f MB in %v", l.Rest.Copied/1e6, l.Rest.Took.Round(10*time.Millisecond))
				cells = append(cells, micros(l.Before.P50), micros(l.During.P50), p50, micros(l.Before.P99), micros(l.During.P99), atMost(l.P99(), goalP99))
			}
			row(cells...)
		}
	})
}
