package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"time"

	"blockd.dev/testenv/cluster"
)

// Resync is what it takes to bring copies back, with disks in files.
type Resync struct {
	VolumeBytes int64     `json:"volume_bytes"`
	Rate        float64   `json:"host_writes_per_s"` // of 4 KiB, at random places, wherever there is a load
	Absences    []Absence `json:"absences"`
	Rebuilds    []Rebuild `json:"rebuilds"`
}

// Absence is a node that was away while hosts wrote, and came back while they did.
type Absence struct {
	Range   int64         `json:"range_bytes"` // where hosts wrote
	Away    time.Duration `json:"away_ns"`
	Writes  int64         `json:"writes"`        // while it was away
	Regions float64       `json:"regions_bytes"` // distinct regions of 64 KiB that these met, the unit of versions
	Blocks  float64       `json:"blocks_bytes"`  // distinct blocks of 4 KiB
	Copied  float64       `json:"copied_bytes"`  // of data, to bring the copy back
	Took    time.Duration `json:"took_ns"`       // from blockd's start until the copy was in sync
	Before  time.Duration `json:"p99_before_ns"` // of hosts' writes, with all copies in sync
	During  time.Duration `json:"p99_during_ns"` // while the copy was brought back; these are not in Writes
}

// Rebuild is a disk that was emptied onto another.
type Rebuild struct {
	Bandwidth int64         `json:"bandwidth"`    // what each node got from the network, bits a second; 0: not limited
	Limits    Limits        `json:"limits"`       // with that
	Loaded    bool          `json:"loaded"`       // hosts wrote meanwhile
	Copied    float64       `json:"copied_bytes"` // as far as the owner was seen to count: the last moments before another begins are missing
	Took      time.Duration `json:"took_ns"`      // from when the first of these was seen until the last was
	CPU       time.Duration `json:"cpu_ns"`       // of all nodes, from the order until the disk was empty
	Before    time.Duration `json:"p99_before_ns,omitempty"`
	During    time.Duration `json:"p99_during_ns,omitempty"`
}

// MBps is the rate of a rebuild.
func (r *Rebuild) MBps() float64 { return r.Copied / 1e6 / max(r.Took.Seconds(), 1e-3) }

// The goals: how much is copied of what changed, how near rebuilds come to the
// limit, and what hosts' 99th percentile may become.
const (
	goalCopied = 1.2
	goalRate   = 0.7
	goalP99    = 2
)

const (
	resyncVolume = 1 << 30 // bytes
	regionBytes  = 64 << 10
	blockBytes   = 4 << 10
	// resyncShare is the share of what a volume can do that hosts ask for.
	resyncShare = 0.25
	// calmFor is how long hosts are measured at least while no copy is brought back: a store has checkpoints
	// every few seconds, and what is divided by has to have some of them.
	calmFor = 20 * time.Second
	// stillFor is how long nothing was copied when it is asked whether a disk is empty; a pause in which hosts
	// are listened to is shorter.
	stillFor = time.Second
	// resyncPatience is how long a copy may take to be in sync.
	resyncPatience = 10 * time.Minute
)

// resync measures absences and rebuilds on a cluster of four nodes, of which a
// volume uses three.
func resync(ctx context.Context, cfg Config, w io.Writer) (_ *Resync, err error) {
	if err := realDisk(cfg.Dir); err != nil {
		return nil, err
	}
	fmt.Fprintf(w, "four nodes, disks in files of %s\n", cfg.Dir)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, "resync"), BinDir: cfg.BinDir, Nodes: 4, OnDisk: true, Written: true, DiskSize: durableDisk})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	out := &Resync{VolumeBytes: resyncVolume}
	limits, err := b.limits(ctx)
	if err != nil {
		return out, err
	}
	r, err := newResyncer(ctx, b, resyncVolume)
	if err != nil {
		return out, err
	}
	out.Rate = r.rate
	for _, written := range []int64{r.size, r.size / 16} {
		a, err := r.absence(ctx, written)
		if err != nil {
			return out, err
		}
		out.Absences = append(out.Absences, a)
	}
	err = r.rebuilds(ctx, out, limits)
	if err == nil && cfg.Bandwidth > 0 {
		err = r.rebuildsWithin(ctx, out, cfg.Bandwidth)
	}
	return out, err
}

// rebuilds empties disks, first without hosts.
func (r *resyncer) rebuilds(ctx context.Context, out *Resync, limits Limits) error {
	for _, loaded := range []bool{false, true} {
		re, err := r.rebuild(ctx, loaded)
		if err != nil {
			return err
		}
		re.Limits = limits
		out.Rebuilds = append(out.Rebuilds, re)
	}
	return nil
}

// rebuildsWithin is rebuilds while each node gets so many bits a second from the network.
func (r *resyncer) rebuildsWithin(ctx context.Context, out *Resync, bandwidth int64) error {
	if err := r.c.Bandwidth(bandwidth); err != nil {
		return err
	}
	fmt.Fprintf(r.w, "  each node gets %s a second from the network\n", cluster.FormatBandwidth(bandwidth))
	limits, err := r.limits(ctx)
	if err != nil {
		return err
	}
	done := len(out.Rebuilds)
	err = r.rebuilds(ctx, out, limits)
	for i := range out.Rebuilds[done:] {
		out.Rebuilds[done+i].Bandwidth = bandwidth
	}
	return errors.Join(err, r.c.Bandwidth(0))
}

// resyncer is a volume whose copies go and come.
type resyncer struct {
	*bench
	v    *target
	size int64   // of the volume, in bytes
	rate float64 // what hosts ask for where there is a load, writes a second
}

