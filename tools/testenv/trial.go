package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/testenv/cluster"
	"blockd.dev/testenv/cluster/trial"
)

// onTrial runs f on a replicated volume of a cluster of its own, in the
// directory of the flags, which it takes down.
func (f *clusterFlags) onTrial(ctx context.Context, config cluster.Config, do func(*trial.Trial) error) (err error) {
	config.Dir, config.BinDir = f.dir, besideTestenv()
	c, err := cluster.Up(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Down()) }()
	t, err := trial.New(ctx, c)
	if err != nil {
		return err
	}
	return do(t)
}

// faultRow is what came of all rounds of one fault.
type faultRow struct {
	Fault   string        `json:"fault"`
	Rounds  int           `json:"rounds"`
	Ops     int           `json:"operations"`
	Unknown int           `json:"unknown_outcome"`
	Pause   time.Duration `json:"longest_pause_ns"`
	Sync    time.Duration `json:"longest_sync_ns"`
	Lost    int           `json:"lost_writes"`
	Stale   int           `json:"stale_reads"`
	Refused int           `json:"refused_for_space"`
	Errors  int           `json:"io_errors"`
	Goal    time.Duration `json:"pause_goal_ns,omitempty"`
	Wrong   string        `json:"wrong,omitempty"` // in words
}

