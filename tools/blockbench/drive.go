package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/internal/units"
	"blockd.dev/tools/blockbench/load"
	"blockd.dev/tools/blockbench/reconnect"
)

// host makes connections to one volume, by any protocol.
type host struct {
	dial func(ctx context.Context) (reconnect.Session, error)
	// writeCache reports whether the target says that it has a volatile one.
	writeCache func(reconnect.Session) bool
}

// driver is what the commands that load a target have in common.
type driver struct {
	spec        load.Spec
	connections int
	sizes, mix  string
	offset, rng string
	output      string
	progress    string
	reconnect   time.Duration

	verify  bool
	journal string
	zeroed  bool
}

// dataError is a failed verification: the program ends with a status of its
// own.
type dataError struct{ error }

func (e dataError) Unwrap() error { return e.error }

const exitData = 3

func (d *driver) flags(f *pflag.FlagSet) {
	f.StringVar(&d.sizes, "bs", "4KiB", "request size, or sizes with their shares: 4K:70,64K:30")
	f.StringVar(&d.mix, "mix", "", "operations with their shares instead of --read-percent: read:60,write:30,unmap:10;\nthere are read, write, flush, unmap, write-zeroes and, with --verify, compare-and-write")
	f.IntVar(&d.spec.ReadPercent, "read-percent", 100, "share of reads: 0 writes only, 100 reads only (default with --verify: 50)")
	f.BoolVar(&d.spec.Sequential, "sequential", false, "consecutive offsets rather than random ones")
	f.IntVar(&d.spec.Depth, "depth", 32, "requests in flight on each connection")
	f.IntVar(&d.connections, "connections", 1, "connections at once, 1 to 256")
	f.Float64Var(&d.spec.Rate, "rate", 0, "requests per second over all connections (0: no limit); latencies then count from when\na request was due")
	f.DurationVar(&d.spec.Runtime, "runtime", 10*time.Second, "how long to measure")
	f.DurationVar(&d.spec.Warmup, "warmup", 0, "how long to load before that, without counting")
	f.StringVar(&d.offset, "offset", "0", "where on the volume to begin")
	f.StringVar(&d.rng, "range", "0", "how much of the volume to use from there (0: all)")
	f.BoolVar(&d.spec.FUA, "fua", false, "writes are durable before they count as done")
	f.Uint64Var(&d.spec.Seed, "seed", 1, "of the offsets and the data")
	f.StringVarP(&d.output, "output", "o", "table", "table or json")
	f.StringVar(&d.progress, "progress", "auto", "a line on standard error every second: auto (on a terminal), on or off")
	f.DurationVar(&d.reconnect, "reconnect", 0, "go on when the target is back within this time (0: end when it is lost)")
	f.BoolVar(&d.verify, "verify", false, "write patterns, check what is read, and read everything back at the end; needs --journal")
	f.StringVar(&d.journal, "journal", "", "file that keeps what was written and acknowledged; a new one begins anew")
	f.BoolVar(&d.zeroed, "zeroed", false, "with a new journal: the range must read as zeroes where it was not written")
}

// parse turns the flags' text into the spec.
func (d *driver) parse() error {
	var err error
	if d.spec.Sizes, err = load.ParseSizes(d.sizes); err != nil {
		return fmt.Errorf("--bs: %w", err)
	}
	if d.mix != "" {
		if d.spec.Mix, err = load.ParseMix(d.mix); err != nil {
			return fmt.Errorf("--mix: %w", err)
		}
	}
	if d.spec.OffsetBytes, err = units.ParseBytes(d.offset); err != nil {
		return fmt.Errorf("--offset: %w", err)
	}
	if d.spec.RangeBytes, err = units.ParseBytes(d.rng); err != nil {
		return fmt.Errorf("--range: %w", err)
	}
	if d.connections < 1 || d.connections > 256 {
		return fmt.Errorf("--connections %d: give 1 to 256", d.connections)
	}
	if d.verify != (d.journal != "") {
		return errors.New("--verify and --journal FILE go together")
	}
	for _, m := range d.spec.Mix {
		if m.What == blockdev.OpCompareAndWrite && !d.verify {
			return errors.New("--mix: compare-and-write needs --verify, which knows what to compare with")
		}
	}
	switch d.progress {
	case "auto", "on", "off":
	default:
		return fmt.Errorf("--progress %q: give auto, on or off", d.progress)
	}
	switch d.output {
	case "table", "json":
	default:
		return fmt.Errorf("output format %q: give table or json", d.output)
	}
	return nil
}

