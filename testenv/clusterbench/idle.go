package clusterbench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"blockd.dev/testenv/cluster"
)

// Idle is what nodes cost that have no volume: processor time in percent of a core, the median of the rounds.
type Idle struct {
	Leader float64   `json:"leader_percent"` // the node that leads the group
	Others []float64 `json:"others_percent"` // in ascending order
}

// goalIdle is what a node may cost, in percent of a core.
const goalIdle = 1

const (
	idleFor    = 10 * time.Second // of each round
	idleSettle = 5 * time.Second  // after the start
)

// idle measures three nodes without a volume.
func idle(ctx context.Context, cfg Config, w io.Writer) (_ *Idle, err error) {
	fmt.Fprintf(w, "three nodes without a volume, %d times %v\n", cfg.Rounds, idleFor)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, "idle"), BinDir: cfg.BinDir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	b := &bench{cfg: cfg, c: c, w: w}
	pids, err := b.pids()
	if err != nil {
		return nil, err
	}
	leader, err := b.leader(ctx)
	if err != nil {
		return nil, err
	}
	if err := rest(ctx, idleSettle); err != nil {
		return nil, err
	}
	rounds := make([][]float64, len(pids))
	for range cfg.Rounds {
		before, err := ran(pids)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		if err := rest(ctx, idleFor); err != nil {
			return nil, err
		}
		after, err := ran(pids)
		if err != nil {
			return nil, err
		}
		took := time.Since(start)
		for i := range pids {
			rounds[i] = append(rounds[i], 100*float64(after[i]-before[i])/float64(took))
		}
	}
	if now, err := b.leader(ctx); err != nil || now != leader {
		return nil, errors.Join(err, fmt.Errorf("node %d led at first, and node %d at last: measure again", leader+1, now+1))
	}
	out := &Idle{}
	for i, r := range rounds {
		slices.Sort(r)
		if m := r[len(r)/2]; i == leader {
			out.Leader = m
		} else {
			out.Others = append(out.Others, m)
		}
	}
	slices.Sort(out.Others)
	return out, nil
}

// leader is the index of the node that leads the group, among all of the cluster.
func (b *bench) leader(ctx context.Context) (int, error) {
	out, err := b.c.Ctl(ctx, "n1", "node", "list", "-o", "json")
	if err != nil {
		return 0, err
	}
	var nodes []struct {
		Name   string `json:"name"`
		Member struct {
			Leader bool `json:"leader"`
		} `json:"member"`
	}
	if err := json.Unmarshal([]byte(out), &nodes); err != nil {
		return 0, fmt.Errorf("node list printed %q: %w", out, err)
	}
	st, err := b.c.Status()
	if err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.Member.Leader {
			for i := range st.Nodes {
				if st.Nodes[i].Name == n.Name {
					return i, nil
				}
			}
		}
	}
	return 0, fmt.Errorf("no node leads: %s", out)
}

// ran is the processor time of all threads of each process so far, as the kernel's scheduler counts it: finer than
// the ticks of /proc/PID/stat.
func ran(pids []int) ([]time.Duration, error) {
	out := make([]time.Duration, len(pids))
	for i, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return nil, err
		}
		for _, t := range threads {
			text, err := os.ReadFile(t)
			if errors.Is(err, os.ErrNotExist) {
				continue // the thread has ended
			}
			if err != nil {
				return nil, err
			}
			var on time.Duration // nanoseconds
			if _, err := fmt.Sscan(string(text), &on); err != nil {
				return nil, fmt.Errorf("%s has %q: %w", t, text, err)
			}
			out[i] += on
		}
		if len(threads) == 0 {
			return nil, fmt.Errorf("process %d has ended", pid)
		}
	}
	return out, nil
}

// rest lets time go by, in which nothing is done.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func printIdle(w io.Writer, i *Idle) error {
	percent := func(f float64) string {
		return fmt.Sprintf("%.2f %% of a core (at most %d: %s)", f, goalIdle, mark(f <= goalIdle))
	}
	var others []string
	for _, o := range i.Others {
		others = append(others, percent(o))
	}
	_, err := fmt.Fprintf(w, "\nThree nodes that have nothing to do\nleader: %s\nothers: %s\n", percent(i.Leader), strings.Join(others, ", "))
	return err
}
