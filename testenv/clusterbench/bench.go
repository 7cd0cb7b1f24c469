package clusterbench

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"blockd.dev/testenv/cluster"
)

// Config says how long to measure, and where.
type Config struct {
	Dir     string        // for clusters; missing or empty
	BinDir  string        // of blockd, blockctl, blockbench and testenv
	Runtime time.Duration // of each measurement
	Rounds  int           // of all measurements on a cluster; the median counts
}

// Result is one load on one kind of volume.
type Result struct {
	Load   string        `json:"load"`
	Volume string        `json:"volume"` // copies, and how they travel
	IOPS   float64       `json:"iops"`
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	CPU    time.Duration `json:"cpu_per_op_ns"` // of all blockd processes together
	Ratio  float64       `json:"ratio"`         // of IOPS, to one copy on the node that the host is connected to
}

// load is what blockbench is told.
type load struct {
	name string
	args []string
}

var loads = []load{
	{"write 4k, random, 1 in flight", []string{"--bs", "4KiB", "--read-percent", "0", "--depth", "1"}},
	{"write 4k, random, 32 in flight", []string{"--bs", "4KiB", "--read-percent", "0", "--depth", "32"}},
	{"read 4k, random, 1 in flight", []string{"--bs", "4KiB", "--depth", "1"}},
	{"read 4k, random, 32 in flight", []string{"--bs", "4KiB", "--depth", "32"}},
	{"write 128k, in order, 8 in flight", []string{"--bs", "128KiB", "--read-percent", "0", "--sequential", "--depth", "8"}},
	{"read 128k, in order, 8 in flight", []string{"--bs", "128KiB", "--sequential", "--depth", "8"}},
}

// volumeSize is that of each volume, in bytes: it fits on a disk besides its log.
const volumeSize = 256 << 20

// network is a way in which nodes talk.
type network struct{ mode, name string }

var networks = []network{{"auto", "AF_XDP"}, {"udp", "UDP"}}

// Run measures everything, and tells of progress on w.
func Run(ctx context.Context, cfg Config, w io.Writer) ([]Result, error) {
	byKey := map[string][]Result{}
	var order []string
	for _, n := range networks {
		results, err := onNetwork(ctx, cfg, n, w)
		if err != nil {
			return nil, err
		}
		for _, r := range results {
			key := r.Load + r.Volume
			if byKey[key] == nil {
				order = append(order, key)
			}
			byKey[key] = append(byKey[key], r)
		}
	}
	one := map[string]float64{}
	var out []Result
	for _, key := range order {
		r := median(byKey[key])
		if r.Volume == oneCopy {
			one[r.Load] = r.IOPS
		}
		out = append(out, r)
	}
	for i := range out {
		if base := one[out[i].Load]; base > 0 {
			out[i].Ratio = out[i].IOPS / base
		}
	}
	return out, nil
}

// median is the result with the middle rate.
func median(of []Result) Result {
	sorted := slices.SortedFunc(slices.Values(of), func(a, b Result) int { return cmp.Compare(a.IOPS, b.IOPS) })
	return sorted[len(sorted)/2]
}

const oneCopy = "1 copy"