// away counts how often and how long the target was lost.
type away struct {
	mu    sync.Mutex
	times int
	most  time.Duration
}

func (a *away) found(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times++
	a.most = max(a.most, d)
}

// report is what a load prints.
type report struct {
	load.Result
	Reconnects int           `json:"reconnects,omitempty"` // over all connections
	AwayMax    time.Duration `json:"away_max_ns,omitempty"`
	Verified   *verified     `json:"verified,omitempty"`
}

// run loads the host's volume and prints what came of it.
func (d *driver) run(cmd *cobra.Command, h host) (err error) {
	if err := d.parse(); err != nil {
		return err
	}
	if d.verify && !cmd.Flags().Changed("read-percent") {
		d.spec.ReadPercent = 50
	}
	ctx := cmd.Context()
	mem, err := arena.New(arena.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	conns, lost, err := d.connect(ctx, h, cmd.ErrOrStderr())
	defer func() {
		for _, c := range conns {
			_ = c.Close() // what it was for is over
		}
	}()
	if err != nil {
		return err
	}
	devs := make([]blockdev.Device, len(conns))
	for i, c := range conns {
		devs[i] = c.Device
	}
	var check *checking
	if d.verify {
		if check, err = d.openJournal(h, conns[0]); err != nil {
			return err
		}
		for i, c := range conns {
			c.crashed = check.checker.Journal.Crashed
			devs[i] = check.checker.Device(c.Device)
		}
	}
	if d.progress == "on" || d.progress == "auto" && isTerminal(os.Stderr) {
		d.spec.Progress = progressLine(cmd.ErrOrStderr())
	}
	var rep report
	rep.Result, err = load.RunAll(ctx, devs, mem, d.spec)
	if d.spec.Progress != nil {
		fmt.Fprintln(cmd.ErrOrStderr())
	}
	rep.Reconnects, rep.AwayMax = lost.times, lost.most
	if err == nil {
		err = rep.Err()
	}
	if check != nil {
		if err == nil {
			// An interrupt ends the load; the next one the program.
			err = check.all(context.WithoutCancel(ctx), conns[0])
		}
		rep.Verified, err = check.close(err)
		if errors.Is(err, blockdev.ErrGone) {
			err = fmt.Errorf("the target was lost: %w; when it is back, check it with: blockbench verify --journal %s URL", err, d.journal)
		}
	}
	if rep.Ops == 0 && err != nil {
		return err
	}
	return errors.Join(printReport(cmd.OutOrStdout(), d.output, rep), err)
}

// connection is one of the load's.
type connection struct {
	*reconnect.Device
	first   reconnect.Session
	crashed func()
}

// connect makes all connections.
func (d *driver) connect(ctx context.Context, h host, log io.Writer) ([]*connection, *away, error) {
	var conns []*connection
	lost := &away{}
	for range d.connections {
		c := &connection{crashed: func() {}}
		dial := func(ctx context.Context) (reconnect.Session, error) {
			s, err := h.dial(ctx)
			if c.first == nil {
				c.first = s
			}
			return s, err
		}
		var err error
		c.Device, err = reconnect.New(ctx, reconnect.Config{
			Dial: dial, Timeout: d.reconnect, Interrupt: d.verify,
			Lost: func(why error) {
				if d.reconnect > 0 {
					fmt.Fprintf(log, "lost the target: %v\n", why)
				}
			},
			Found: func(took time.Duration) {
				lost.found(took)
				c.crashed()
				fmt.Fprintf(log, "the target is back after %v\n", took.Round(time.Millisecond))
			},
		})
		if err != nil {
			return conns, lost, err
		}
		conns = append(conns, c)
	}
	return conns, lost, nil
}
