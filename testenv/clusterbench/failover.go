package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"blockd.dev/testenv/cluster"
	"blockd.dev/testenv/cluster/trial"
)

// Failover is how long a host waited that had one operation in flight and two paths, of which one was
// to the owner of its volume.
type Failover struct {
	Killed trial.Pauses `json:"killed_ns"` // the owner's process, by SIGKILL
	Moved  trial.Pauses `json:"moved_ns"`  // the volume, by order
}

// The goals: of the 99th percentile of Killed, and of the longest of Moved.
const (
	goalKilled = 1500 * time.Millisecond
	goalMoved  = 200 * time.Millisecond
)

// How often each is done.
const (
	failoverKills = 50
	failoverMoves = 20
)

// failover measures changes of owner, with disks in memory.
func failover(ctx context.Context, cfg Config, w io.Writer) (_ *Failover, err error) {
	fmt.Fprintf(w, "three nodes, disks in memory: the owner is killed %d times, then the volume moved %d times\n", failoverKills, failoverMoves)
	c, err := cluster.Up(ctx, cluster.Config{Dir: filepath.Join(cfg.Dir, "failover"), BinDir: cfg.BinDir})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	t, err := trial.New(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &Failover{}
	deaf := func(trial.Change) {}
	if out.Killed, err = t.Kills(ctx, failoverKills, deaf); err != nil {
		return out, err
	}
	out.Moved, err = t.Moves(ctx, failoverMoves, deaf)
	return out, err
}

func printFailover(w io.Writer, f *Failover) error {
	fmt.Fprintln(w, "\nOne operation in flight, two paths: how long the host waited")
	return table(w, func(row func(...any)) {
		row("THE OWNER", "TIMES", "P50", "P99", "LONGEST", "GOAL")
		line := func(what string, p trial.Pauses, judged, goal time.Duration, of string) {
			row(what, len(p), millis(p.At(0.5)), millis(p.At(0.99)), millis(p.At(1)), fmt.Sprintf("%s at most %v: %s", of, goal, mark(judged <= goal)))
		}
		line("is killed", f.Killed, f.Killed.At(0.99), goalKilled, "p99")
		line("gives its volume to another", f.Moved, f.Moved.At(1), goalMoved, "longest")
	})
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}
