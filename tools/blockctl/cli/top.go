package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
)

func (a *app) top() *cobra.Command {
	var once bool
	var interval time.Duration
	c := &cobra.Command{
		Use:   "top",
		Short: "Show what volumes and nodes do, as it happens",
		Long: `Show what volumes and nodes do, as it happens: requests and bytes per second, and the mean time that
storage took, from the metrics of all nodes. The busiest come first. The key q ends it.
With --once it looks twice, --interval apart, prints what it saw and ends.

Without a certificate, which is to say through a socket, other nodes can't be asked, and
only what the asked node does is seen.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usageError{fmt.Errorf("--interval %v: want at least 100ms", interval)}
			}
			if once {
				return a.topOnce(cmd, interval)
			}
			in, isIn := cmd.InOrStdin().(*os.File)
			out, isOut := cmd.OutOrStdout().(*os.File)
			if !isIn || !isOut || !isTerminal(in) || !isTerminal(out) {
				return usageError{errors.New("top needs a terminal; --once prints one look without")}
			}
			return a.topLive(cmd, in, out, interval)
		},
	}
	c.Flags().BoolVar(&once, "once", false, "one look, for scripts")
	c.Flags().DurationVar(&interval, "interval", 2*time.Second, "from one look to the next")
	return c
}

// topView is what `top --once` prints as JSON. Rates are per second, over Seconds.
type topView struct {
	Time    string          `json:"time"`
	Seconds float64         `json:"seconds"`
	Cluster string          `json:"cluster"`
	State   string          `json:"state"`
	Leader  string          `json:"leader"`
	Members int             `json:"members"` // of the cluster; Nodes are those that were asked
	Nodes   []topNodeView   `json:"nodes"`
	Volumes []topVolumeView `json:"volumes"`
}

type topNodeView struct {
	Name     string `json:"name"`
	State    string `json:"state"`
	Raft     string `json:"raft"`
	Sessions int    `json:"sessions"`
	rateView
	Error string `json:"error,omitempty"` // why its metrics are missing
}

type topVolumeView struct {
	Name string `json:"name"`
	rateView
}

type rateView struct {
	ReadIOPS    float64 `json:"read_iops"`
	WriteIOPS   float64 `json:"write_iops"`
	ReadBytes   float64 `json:"read_bytes_per_second"`
	WriteBytes  float64 `json:"write_bytes_per_second"`
	ReadMillis  float64 `json:"read_latency_ms"` // mean; 0: nothing was timed
	WriteMillis float64 `json:"write_latency_ms"`
}

// rate returns what was done between two looks, seconds apart. A node that was
// started anew counts from zero, and so does the rate.
func rate(before, now volumeCounts, seconds float64) rateView {
	r, w := now.read.add(before.read, -1), now.write.add(before.write, -1)
	if r.ops < 0 || w.ops < 0 {
		r, w = now.read, now.write
	}
	millis := func(c counts) float64 {
		if c.timed <= 0 {
			return 0
		}
		return 1000 * c.seconds / c.timed
	}
	return rateView{r.ops / seconds, w.ops / seconds, r.bytes / seconds, w.bytes / seconds, millis(r), millis(w)}
}

// iops orders by work.
func (r rateView) iops() float64 { return r.ReadIOPS + r.WriteIOPS }

// look is what all nodes said at one time.
type look struct {
	time    time.Time
	cluster clusterView
	nodes   []nodeLook
}

type nodeLook struct {
	member memberView
	counts nodeCounts
	err    error
}

// look asks the cluster how it is, and every node what it has counted. A node that
// does not answer is not an error of the whole.
func (a *app) look(cmd *cobra.Command) (look, error) {
	c, err := a.getCluster(cmd, false)
	if err != nil {
		return look{}, err
	}
	out := look{time: time.Now(), cluster: c}
	asked, err := a.link()
	if err != nil {
		return look{}, err
	}
	ctx, cancel := a.context(cmd)
	defer cancel()
	if asked.bundle == nil || len(c.Members) < 2 {
		return a.lookAtOne(ctx, out, asked)
	}
	// All at the same time, so that one that does not answer delays nobody's figures.
	out.nodes = make([]nodeLook, len(c.Members))
	var asking sync.WaitGroup
	for i, m := range c.Members {
		asking.Go(func() {
			counts, err := scrape(ctx, &link{targets: []target{{"tcp", m.API}}, bundle: asked.bundle, named: asked.named})
			out.nodes[i] = nodeLook{m, counts, err}
		})
	}
	asking.Wait()
	return out, nil
}

// lookAtOne asks only the node that l leads to, which may not know its own place
// among the members.
func (a *app) lookAtOne(ctx context.Context, out look, l *link) (look, error) {
	counts, err := scrape(ctx, l)
	if err != nil {
		return out, err
	}
	if len(out.cluster.Members) == 1 {
		out.nodes = []nodeLook{{out.cluster.Members[0], counts, nil}}
		return out, nil
	}
	out.nodes = []nodeLook{{memberView{Name: "(asked)", State: "up"}, counts, nil}}
	return out, nil
}

// compare returns what was done between two looks, the busiest first.
func compare(before, now look) topView {
	seconds := max(now.time.Sub(before.time).Seconds(), 1e-3)
	v := topView{Time: stamp(now.time), Seconds: seconds, Cluster: now.cluster.Name, State: now.cluster.State, Leader: now.cluster.Leader, Members: len(now.cluster.Members),
		Nodes: []topNodeView{}, Volumes: []topVolumeView{}}
	old := map[string]nodeCounts{}
	for _, n := range before.nodes {
		if n.err == nil {
			old[n.member.Name] = n.counts
		}
	}
	volumes := map[string]rateView{}
	for _, n := range now.nodes {
		row := topNodeView{Name: n.member.Name, State: n.member.State, Raft: n.member.raft(), Sessions: n.counts.sessions}
		was, known := old[n.member.Name]
		switch {
		case n.err != nil:
			row.Error = reason(n.err)
		case known: // what it has done before the first look is no rate
			for name, c := range n.counts.volumes {
				r := rate(was.volumes[name], c, seconds)
				row.rateView = row.plus(r)
				volumes[name] = volumes[name].plus(r)
			}
		}
		v.Nodes = append(v.Nodes, row)
	}
	for _, name := range sortedKeys(volumes) {
		v.Volumes = append(v.Volumes, topVolumeView{name, volumes[name]})
	}
	slices.SortStableFunc(v.Volumes, func(x, y topVolumeView) int { return cmp.Compare(y.iops(), x.iops()) })
	return v
}

// plus sums rates; of times it takes the mean, by requests.
func (r rateView) plus(o rateView) rateView {
	mean := func(x, nx, y, ny float64) float64 {
		if x == 0 || y == 0 || nx+ny == 0 {
			return x + y
		}
		return (x*nx + y*ny) / (nx + ny)
	}
	return rateView{r.ReadIOPS + o.ReadIOPS, r.WriteIOPS + o.WriteIOPS, r.ReadBytes + o.ReadBytes, r.WriteBytes + o.WriteBytes,
		mean(r.ReadMillis, r.ReadIOPS, o.ReadMillis, o.ReadIOPS), mean(r.WriteMillis, r.WriteIOPS, o.WriteMillis, o.WriteIOPS)}
}

func (a *app) topOnce(cmd *cobra.Command, interval time.Duration) error {
	before, err := a.look(cmd)
	if err != nil {
		return err
	}
	select {
	case <-time.After(interval):
	case <-cmd.Context().Done():
		return cmd.Context().Err()
	}
	now, err := a.look(cmd)
	if err != nil {
		return err
	}
	v := compare(before, now)
	if a.format == "json" || a.format == "yaml" {
		return a.print(cmd, v, nil)
	}
	return writeRows(cmd.OutOrStdout(), topLines(v, a.width(cmd), 0))
}

var rateColumns = []struct {
	head string
	cell func(rateView) string
}{
	{"READ/s", func(r rateView) string { return fmt.Sprintf("%.0f", r.ReadIOPS) }},
	{"WRITE/s", func(r rateView) string { return fmt.Sprintf("%.0f", r.WriteIOPS) }},
	{"READ B/s", func(r rateView) string { return units.FormatBytes(int64(r.ReadBytes)) }},
	{"WRITE B/s", func(r rateView) string { return units.FormatBytes(int64(r.WriteBytes)) }},
	{"READ ms", func(r rateView) string { return milliText(r.ReadMillis) }},
	{"WRITE ms", func(r rateView) string { return milliText(r.WriteMillis) }},
}

func milliText(ms float64) string {
	if ms == 0 {
		return ""
	}
	return fmt.Sprintf("%.3g", ms)
}

// withRates appends to columns those of rates.
func withRates[V any](of func(V) rateView, columns ...column[V]) []column[V] {
	for _, c := range rateColumns {
		columns = append(columns, column[V]{c.head, func(v V) string { return c.cell(of(v)) }, fixed})
	}
	return columns
}

var topNodeColumns = withRates(func(n topNodeView) rateView { return n.rateView },
	column[topNodeView]{"NODE", func(n topNodeView) string { return n.Name }, plain},
	column[topNodeView]{"STATE", func(n topNodeView) string {
		if n.Error != "" {
			return cmp.Or(n.State, "?") + "!"
		}
		return n.State
	}, plain})

var topVolumeColumns = withRates(func(v topVolumeView) rateView { return v.rateView },
	column[topVolumeView]{"VOLUME", func(v topVolumeView) string { return v.Name }, plain})

// topLines is the picture in at most height lines of width characters; 0 is
// without limit. Each line is one cell.
func topLines(v topView, width, height int) rows {
	out := rows{{fmt.Sprintf("cluster %s is %s; leader %s; %d of %d nodes asked; %s", cmp.Or(v.Cluster, "(none)"), v.State, cmp.Or(v.Leader, "(none)"), len(v.Nodes), v.Members, v.Time)}, {""}}
	nodes, nodeKinds := tableOf(v.Nodes, topNodeColumns, false)
	volumes, volumeKinds := tableOf(v.Volumes, topVolumeColumns, false)
	if height > 0 { // the head, an empty line before and after nodes, and the last line
		nodes = atMost(nodes, max(2, (height-4)/2), "nodes")
		volumes = atMost(volumes, max(2, height-4-len(nodes)), "volumes")
	}
	out = append(out, flatten(fit(nodes, nodeKinds, width))...)
	for _, n := range v.Nodes {
		if n.Error != "" && height == 0 {
			out = append(out, []string{"! " + n.Name + ": " + n.Error})
		}
	}
	return append(append(out, []string{""}), flatten(fit(volumes, volumeKinds, width))...)
}

// atMost cuts a table, the head among its lines, and says how many are not shown.
func atMost(t rows, lines int, what string) rows {
	if len(t) <= lines {
		return t
	}
	last := make([]string, len(t[0]))
	for i := range last {
		last[i] = " "
	}
	last[0] = fmt.Sprintf("and %d %s", len(t)-lines+1, what)
	return append(slices.Clone(t[:lines-1]), last)
}

// flatten makes each line one cell, aligned.
func flatten(t rows) rows {
	widths := widthsOf(t)
	var out rows
	for _, line := range t {
		text := ""
		for i, c := range line {
			text += fmt.Sprintf("%-*s", widths[i], c)
			if i < len(line)-1 {
				text += fmt.Sprintf("%*s", gap, "")
			}
		}
		out = append(out, []string{text})
	}
	return out
}