// onNetwork measures on a fresh cluster.
func onNetwork(ctx context.Context, cfg Config, n network, w io.Writer) (_ []Result, err error) {
	dir := filepath.Join(cfg.Dir, n.mode)
	fmt.Fprintf(w, "three nodes, %s between them\n", n.name)
	c, err := cluster.Up(ctx, cluster.Config{Dir: dir, BinDir: cfg.BinDir, DiskSize: 2 << 30, Args: []string{"--wire-mode", n.mode}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	var out []Result
	for round := range cfg.Rounds {
		for _, l := range loads {
			for _, v := range b.volumes {
				r, err := b.measure(ctx, l, v)
				if err != nil {
					return nil, err
				}
				if r.Volume = v.kind; v.name == "three" {
					r.Volume = "3 copies, " + n.name
				}
				out = append(out, r)
				fmt.Fprintf(w, "  round %d: %-34s %-18s %8.0f IOPS, p50 %v\n", round+1, l.name, r.Volume, r.IOPS, r.P50.Round(time.Microsecond))
			}
		}
	}
	return out, nil
}

// bench is a cluster with volumes.
type bench struct {
	cfg     Config
	c       *cluster.Cluster
	w       io.Writer
	volumes []*target
}

// target is a volume, as the host reaches it.
type target struct {
	name, kind string
	url        string // by the node that has it, or owns it
}

// prepare makes a volume of one copy and one of three, and fills them.
func (b *bench) prepare(ctx context.Context) error {
	if _, err := b.c.Ctl(ctx, "n1", "pool", "create", "safe", "--replicas", "3"); err != nil {
		return err
	}
	b.volumes = []*target{{name: "one", kind: oneCopy}, {name: "three"}}
	for _, v := range b.volumes {
		pool := "default"
		if v.name == "three" {
			pool = "safe"
		}
		for _, args := range [][]string{
			{"volume", "create", v.name, "--pool", pool, "--size", strconv.Itoa(volumeSize), "--block-size", "4096"},
			{"map", v.name, "any"},
		} {
			if _, err := b.c.Ctl(ctx, "n1", args...); err != nil {
				return err
			}
		}
		if err := b.locate(ctx, v); err != nil {
			return err
		}
		if _, err := b.blockbench(ctx, v, "--bs", "128KiB", "--read-percent", "0", "--sequential", "--depth", "8", "--runtime", "4s"); err != nil {
			return fmt.Errorf("fill %s: %w", v.name, err)
		}
	}
	return nil
}

// locate asks which node a volume is best reached by.
func (b *bench) locate(ctx context.Context, v *target) error {
	out, err := b.c.Ctl(ctx, "n1", "volume", "show", v.name, "-o", "json")
	if err != nil {
		return err
	}
	var shown struct {
		Node string `json:"node"`
		NQN  string `json:"nqn"`
		NSID int    `json:"nsid"`
	}
	if err := json.Unmarshal([]byte(out), &shown); err != nil {
		return err
	}
	st, err := b.c.Status()
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Name == shown.Node && len(n.NVMe) > 0 {
			v.url = fmt.Sprintf("nvme://%s/%s/%d", n.NVMe[0], shown.NQN, shown.NSID)
			return nil
		}
	}
	return fmt.Errorf("volume %s is at node %q, which is none of the cluster", v.name, shown.Node)
}

func (b *bench) measure(ctx context.Context, l load, v *target) (Result, error) {
	if err := b.locate(ctx, v); err != nil { // its owner may have changed
		return Result{}, err
	}
	before, err := b.cpu()
	if err != nil {
		return Result{}, err
	}
	r, err := b.blockbench(ctx, v, append([]string{"--warmup", "1s", "--runtime", b.cfg.Runtime.String()}, l.args...)...)
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", l.name, err)
	}
	after, err := b.cpu()
	if err != nil {
		return Result{}, err
	}
	r.Load = l.name
	// The processes worked during the warm-up too.
	seconds := (b.cfg.Runtime + time.Second).Seconds()
	if r.IOPS > 0 {
		r.CPU = time.Duration(float64(after-before) / (r.IOPS * seconds))
	}
	return r, nil
}

// blockbench loads a volume from the host's place.
func (b *bench) blockbench(ctx context.Context, v *target, args ...string) (Result, error) {
	argv := append([]string{filepath.Join(b.cfg.BinDir, "blockbench"), "nvme", v.url, "-o", "json", "--progress", "off"}, args...)
	cmd, err := b.c.Command(ctx, cluster.HostName, argv...)
	if err != nil {
		return Result{}, err
	}
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return Result{}, fmt.Errorf("blockbench: %w: %s", err, words.String())
	}
	var r struct {
		IOPS float64       `json:"iops"`
		P50  time.Duration `json:"p50_ns"`
		P99  time.Duration `json:"p99_ns"`
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return Result{}, fmt.Errorf("blockbench printed %q: %w", out, err)
	}
	return Result{IOPS: r.IOPS, P50: r.P50, P99: r.P99}, nil
}

// tick is the unit of times in /proc/PID/stat (proc(5)); it is the same on all
// architectures that Go knows.
const tick = 10 * time.Millisecond

// cpu is the processor time of all nodes' blockd so far.
func (b *bench) cpu() (time.Duration, error) {
	st, err := b.c.Status()
	if err != nil {
		return 0, err
	}
	sum := time.Duration(0)
	for _, n := range st.Nodes {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Process.PID))
		if err != nil {
			return 0, err
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, f := range fields[11:13] { // utime, stime
			t, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, err
			}
			sum += time.Duration(t) * tick
		}
	}
	return sum, nil
}

// Print writes results as a table.
func Print(w io.Writer, results []Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LOAD\tVOLUME\tIOPS\tP50\tP99\tCPU PER I/O\tTO ONE COPY")
	for _, r := range results {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%v\t%v\t%v\t%.2f\n", r.Load, r.Volume, r.IOPS, r.P50.Round(time.Microsecond), r.P99.Round(time.Microsecond),
			r.CPU.Round(100*time.Nanosecond), r.Ratio)
	}
	return t.Flush()
}
