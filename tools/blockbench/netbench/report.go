package netbench

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// find returns the case of the given name; the zero Case if there is none.
func (r *Report) find(name, kind, poll string) Case {
	for _, c := range r.Cases {
		if c.Name == name && c.Kind == kind && c.Poll == poll {
			return c
		}
	}
	return Case{}
}

// goals compares cases.
func goals(r Report) []Goal {
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	p50 := func(kind, poll string) float64 { return float64(r.find("one", kind, poll).P50) }
	var goals []Goal
	atMost := func(name string, value, goal float64) {
		goals = append(goals, Goal{name, value, goal, true, value > 0 && value <= goal})
	}
	atLeast := func(name string, value, goal float64) {
		goals = append(goals, Goal{name, value, goal, false, value >= goal})
	}
	atMost("4 KiB round trip, xdp busy, of raw AF_XDP's", ratio(p50("xdp", "busy"), float64(r.Raw.PingPong)), 2.5)
	atMost("4 KiB round trip, xdp busy, of TCP's", ratio(p50("xdp", "busy"), p50("tcp", "")), 0.4)
	atMost("4 KiB round trip, xdp adaptive, of TCP's", ratio(p50("xdp", "adaptive"), p50("tcp", "")), 0.6)
	atLeast("32 in flight, xdp, messages per CPU second, of TCP's",
		ratio(r.find("many", "xdp", "adaptive").PerCPU, r.find("many", "tcp", "").PerCPU), 1.5)
	atLeast("32 in flight, xdp, messages per CPU second, of TLS's in packets of the MTU",
		ratio(r.find("many", "xdp", "adaptive").PerCPU, r.find("many, cut", "tls", "").PerCPU), 1)
	atLeast("1 MiB messages, xdp, of raw AF_XDP's rate", ratio(r.find("bulk", "xdp", "adaptive").MBps, r.Raw.MBps), 0.8)
	for _, kind := range []string{"xdp", "udp"} {
		without, with := r.find("lossless", kind, "adaptive"), r.find("loss", kind, "adaptive")
		atLeast(fmt.Sprintf("%d %% loss, %s, rate, of that without", lossPercent, kind), ratio(with.PerSec, without.PerSec), 0.7)
		atMost(fmt.Sprintf("%d %% loss, %s, p99, of that without", lossPercent, kind), ratio(float64(with.P99), float64(without.P99)), 10)
	}
	for _, kind := range []string{"xdp", "udp"} {
		c := r.find("idle", kind, "adaptive")
		atMost("idle connection, "+kind+", both sides, of a core", c.CPU+c.PeerCPU, 0.005)
	}
	return goals
}

// WriteTable prints r for people.
func WriteTable(w io.Writer, r Report) error {
	fmt.Fprintf(w, "Requests of 4 KiB (one, many, loss) or 1 MiB (bulk), replies of 64 bytes, veth with an MTU of %d.\n", r.MTU)
	fmt.Fprintf(w, "Raw AF_XDP: %s there and back with %d bytes; %.0f MB/s one way with %d, %.0f of these per CPU second.\n\n",
		micros(r.Raw.PingPong), r.Raw.Frame, r.Raw.MBps, r.Raw.Bulk, r.Raw.PerCPU)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tKIND\tPOLL\tIN FLIGHT\tMESSAGES/S\tMB/S\tP50\tP99\tPER CPU SECOND\tCPU OF CLIENT (IDLE: BOTH SIDES)")
	for _, c := range r.Cases {
		kind, poll := c.Kind, c.Poll
		if c.Carrier != c.Kind {
			kind = c.Carrier
		}
		if poll == "" {
			poll = "-"
		}
		if c.Name == "idle" {
			fmt.Fprintf(tw, "%s\t%s\t%s\t0\t-\t-\t-\t-\t-\t%.2f %%\n", c.Name, kind, poll, 100*(c.CPU+c.PeerCPU))
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%.0f\t%.0f\t%s\t%s\t%.0f\t%.0f %%\n",
			c.Name, kind, poll, c.Depth, c.PerSec, c.MBps, micros(c.P50), micros(c.P99), c.PerCPU, 100*c.CPU)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	tw = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "GOAL\tRATIO\tWANTED\t")
	for _, g := range r.Goals {
		sign, met := ">=", "met"
		if g.Most {
			sign = "<="
		}
		if !g.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(tw, "%s\t%.3g\t%s %.3g\t%s\n", g.Name, g.Value, sign, g.Goal, met)
	}
	return tw.Flush()
}

// WriteResult prints one measurement for people.
func WriteResult(w io.Writer, r Result) {
	if r.Messages == 0 {
		fmt.Fprintf(w, "%s, idle: %.2f %% of a core here, %.2f %% there\n", r.Carrier, 100*r.CPU, 100*r.PeerCPU)
		return
	}
	fmt.Fprintf(w, "%s: %.0f messages/s, %.1f MB/s, p50 %s, p90 %s, p99 %s, max %s, %.0f %% of a core here\n",
		r.Carrier, r.PerSec, r.MBps, micros(r.P50), micros(r.P90), micros(r.P99), micros(r.Max), 100*r.CPU)
}

func micros(d time.Duration) string { return fmt.Sprintf("%.1f us", float64(d)/1e3) }