// newResyncer makes the volume on the first three of four nodes: the disk of the
// fourth is for rebuilds. Hosts will ask for a part of what they could get.
func newResyncer(ctx context.Context, b *bench, size int64) (*resyncer, error) {
	r := &resyncer{bench: b, v: &target{name: "three"}, size: size}
	if err := b.createPool(ctx); err != nil {
		return nil, err
	}
	if err := b.drain(ctx, "n4"); err != nil {
		return nil, err
	}
	if err := b.create(ctx, r.v, safePool, size); err != nil {
		return nil, err
	}
	if err := b.resume(ctx, "n4"); err != nil {
		return nil, err
	}
	s, err := r.measure(ctx, randomLoads[1], r.v)
	r.rate = max(1, math.Floor(s.IOPS*resyncShare))
	return r, err
}

// hosts is a load of that rate on the first bytes of the volume.
func (r *resyncer) hosts(bytes int64, runtime time.Duration) []string {
	return []string{"--bs", "4KiB", "--read-percent", "0", "--depth", "32", "--rate", fmt.Sprint(r.rate), "--range", strconv.FormatInt(bytes, 10), "--runtime", runtime.String()}
}

// absence kills a node that has a copy and does not own the volume, and starts it again later.
func (r *resyncer) absence(ctx context.Context, bytes int64) (a Absence, err error) {
	a.Range, a.Away = bytes, r.cfg.Away
	calm, err := r.loadFor(ctx, bytes, max(calmFor, r.cfg.Runtime))
	if err != nil {
		return a, err
	}
	a.Before = calm.P99
	victim, err := r.otherThanOwner(ctx)
	if err != nil {
		return a, err
	}
	if err := r.c.Kill(victim); err != nil {
		return a, err
	}
	if _, err := r.follow(ctx, func(owner map[string]float64, _ *progress) (bool, error) {
		return r.replicas(owner, "out of sync") == 1, nil
	}); err != nil {
		return a, fmt.Errorf("%s is killed, but its copy not out of sync: %w", victim, err)
	}
	away, err := r.loadFor(ctx, bytes, r.cfg.Away)
	if err != nil {
		return a, err
	}
	var p progress
	back, err := r.whileLoaded(ctx, bytes, func() error {
		began := time.Now()
		if err := r.c.Restart(ctx, victim); err != nil {
			return err
		}
		var err error
		p, err = r.follow(ctx, func(owner map[string]float64, _ *progress) (bool, error) {
			return r.replicas(owner, "in sync") == 3, nil
		})
		a.Took = time.Since(began)
		return err
	})
	if err != nil {
		return a, fmt.Errorf("%s is back, but its copy not in sync: %w", victim, err)
	}
	a.During, a.Copied, a.Writes = back.P99, p.copied, away.Ops
	a.Regions, a.Blocks = distinct(a.Writes, bytes, regionBytes), distinct(a.Writes, bytes, blockBytes)
	fmt.Fprintf(r.w, "  %s was away for %v, and in sync %v after its start: %.0f MB copied, hosts' p99 %v, before %v\n",
		victim, r.cfg.Away, a.Took.Round(time.Millisecond), a.Copied/1e6, a.During, a.Before)
	return a, nil
}

// distinct is how much n writes at random places of a range change, in bytes of
// whole units: the mean, from which a run of thousands differs by less than one in a hundred.
func distinct(n, rangeBytes, unit int64) float64 {
	units := float64(rangeBytes / unit)
	return units * -math.Expm1(float64(n)*math.Log1p(-1/units)) * float64(unit)
}

// rebuild empties the disk of a node that does not own the volume onto the one that has none of it.
func (r *resyncer) rebuild(ctx context.Context, loaded bool) (re Rebuild, err error) {
	re.Loaded = loaded
	from, err := r.otherThanOwner(ctx)
	if err != nil {
		return re, err
	}
	var p progress
	pids, err := r.pids()
	if err != nil {
		return re, err
	}
	empty := func() error {
		before, err := cpu(pids)
		if err != nil {
			return err
		}
		if err := r.drain(ctx, from); err != nil {
			return err
		}
		p, err = r.follow(ctx, func(owner map[string]float64, p *progress) (bool, error) {
			if p.copied == 0 || time.Since(p.last) < stillFor {
				return false, nil // what comes next starts a process, which hosts would feel
			}
			s, err := r.shown(ctx, r.v)
			return err == nil && len(s.Replicas) == 3 && !s.on(from) && r.replicas(owner, "in sync") == 3, err
		})
		if err != nil {
			return err
		}
		after, err := cpu(pids)
		re.CPU = after - before
		return err
	}
	if loaded {
		var calm, during loadedResult
		if calm, err = r.loadFor(ctx, r.size, max(calmFor, r.cfg.Runtime)); err != nil {
			return re, err
		}
		during, err = r.whileLoaded(ctx, r.size, empty)
		re.Before, re.During = calm.P99, during.P99
	} else {
		err = empty()
	}
	if err != nil {
		return re, fmt.Errorf("the disk of %s is drained, but not empty: %w", from, err)
	}
	re.Copied, re.Took = p.copied, p.last.Sub(p.first)
	fmt.Fprintf(r.w, "  the disk of %s was emptied: %.0f MB in %v, %.0f MB/s; hosts' p99 %v, before %v\n",
		from, re.Copied/1e6, re.Took.Round(time.Millisecond), re.MBps(), re.During, re.Before)
	return re, r.resume(ctx, from)
}
