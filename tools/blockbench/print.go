package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"blockd.dev/tools/blockbench/load"
)

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printResult prints one measurement; one that had errors is an error.
func printResult(w io.Writer, format string, r load.Result) error {
	switch format {
	case "json":
		if err := printJSON(w, r); err != nil {
			return err
		}
	case "table":
		printLine(w, r)
	default:
		return fmt.Errorf("output format %q: give table or json", format)
	}
	if r.Errors > 0 {
		return fmt.Errorf("%d of %d requests failed, the first with: %s", r.Errors, r.Ops, r.FirstErr)
	}
	return nil
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d)/1e3) }

func printLine(w io.Writer, r load.Result) {
	fmt.Fprintf(w, "%s: %.0f IOPS, %.1f MB/s, p50 %s, p99 %s, p99.9 %s, max %s, CPU %s per request, RSS at most %d MiB\n",
		r.Name, r.IOPS, r.MBps, micros(r.P50), micros(r.P99), micros(r.P999), micros(r.Max), micros(r.CPUPerOp), r.MaxRSS>>20)
}

// printReport prints what came of a load.
func printReport(w io.Writer, format string, r report) error {
	if format == "json" {
		return printJSON(w, r)
	}
	printLine(w, r.Result)
	if len(r.ByOp) > 1 {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "OPERATION\tREQUESTS\tIOPS\tP50\tP99\tP99.9\tMAX")
		var names []string
		for name := range r.ByOp {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			o := r.ByOp[name]
			fmt.Fprintf(tw, "%s\t%d\t%.0f\t%s\t%s\t%s\t%s\n", name, o.Ops, o.IOPS, micros(o.P50), micros(o.P99), micros(o.P999), micros(o.Max))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	if r.Reconnects > 0 {
		fmt.Fprintf(w, "connections were made again %d times, the longest after %v\n", r.Reconnects, r.AwayMax.Round(time.Millisecond))
	}
	if r.Verified != nil {
		r.Verified.print(w)
	}
	return nil
}

// progressLine writes each result over the one before.
func progressLine(w io.Writer) func(load.Result) {
	var last load.Result
	return func(r load.Result) {
		seconds := max(r.Elapsed-last.Elapsed, 1).Seconds()
		fmt.Fprintf(w, "\r%5.0f s  %9.0f IOPS  %8.1f MB/s now  %9.0f IOPS on average  p50 %s  p99 %s  \033[K",
			r.Elapsed.Seconds(), float64(r.Ops-last.Ops)/seconds, float64(r.Bytes-last.Bytes)/1e6/seconds, r.IOPS, micros(r.P50), micros(r.P99))
		last = r
	}
}