func trialCommand(f *clusterFlags) *cobra.Command {
	var (
		only    string
		explain time.Duration
	)
	rounds := 1
	cmd := &cobra.Command{
		Use:   "trial",
		Short: "Do every fault to a cluster whose replicated volume is in use, and judge what hosts saw",
		Long: `Builds a cluster of three nodes in --dir and takes it down at the end. Hosts with
a path to every node read and write a volume of three copies while something
happens to the cluster; the history of what they did and were told must be
linearizable, block by block. At the end the nodes are stopped, and the disks' copies compared. docs/RELIABILITY.md says what that means.`,
		Example: "  testenv cluster trial --rounds 5\n  testenv cluster trial --only 'owner killed' --rounds 50",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.onTrial(cmd.Context(), trial.Cluster, func(t *trial.Trial) error {
				rows, err := runFaults(cmd.Context(), t, only, rounds, explain, cmd.ErrOrStderr())
				if err == nil {
					err = compareCopies(cmd.Context(), t, cmd.ErrOrStderr())
				}
				if f.output == "json" {
					e := json.NewEncoder(cmd.OutOrStdout())
					e.SetIndent("", "  ")
					return errors.Join(err, e.Encode(rows))
				}
				printRows(cmd.OutOrStdout(), rows)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&only, "only", "", "only faults with this in their names")
	cmd.Flags().IntVar(&rounds, "rounds", rounds, "how often to do each")
	cmd.Flags().DurationVar(&explain, "explain", 0, "print what the nodes logged around pauses that are so long")
	return cmd
}

// runFaults does the faults round by round. It ends at the first that hosts
// got a wrong answer from.
func runFaults(ctx context.Context, t *trial.Trial, only string, rounds int, explain time.Duration, progress io.Writer) (rows []*faultRow, err error) {
	var faults []trial.Fault
	for _, fault := range trial.Faults {
		if strings.Contains(fault.Name, only) {
			faults = append(faults, fault)
			rows = append(rows, &faultRow{Fault: fault.Name})
		}
	}
	if len(faults) == 0 {
		return nil, fmt.Errorf("--only %s: no fault has that in its name", only)
	}
	for range rounds {
		for i, fault := range faults {
			r, err := t.Run(ctx, fault)
			if err != nil {
				return rows, err
			}
			row := rows[i]
			row.Rounds++
			row.Ops, row.Unknown, row.Errors = row.Ops+r.Ops, row.Unknown+r.Open, row.Errors+len(r.Errors)
			row.Refused, row.Goal = row.Refused+r.Refused, r.Goal
			row.Lost, row.Stale = row.Lost+len(r.Lost), row.Stale+len(r.Stale)
			row.Pause, row.Sync = max(row.Pause, r.Pause), max(row.Sync, r.Sync)
			fmt.Fprintf(progress, "%s: %d operations, the longest took %v%s\n", fault.Name, r.Ops, r.Pause.Round(time.Millisecond), trial.Judge(r.Pause, r.Goal))
			if explain > 0 && r.Pause >= explain {
				events, err := t.Events(r.From, r.Pause)
				if err != nil {
					return rows, err
				}
				printEvents(progress, events)
			}
			if err := r.Err(); err != nil {
				row.Wrong = err.Error()
				return rows, fmt.Errorf("%s: %w", fault.Name, err)
			}
		}
	}
	return rows, nil
}

// compareCopies is after the last fault.
func compareCopies(ctx context.Context, t *trial.Trial, progress io.Writer) error {
	blocks, err := t.CompareCopies(ctx)
	if err == nil {
		fmt.Fprintf(progress, "%d blocks that hold something, the same in every copy\n", blocks)
	}
	return err
}

// printRows prints the table of docs/RELIABILITY.md.
func printRows(w io.Writer, rows []*faultRow) {
	fmt.Fprintln(w, "| Fault | Times | Operations | Outcome unknown | Refused | I/O errors | Longest pause | Lost | Stale |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|---:|---:|")
	for _, r := range rows {
		fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %d | %.2f s%s | %d | %d |\n", r.Fault, r.Rounds, r.Ops, r.Unknown, r.Refused, r.Errors,
			r.Pause.Seconds(), trial.Judge(r.Pause, r.Goal), r.Lost, r.Stale)
	}
}

func failoverCommand(f *clusterFlags) *cobra.Command {
	kills, moves := 20, 20
	var explain time.Duration
	cmd := &cobra.Command{
		Use:   "failover",
		Short: "Measure how long a host waits when the owner of its volume is killed, and when it moves",
		Long: `Builds a cluster of three nodes in --dir and takes it down at the end. One host
reads and writes without a break, one operation at a time, by two paths, of
which one is to the owner. Its longest wait is the pause. --explain 1.5s prints what all nodes
and the host logged around each pause that is longer than that.`,
		Example: "  testenv cluster failover --kills 50 --moves 50\n  testenv cluster failover --kills 50 --moves 0 --explain 1.4s",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.onTrial(cmd.Context(), cluster.Config{}, func(t *trial.Trial) error {
				tell := func(c trial.Change) {
					fmt.Fprintf(cmd.ErrOrStderr(), "%v\n", c.Pause.Round(time.Millisecond))
					if explain > 0 && c.Pause >= explain {
						printEvents(cmd.ErrOrStderr(), c.Events)
					}
				}
				killed, err := t.Kills(cmd.Context(), kills, tell)
				if err != nil {
					return err
				}
				moved, err := t.Moves(cmd.Context(), moves, tell)
				if err != nil {
					return err
				}
				if f.output == "json" {
					return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]trial.Pauses{"killed_ns": killed, "moved_ns": moved})
				}
				fmt.Fprintf(cmd.OutOrStdout(), "owner killed: %v\nvolume moved: %v\n", killed, moved)
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&kills, "kills", kills, "how often to kill the owner")
	cmd.Flags().IntVar(&moves, "moves", moves, "how often to move the volume")
	cmd.Flags().DurationVar(&explain, "explain", 0, "print what happened around pauses that are so long")
	return cmd
}

// printEvents prints when each happened after the first, where, and what.
func printEvents(w io.Writer, events []cluster.Event) {
	for _, e := range events {
		fmt.Fprintf(w, "  %7.1f ms  %-4s  %s: %s %s\n", float64(e.Time.Sub(events[0].Time))/1e6, e.Node, e.Kind, e.Subject, e.Message)
	}
}
