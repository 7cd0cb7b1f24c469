package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"blockd.dev/tools/blockbench/load"
)

// printResult prints one measurement; one that had errors is an error.
func printResult(w io.Writer, format string, r load.Result) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		if err := enc.Encode(r); err != nil {
			return err
		}
	case "table":
		us := func(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d)/1e3) }
		fmt.Fprintf(w, "%s: %.0f IOPS, %.1f MB/s, p50 %s, p99 %s, p99.9 %s, max %s, CPU %s per request, RSS at most %d MiB\n",
			r.Name, r.IOPS, r.MBps, us(r.P50), us(r.P99), us(r.P999), us(r.Max), us(r.CPUPerOp), r.MaxRSS>>20)
	default:
		return fmt.Errorf("output format %q: give table or json", format)
	}
	if r.Errors > 0 {
		return fmt.Errorf("%d of %d requests failed, the first with: %s", r.Errors, r.Ops, r.FirstErr)
	}
	return nil
}
