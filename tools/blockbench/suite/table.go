package suite

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Sample is one round of one side.
type Sample struct {
	IOPS     float64
	CPUPerOp time.Duration // of the serving process; 0 when not measured
	P50      time.Duration // latency; 0 when not measured
}

// Row compares blockd with a peer in one case.
type Row struct {
	Case     string        `json:"case"`
	Peer     string        `json:"peer"`
	Blockd   float64       `json:"blockd_iops"`
	PeerIOPS float64       `json:"peer_iops"`
	Ratio    float64       `json:"ratio"`
	Goal     float64       `json:"goal_ratio,omitempty"`
	CPU      time.Duration `json:"blockd_cpu_per_op_ns,omitempty"`
	PeerCPU  time.Duration `json:"peer_cpu_per_op_ns,omitempty"`
	P50      time.Duration `json:"blockd_p50_ns,omitempty"`
	PeerP50  time.Duration `json:"peer_p50_ns,omitempty"`
	RatioCPU float64       `json:"cpu_ratio,omitempty"` // of the peer's; 0 when one of them was not measured
	RatioP50 float64       `json:"p50_ratio,omitempty"`
	GoalCPU  float64       `json:"goal_cpu_ratio,omitempty"` // at most, of the peer's
	GoalP50  float64       `json:"goal_p50_ratio,omitempty"` // at most, of the peer's
}

// Met reports whether the row reaches its goals; a row without any does.
func (r Row) Met() bool { return len(r.short()) == 0 }

// short names the goals that are not reached.
func (r Row) short() []string {
	var out []string
	if r.Ratio < r.Goal {
		out = append(out, "IOPS")
	}
	if r.GoalCPU > 0 && r.RatioCPU > r.GoalCPU {
		out = append(out, "CPU")
	}
	if r.GoalP50 > 0 && r.RatioP50 > r.GoalP50 {
		out = append(out, "p50")
	}
	return out
}

// newRow takes the medians of both sides' rounds.
func newRow(name, peer string, goal float64, own, other []Sample) Row {
	r := Row{Case: name, Peer: peer, Goal: goal}
	a, b := median(own), median(other)
	r.Blockd, r.CPU, r.P50 = a.IOPS, a.CPUPerOp, a.P50
	r.PeerIOPS, r.PeerCPU, r.PeerP50 = b.IOPS, b.CPUPerOp, b.P50
	r.divide()
	return r
}

// divide fills in the ratios of what was measured.
func (r *Row) divide() {
	if r.PeerIOPS > 0 {
		r.Ratio = r.Blockd / r.PeerIOPS
	}
	if r.PeerCPU > 0 {
		r.RatioCPU = float64(r.CPU) / float64(r.PeerCPU)
	}
	if r.PeerP50 > 0 {
		r.RatioP50 = float64(r.P50) / float64(r.PeerP50)
	}
}

// median is the round in the middle by IOPS.
func median(s []Sample) Sample {
	if len(s) == 0 {
		return Sample{}
	}
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b Sample) int {
		switch {
		case a.IOPS < b.IOPS:
			return -1
		case a.IOPS > b.IOPS:
			return 1
		}
		return 0
	})
	return s[len(s)/2]
}

// Gauge is something of blockd's that is to stay below a limit.
type Gauge struct {
	Case  string  `json:"case"`
	Unit  string  `json:"unit"`
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
}

// Met reports whether the value is below the limit.
func (g Gauge) Met() bool { return g.Value < g.Limit }

// Report is what a run of the suite found.
type Report struct {
	Rows   []Row   `json:"rows"`
	Gauges []Gauge `json:"gauges"`
}

// WriteTables prints a report for a person.
func WriteTables(w io.Writer, r Report) error {
	var errs []error
	if len(r.Rows) > 0 {
		errs = append(errs, writeRows(w, r.Rows))
	}
	if len(r.Rows) > 0 && len(r.Gauges) > 0 {
		fmt.Fprintln(w)
	}
	if len(r.Gauges) > 0 {
		errs = append(errs, writeGauges(w, r.Gauges))
	}
	return errors.Join(errs...)
}

func writeGauges(w io.Writer, gauges []Gauge) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tBLOCKD\tGOAL\t")
	for _, g := range gauges {
		mark := "met"
		if !g.Met() {
			mark = "short"
		}
		fmt.Fprintf(tw, "%s\t%.1f %s\tbelow %.0f\t%s\n", g.Case, g.Value, g.Unit, g.Limit, mark)
	}
	return tw.Flush()
}

func writeRows(w io.Writer, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tPEER\tBLOCKD IOPS\tPEER IOPS\tRATIO\tGOAL\tBLOCKD CPU/IO\tPEER CPU/IO\tRATIO\tBLOCKD P50\tPEER P50\tRATIO\t")
	for _, r := range rows {
		var goals []string
		for _, g := range []struct {
			v      float64
			format string
		}{{r.Goal, "%.2f"}, {r.GoalCPU, "CPU %.1f"}, {r.GoalP50, "p50 %.1f"}} {
			if g.v > 0 {
				goals = append(goals, fmt.Sprintf(g.format, g.v))
			}
		}
		goal, mark := "-", ""
		if len(goals) > 0 {
			goal, mark = strings.Join(goals, ", "), "met"
			if short := r.short(); len(short) > 0 {
				mark = "short: " + strings.Join(short, ", ")
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%.0f\t%.0f\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			r.Case, r.Peer, r.Blockd, r.PeerIOPS, r.Ratio, goal, micros(r.CPU), micros(r.PeerCPU), times(r.RatioCPU),
			micros(r.P50), micros(r.PeerP50), times(r.RatioP50), mark)
	}
	return tw.Flush()
}

// times prints a ratio, or that there is none.
func times(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio)
}

// micros prints a duration, or that there is none.
func micros(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f us", float64(d)/1e3)
}
