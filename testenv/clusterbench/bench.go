package clusterbench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Config says what to measure, how long, and where.
type Config struct {
	Dir     string        // for clusters; missing or empty, and for Durable on the file system to measure
	BinDir  string        // of blockd, blockctl, blockbench and testenv
	Runtime time.Duration // of each measurement, in whole seconds
	Rounds  int           // of all measurements on a cluster; the median counts
	Away    time.Duration // of a node, in the part on resync
	// Bandwidth is what each node gets from the network in a second, in bits, where a disk is emptied once more. Zero:
	// it is emptied only with the network as it is, a copy in memory.
	Bandwidth int64
	Only      string // name of one part; all by default
}

// Report is what the parts found; it is nil of a part that did not run.
type Report struct {
	Copies   []Result  `json:"copies,omitempty"`
	Files    []Result  `json:"files,omitempty"`
	Durable  *Durable  `json:"durable,omitempty"`
	Resync   *Resync   `json:"resync,omitempty"`
	Lost     *Lost     `json:"rebuild,omitempty"`
	Failover *Failover `json:"failover,omitempty"`
	Idle     *Idle     `json:"idle,omitempty"`
}

// parts are what Run does, in order.
var parts = []struct {
	name string
	run  func(context.Context, Config, io.Writer, *Report) error
}{
	{"copies", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Copies, err = copies(ctx, cfg, inMemory, w)
		return err
	}},
	{"files", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Files, err = copies(ctx, cfg, inFiles, w)
		return err
	}},
	{"durable", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Durable, err = durable(ctx, cfg, w)
		return err
	}},
	{"resync", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Resync, err = resync(ctx, cfg, w)
		return err
	}},
	{"rebuild", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Lost, err = lost(ctx, cfg, w)
		return err
	}},
	{"failover", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Failover, err = failover(ctx, cfg, w)
		return err
	}},
	{"idle", func(ctx context.Context, cfg Config, w io.Writer, r *Report) (err error) {
		r.Idle, err = idle(ctx, cfg, w)
		return err
	}},
}

// Run measures, and tells of progress on w. What was found before an error is in
// the report.
func Run(ctx context.Context, cfg Config, w io.Writer) (*Report, error) {
	r := &Report{}
	var names []string
	known := cfg.Only == ""
	for _, p := range parts {
		names = append(names, p.name)
		known = known || p.name == cfg.Only
	}
	if cfg.Runtime < time.Second || cfg.Runtime%time.Second != 0 {
		return r, fmt.Errorf("--runtime %v: give whole seconds, as fio counts them", cfg.Runtime)
	}
	if cfg.Rounds < 1 {
		return r, fmt.Errorf("--rounds %d: give 1 or more", cfg.Rounds)
	}
	if cfg.Away < time.Second {
		return r, fmt.Errorf("--away %v: give a second or more", cfg.Away)
	}
	if !known {
		return r, fmt.Errorf("--only %s: give one of %v", cfg.Only, names)
	}
	var errs []error
	for _, p := range parts {
		if cfg.Only == "" || cfg.Only == p.name {
			if err := p.run(ctx, cfg, w, r); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
			}
		}
	}
	return r, errors.Join(errs...)
}

// Sample is one round of a load.
type Sample struct {
	IOPS float64       `json:"iops"`
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	CPU  time.Duration `json:"cpu_per_op_ns"` // of all serving processes together
}

// median is the round with the middle rate.
func median(of []Sample) Sample {
	sorted := slices.SortedFunc(slices.Values(of), func(a, b Sample) int { return cmp.Compare(a.IOPS, b.IOPS) })
	return sorted[len(sorted)/2]
}
