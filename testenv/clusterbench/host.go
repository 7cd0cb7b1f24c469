package clusterbench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"blockd.dev/testenv/cluster"
)

// load is what a volume is asked for.
type load struct {
	name       string
	write      bool
	sequential bool
	blockKiB   int
	depth      int
}

// args is how blockbench is told.
func (l load) args() []string {
	args := []string{"--bs", fmt.Sprintf("%dKiB", l.blockKiB), "--depth", strconv.Itoa(l.depth)}
	if l.write {
		args = append(args, "--read-percent", "0")
	}
	if l.sequential {
		args = append(args, "--sequential")
	}
	return args
}

// randomLoads are of small requests; all parts have them.
var randomLoads = []load{
	{"write 4k, random, 1 in flight", true, false, 4, 1},
	{"write 4k, random, 32 in flight", true, false, 4, 32},
	{"read 4k, random, 1 in flight", false, false, 4, 1},
	{"read 4k, random, 32 in flight", false, false, 4, 32},
}

// bench is a cluster under measurement.
type bench struct {
	cfg Config
	c   *cluster.Cluster
	w   io.Writer
}

// target is a volume, as the host reaches it.
type target struct {
	name string
	url  string // by the node that has it, or owns it
}

// createPool makes the pool of volumes with three copies.
func (b *bench) createPool(ctx context.Context) error {
	_, err := b.c.Ctl(ctx, "n1", "pool", "create", safePool, "--replicas", "3")
	return err
}

// safePool has volumes of three copies.
const safePool = "safe"

// create makes a volume that every host may use, and fills it.
func (b *bench) create(ctx context.Context, v *target, pool string, size int64) error {
	for _, args := range [][]string{
		{"volume", "create", v.name, "--pool", pool, "--size", strconv.FormatInt(size, 10), "--block-size", "4096"},
		{"map", v.name, "any"},
	} {
		if _, err := b.c.Ctl(ctx, "n1", args...); err != nil {
			return err
		}
	}
	if err := b.locate(ctx, v); err != nil {
		return err
	}
	for off := int64(0); off < size; off += fillStep {
		if err := b.fill(ctx, v, off); err != nil {
			return fmt.Errorf("fill %s: %w", v.name, err)
		}
	}
	return nil
}

// fillStep is how much of a volume is filled by one call of blockbench, in bytes.
const fillStep = 128 << 20

// fill writes a part of a volume once or more.
func (b *bench) fill(ctx context.Context, v *target, off int64) error {
	args := []string{"--bs", "128KiB", "--read-percent", "0", "--sequential", "--depth", "8",
		"--offset", strconv.FormatInt(off, 10), "--range", strconv.Itoa(fillStep)}
	for runtime := time.Second; ; runtime *= 2 {
		r, err := b.blockbench(ctx, v, append(args, "--runtime", runtime.String())...)
		if err != nil || r.Bytes >= fillStep {
			return err
		}
	}
}

// shownVolume is a part of what `blockctl volume show` says.
type shownVolume struct {
	Node     string `json:"node"`
	NQN      string `json:"nqn"`
	NSID     int    `json:"nsid"`
	Replicas []struct {
		Node string `json:"node"`
	} `json:"replicas"`
}

// on tells whether a node has a copy.
func (s *shownVolume) on(node string) bool {
	for _, c := range s.Replicas {
		if c.Node == node {
			return true
		}
	}
	return false
}

func (b *bench) shown(ctx context.Context, v *target) (s shownVolume, err error) {
	out, err := b.c.Ctl(ctx, "n1", "volume", "show", v.name, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &s)
	}
	return s, err
}

// locate asks which node a volume is best reached by.
func (b *bench) locate(ctx context.Context, v *target) error {
	s, err := b.shown(ctx, v)
	if err != nil {
		return err
	}
	st, err := b.c.Status()
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Name == s.Node && len(n.NVMe) > 0 {
			v.url = fmt.Sprintf("nvme://%s/%s/%d", n.NVMe[0], s.NQN, s.NSID)
			return nil
		}
	}
	return fmt.Errorf("volume %s is at node %q, which is none of the cluster", v.name, s.Node)
}

// warmup is how long each load runs before it is measured.
const warmup = time.Second

// measure loads a volume for a while.
func (b *bench) measure(ctx context.Context, l load, v *target) (Sample, error) {
	if err := b.locate(ctx, v); err != nil { // its owner may have changed
		return Sample{}, err
	}
	pids, err := b.pids()
	if err != nil {
		return Sample{}, err
	}
	return withCPU(pids, b.cfg.Runtime, func() (Sample, error) {
		r, err := b.blockbench(ctx, v, append([]string{"--warmup", warmup.String(), "--runtime", b.cfg.Runtime.String()}, l.args()...)...)
		if err != nil {
			return Sample{}, fmt.Errorf("%s: %w", l.name, err)
		}
		return Sample{IOPS: r.IOPS, P50: r.P50, P99: r.P99}, nil
	})
}

// loadedResult is what blockbench says.
type loadedResult struct {
	Ops   int64         `json:"ops"`
	Bytes int64         `json:"bytes"`
	IOPS  float64       `json:"iops"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"`
}

// blockbenchCommand loads a volume from the host's place.
func (b *bench) blockbenchCommand(ctx context.Context, v *target, args ...string) (*exec.Cmd, error) {
	argv := append([]string{filepath.Join(b.cfg.BinDir, "blockbench"), "nvme", v.url, "-o", "json", "--progress", "off"}, args...)
	return b.c.Command(ctx, cluster.HostName, argv...)
}

// blockbench runs it to its end.
func (b *bench) blockbench(ctx context.Context, v *target, args ...string) (r loadedResult, err error) {
	cmd, err := b.blockbenchCommand(ctx, v, args...)
	if err != nil {
		return r, err
	}
	var words strings.Builder
	cmd.Stderr = &words
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("blockbench: %w: %s", err, words.String())
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, fmt.Errorf("blockbench printed %q: %w", out, err)
	}
	return r, nil
}

// pids are those of all nodes' blockd.
func (b *bench) pids() (out []int, err error) {
	st, err := b.c.Status()
	if err != nil {
		return nil, err
	}
	for _, n := range st.Nodes {
		out = append(out, n.Process.PID)
	}
	return out, nil
}
