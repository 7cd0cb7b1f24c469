package clusterbench

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"blockd.dev/internal/units"
	"blockd.dev/testenv/cluster"
)

// Print writes a report as tables.
func Print(w io.Writer, r *Report) error {
	var errs []error
	if len(r.Copies) > 0 {
		errs = append(errs, printCopies(w, inMemory, r.Copies))
	}
	if len(r.Files) > 0 {
		errs = append(errs, printCopies(w, inFiles, r.Files))
	}
	if r.Durable != nil {
		errs = append(errs, printDurable(w, r.Durable))
	}
	if r.Resync != nil {
		errs = append(errs, printResync(w, r.Resync))
	}
	if r.Lost != nil {
		errs = append(errs, printLost(w, r.Lost))
	}
	if r.Failover != nil {
		errs = append(errs, printFailover(w, r.Failover))
	}
	if r.Idle != nil {
		errs = append(errs, printIdle(w, r.Idle))
	}
	return errors.Join(errs...)
}

// table aligns what f writes, one line for each call of row.
func table(w io.Writer, f func(row func(cells ...any))) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	f(func(cells ...any) {
		words := make([]string, len(cells))
		for i, c := range cells {
			words[i] = fmt.Sprint(c)
		}
		fmt.Fprintln(t, strings.Join(words, "\t"))
	})
	return t.Flush()
}

func iops(f float64) string  { return fmt.Sprintf("%.0f", f) }
func ratio(f float64) string { return fmt.Sprintf("%.2f", f) }
func micros(d time.Duration) string {
	return fmt.Sprintf("%.0f us", float64(d)/float64(time.Microsecond))
}

func printCopies(w io.Writer, d disks, results []Result) error {
	fmt.Fprintf(w, "\nVolumes of three nodes on one machine, %s\n", d.name)
	return table(w, func(row func(...any)) {
		row("LOAD", "VOLUME", "IOPS", "P50", "P99", "CPU PER I/O", "TO ONE COPY")
		for _, r := range results {
			row(r.Load, r.Volume, iops(r.IOPS), micros(r.P50), micros(r.P99), micros(r.CPU), ratio(r.Ratio))
		}
	})
}

func printDurable(w io.Writer, d *Durable) error {
	fmt.Fprintf(w, "\nVolumes of three copies, durable, disks of all nodes on one file system\n"+
		"fio's durable writes of 4 KiB there, 1 in flight: %.0f IOPS to one file, %.0f to each of three at once\n", d.Floor.One, d.Floor.Three)
	if d.CephError != "" {
		fmt.Fprintln(w, d.CephError)
	}
	err := table(w, func(row func(...any)) {
		head := []any{"LOAD", "IOPS", "P50", "P99", "CPU PER I/O", "TO PASS"}
		if d.Ceph != "" {
			head = append(head, "CEPH "+d.Ceph, "P50", "P99", "CPU PER I/O", "RATIO", "GOAL")
		}
		row(head...)
		for _, r := range d.Rows {
			cells := []any{r.Load, iops(r.Blockd.IOPS), micros(r.Blockd.P50), micros(r.Blockd.P99), micros(r.Blockd.CPU), barWords(&r)}
			if r.Ceph != nil {
				cells = append(cells, iops(r.Ceph.IOPS), micros(r.Ceph.P50), micros(r.Ceph.P99), micros(r.Ceph.CPU), ratio(r.Ratio), goalWords(&r))
			}
			row(cells...)
		}
	})
	for _, r := range d.Rows {
		fmt.Fprintf(w, "\nWhere the time of a request goes, in the mean: %s\n", r.Load)
		err = errors.Join(err, table(w, func(row func(...any)) {
			for _, s := range r.Stages {
				row(s.Name, micros(s.Mean))
			}
		}))
	}
	return err
}

// barWords says which figures from elsewhere are passed.
func barWords(r *DurableRow) string {
	var words []string
	for _, b := range r.Bars {
		words = append(words, fmt.Sprintf("%s %.0f: %s", b.Name, b.IOPS, mark(r.Blockd.IOPS >= b.IOPS)))
	}
	return strings.Join(words, ", ")
}

func goalWords(r *DurableRow) string {
	if r.Goal == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f: %s", r.Goal, mark(r.Met()))
}

func printResync(w io.Writer, r *Resync) error {
	mb := func(bytes float64) string { return fmt.Sprintf("%.0f MB", bytes/1e6) }
	rate := func(mbps float64) string { return fmt.Sprintf("%.0f", mbps) }
	fmt.Fprintf(w, "\nCopies that are brought back: a volume of %s, %.0f writes of 4 KiB a second where there is a load\n", units.FormatBytes(r.VolumeBytes), r.Rate)
	err := table(w, func(row func(...any)) {
		row("AWAY FOR", "WRITES WITHIN", "WRITES", "BLOCKS OF 4K", "REGIONS OF 64K", "COPIED", "TO BLOCKS", "TO REGIONS", "TOOK", "P99 BEFORE", "P99 MEANWHILE", "RATIO")
		for _, a := range r.Absences {
			row(a.Away, units.FormatBytes(a.Range), a.Writes, mb(a.Blocks), mb(a.Regions), mb(a.Copied), ratio(a.Copied/a.Blocks),
				atMost(a.Copied/a.Regions, goalCopied), a.Took.Round(10*time.Millisecond), micros(a.Before), micros(a.During), atMost(float64(a.During)/float64(a.Before), goalP99))
		}
	})
	fmt.Fprintln(w, "\nA disk that is emptied onto another")
	return errors.Join(err, table(w, func(row func(...any)) {
		row("NETWORK", "HOSTS", "DISK COPIES", "LINK MOVES", "PLAIN COPY", "COPIED", "TOOK", "MB/S", "TO THE LIMIT", "TO A PLAIN COPY", "CPU PER MB", "P99 BEFORE", "P99 MEANWHILE", "RATIO")
		for _, x := range r.Rebuilds {
			near := x.MBps() / x.Limits.least()
			network := "not limited"
			if x.Bandwidth > 0 {
				network = cluster.FormatBandwidth(x.Bandwidth)
			}
			cells := []any{network, "none", rate(x.Limits.Disk), rate(x.Limits.Link), rate(x.Limits.Plain), mb(x.Copied), x.Took.Round(10 * time.Millisecond), rate(x.MBps()), atLeast(near, goalRate), ratio(x.MBps() / x.Limits.Plain)}
			if !x.Loaded {
				cells = append(cells, micros(time.Duration(float64(x.CPU)/max(1, x.Copied/1e6))))
			} else { // its CPU time is the hosts' as well
				cells[1], cells[8] = "writing", ratio(near)
				cells = append(cells, "-", micros(x.Before), micros(x.During), atMost(float64(x.During)/float64(x.Before), goalP99))
			}
			row(cells...)
		}
	}))
}

func atMost(f, goal float64) string  { return judged(f, f <= goal, "at most", goal) }
func atLeast(f, goal float64) string { return judged(f, f >= goal, "at least", goal) }

func judged(f float64, met bool, words string, goal float64) string {
	return fmt.Sprintf("%.2f (%s %.1f: %s)", f, words, goal, mark(met))
}

// mark is how a goal is judged in words: the same in every table.
func mark(met bool) string {
	if met {
		return "met"
	}
	return "short"
}
