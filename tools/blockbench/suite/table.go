package suite

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// Sample is one round of one side.
type Sample struct {
	IOPS     float64
	CPUPerOp time.Duration // of the serving process; 0 when not measured
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
}

// Met reports whether the row reaches its goal; a row without one does.
func (r Row) Met() bool { return r.Ratio >= r.Goal }

// newRow takes the medians of both sides' rounds.
func newRow(name, peer string, goal float64, own, other []Sample) Row {
	r := Row{Case: name, Peer: peer, Goal: goal}
	r.Blockd, r.CPU = median(own)
	r.PeerIOPS, r.PeerCPU = median(other)
	if r.PeerIOPS > 0 {
		r.Ratio = r.Blockd / r.PeerIOPS
	}
	return r
}

func median(s []Sample) (float64, time.Duration) {
	if len(s) == 0 {
		return 0, 0
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
	mid := s[len(s)/2]
	return mid.IOPS, mid.CPUPerOp
}

// WriteTable prints the rows for a person.
func WriteTable(w io.Writer, rows []Row) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tPEER\tBLOCKD IOPS\tPEER IOPS\tRATIO\tGOAL\tBLOCKD CPU/IO\tPEER CPU/IO\t")
	for _, r := range rows {
		goal, mark := "-", ""
		if r.Goal > 0 {
			goal = fmt.Sprintf("%.2f", r.Goal)
			mark = "met"
			if !r.Met() {
				mark = "short"
			}
		}
		fmt.Fprintf(tw, "%s\t%s\t%.0f\t%.0f\t%.2f\t%s\t%s\t%s\t%s\n",
			r.Case, r.Peer, r.Blockd, r.PeerIOPS, r.Ratio, goal, cpu(r.CPU), cpu(r.PeerCPU), mark)
	}
	return tw.Flush()
}

func cpu(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f us", float64(d)/1e3)
}
