package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
	"blockd.dev/testenv/cluster"
)

// stopGrace is how long `stop` waits before it kills.
const stopGrace = 30 * time.Second

// clusterFlags are of every cluster command.
type clusterFlags struct {
	dir    string
	output string
}

func (f *clusterFlags) open() (*cluster.Cluster, error) { return cluster.Open(f.dir) }

func clusterCommand() *cobra.Command {
	f := &clusterFlags{}
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Clusters of real nodes in network namespaces, and faults for them",
		Long: `Builds clusters of blockd processes on this machine, each node in a network
namespace, and does to them what happens to clusters. It needs root. A cluster
is known by its directory, and stays up until it is taken down.

Places are n1, n2 and so on, and host, where initiators and blockctl run.`,
		Example: `  testenv cluster up --nodes 3
  testenv cluster exec host -- blockctl node list
  testenv cluster partition n1 n2,n3
  testenv cluster heal
  testenv cluster down`,
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.dir, "dir", "/tmp/blockd-cluster", "directory of the cluster")
	flags.StringVarP(&f.output, "output", "o", "table", "how to print: table or json")
	cmd.PersistentPreRunE = func(*cobra.Command, []string) error {
		if f.output != "table" && f.output != "json" {
			return fmt.Errorf("--output %s: want table or json", f.output)
		}
		return nil
	}
	cmd.AddCommand(upCommand(f), downCommand(f), statusCommand(f), execCommand(f),
		nodesCommand(f, "kill", "End blockd on nodes by SIGKILL", func(_ context.Context, c *cluster.Cluster, names []string) error { return c.Kill(names...) }),
		nodesCommand(f, "stop", "Ask blockd on nodes to end", func(_ context.Context, c *cluster.Cluster, names []string) error {
			return c.Stop(stopGrace, names...)
		}),
		nodesCommand(f, "pause", "Stop blockd on nodes from running, as a machine that hangs", func(_ context.Context, c *cluster.Cluster, names []string) error {
			return c.Pause(names...)
		}),
		nodesCommand(f, "resume", "End pause", func(_ context.Context, c *cluster.Cluster, names []string) error { return c.Resume(names...) }),
		nodesCommand(f, "restart", "Start blockd on nodes again, killing it where it runs", func(ctx context.Context, c *cluster.Cluster, names []string) error {
			return c.Restart(ctx, names...)
		}),
		benchCommand(f), trialCommand(f), failoverCommand(f), partitionCommand(f), healCommand(f), lossCommand(f), delayCommand(f), bandwidthCommand(f), diskErrorCommand(f), diskFullCommand(f), carryLateCommand(f))
	return cmd
}

func upCommand(f *clusterFlags) *cobra.Command {
	var (
		config     cluster.Config
		size       string
		foreground bool
	)
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Build a cluster; it stays up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			config.Dir = f.dir
			if config.BinDir == "" {
				config.BinDir = besideTestenv()
			}
			if config.DiskSize, err = units.ParseBytes(size); err != nil {
				return fmt.Errorf("--disk-size: %w", err)
			}
			c, err := cluster.Up(cmd.Context(), config)
			if err != nil {
				return err
			}
			if err := f.printStatus(cmd.OutOrStdout(), c); err != nil || !foreground {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "\n^C takes it down.")
			<-cmd.Context().Done()
			fmt.Fprintln(cmd.OutOrStdout(), "\ntaking the cluster down")
			return c.Down()
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&config.BinDir, "bin", "", "directory of blockd, blockctl and testenv (default: where testenv is, or bin of the source tree)")
	flags.IntVar(&config.Nodes, "nodes", 3, "number of nodes")
	flags.IntVar(&config.Disks, "disks", 1, "disks per node")
	flags.StringVar(&size, "disk-size", "1GiB", "size of each disk; it takes memory as it fills")
	flags.BoolVar(&config.OnDisk, "on-disk", false, "keep disks and data in files below --dir, on its file system, instead of memory")
	flags.IntVar(&config.MTU, "mtu", 9000, "MTU of all interfaces")
	flags.BoolVar(&config.IPv6, "ipv6", false, "have the nodes speak to each other by IPv6")
	flags.BoolVar(&config.Standalone, "standalone", false, "leave the nodes alone: each a cluster of its own, without certificates")
	flags.StringArrayVar(&config.Args, "arg", nil, "further argument of every blockd")
	flags.DurationVar(&config.ReadyTimeout, "ready-timeout", time.Minute, "how long a node may take to be ready")
	flags.BoolVar(&foreground, "foreground", false, "wait for ^C, then take the cluster down")
	return cmd
}

// besideTestenv is where testenv is, if blockd is there too, as after make.
func besideTestenv() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	dir := filepath.Dir(exe)
	if _, err := os.Stat(filepath.Join(dir, "blockd")); err != nil {
		return "" // run by `go run`
	}
	return dir
}

func downCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Take everything down, with all processes in the cluster's namespaces",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			return c.Down()
		},
	}
}

func statusCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show nodes, addresses and faults",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			return f.printStatus(cmd.OutOrStdout(), c)
		},
	}
}

func execCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "exec PLACE -- COMMAND [ARGUMENT...]",
		Short:   "Run a command in a place; blockctl needs no arguments there",
		Example: "  testenv cluster exec n2 -- blockctl volume list\n  testenv cluster exec host -- bash",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			run, err := c.Command(context.WithoutCancel(cmd.Context()), args[0], args[1:]...)
			if err != nil {
				return err
			}
			run.Stdin, run.Stdout, run.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			err = run.Run() // a ^C goes to it too, and it decides
			var status *exec.ExitError
			if errors.As(err, &status) && status.ExitCode() > 0 {
				os.Exit(status.ExitCode())
			}
			return err
		},
	}
}

// nodesCommand is a command that does something to nodes that are named.
func nodesCommand(f *clusterFlags, verb, short string, do func(context.Context, *cluster.Cluster, []string) error) *cobra.Command {
	return &cobra.Command{
		Use:   verb + " NODE...",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			return do(cmd.Context(), c, args)
		},
	}
}

func partitionCommand(f *clusterFlags) *cobra.Command {
	var oneWay bool
	cmd := &cobra.Command{
		Use:     "partition A B",
		Short:   "Lose every frame between two groups of places",
		Example: "  testenv cluster partition n1 n2,n3\n  testenv cluster partition 'n1,host|n2,n3'\n  testenv cluster partition --one-way n1 n2,n3    # n1 hears them, they don't hear n1",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			groups := args
			if len(args) == 1 {
				groups = strings.Split(args[0], "|")
			}
			if len(groups) != 2 {
				return fmt.Errorf("partition %s: want two groups, such as n1 n2,n3", strings.Join(args, " "))
			}
			c, err := f.open()
			if err != nil {
				return err
			}
			if oneWay {
				return c.PartitionOneWay(places(groups[0]), places(groups[1]))
			}
			return c.Partition(places(groups[0]), places(groups[1]))
		},
	}
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "lose only what A sends to B")
	return cmd
}

// places splits a list of them.
func places(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

func healCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "heal",
		Short: "End partitions, losses, delays and limits of the bandwidth",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			return c.Heal()
		},
	}
}

// ways are between which places a fault of the network is.
type ways struct{ from, to string }

func (w *ways) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&w.from, "from", "", "only what these places send (default: all nodes)")
	cmd.Flags().StringVar(&w.to, "to", "", "only what these places are to receive (default: all nodes)")
}

// places returns both sides.
func (w *ways) places(c *cluster.Cluster) (from, to []string, err error) {
	st, err := c.Status()
	if err != nil {
		return nil, nil, err
	}
	var nodes []string
	for _, n := range st.Nodes {
		nodes = append(nodes, n.Name)
	}
	from, to = places(w.from), places(w.to)
	if len(from) == 0 {
		from = nodes
	}
	if len(to) == 0 {
		to = nodes
	}
	return from, to, nil
}

func lossCommand(f *clusterFlags) *cobra.Command {
	var w ways
	cmd := &cobra.Command{
		Use:     "loss PERCENT",
		Short:   "Lose a share of the frames between places; 0 ends it",
		Example: "  testenv cluster loss 1%\n  testenv cluster loss 10% --from n1 --to n2,host",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			percent, err := strconv.ParseFloat(strings.TrimSuffix(args[0], "%"), 64)
			if err != nil {
				return fmt.Errorf("loss %s: want a percentage, such as 1%%", args[0])
			}
			c, err := f.open()
			if err != nil {
				return err
			}
			from, to, err := w.places(c)
			if err != nil {
				return err
			}
			return c.Loss(percent, from, to)
		},
	}
	w.flags(cmd)
	return cmd
}

func delayCommand(f *clusterFlags) *cobra.Command {
	var w ways
	var jitter time.Duration
	cmd := &cobra.Command{
		Use:     "delay TIME",
		Short:   "Have frames between places be late, each way; 0 ends it",
		Example: "  testenv cluster delay 10ms --jitter 2ms\n  testenv cluster delay 100ms --from n1 --to n2",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			delay, err := time.ParseDuration(args[0])
			if err != nil {
				return fmt.Errorf("delay %s: want a time, such as 10ms", args[0])
			}
			c, err := f.open()
			if err != nil {
				return err
			}
			from, to, err := w.places(c)
			if err != nil {
				return err
			}
			return c.Delay(cmd.Context(), delay, jitter, from, to)
		},
	}
	w.flags(cmd)
	cmd.Flags().DurationVar(&jitter, "jitter", 0, "be late by up to this much more, at random; it reorders frames")
	return cmd
}

func bandwidthCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "bandwidth RATE",
		Short:   "Limit what each place gets from the switch, in bits a second; 0 ends it",
		Example: "  testenv cluster bandwidth 2.5gbit\n  testenv cluster bandwidth 100mbit",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			bits, err := cluster.ParseBandwidth(args[0])
			if err != nil {
				return err
			}
			c, err := f.open()
			if err != nil {
				return err
			}
			return c.Bandwidth(bits)
		},
	}
}

func diskErrorCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "disk-error NODE[/DISK] [RULE...]",
		Short: "Have a node's disks misbehave by rules; none ends it",
		Long: `Each RULE is one argument: read, write, sync, discard or any, then words in any
order: err=EIO, p=0.1, skip=N, count=N, range=FROM-TO (bytes), dsync, torn, lose,
misplace=BYTES, flip, delay=10ms. The rules replace those before, and hold over
restarts of the node. Those for one disk, such as n1/disk0, count in the place of the node's.`,
		Example: "  testenv cluster disk-error n1 'write err=EIO'\n  testenv cluster disk-error n1/disk0 'read p=0.01 flip' 'any delay=20ms'\n  testenv cluster disk-error n1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := f.open()
			if err != nil {
				return err
			}
			return c.DiskFaults(args[0], args[1:]...)
		},
	}
}

func diskFullCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:       "disk-full NODE on|off",
		Short:     "Leave no room in a node's file system, or give it back",
		Args:      cobra.ExactArgs(2),
		ValidArgs: []string{"on", "off"},
		RunE: func(_ *cobra.Command, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return fmt.Errorf("disk-full %s %s: want on or off", args[0], args[1])
			}
			c, err := f.open()
			if err != nil {
				return err
			}
			return c.DiskFull(args[0], args[1] == "on")
		},
	}
}

// carryLateCommand is the process that delay starts.
func carryLateCommand(f *clusterFlags) *cobra.Command {
	return &cobra.Command{
		Use:    "carry-late",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cluster.CarryLate(cmd.Context(), f.dir, cmd.OutOrStdout())
		},
	}
}

func (f *clusterFlags) printStatus(w io.Writer, c *cluster.Cluster) error {
	st, err := c.Status()
	if err != nil {
		return err
	}
	if f.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(st)
	}
	return printTable(w, st)
}

// printTable shows the cluster to a person, with what to type next.
func printTable(w io.Writer, st cluster.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%-5s %-8s %8s  %-20s %-16s %s\n", "NODE", "STATE", "PID", "API", "ADDRESS", "FAULTS")
	for _, n := range st.Nodes {
		faults := n.DiskFaults
		if n.DiskFull {
			faults = append([]string{"disk full"}, faults...)
		}
		fmt.Fprintf(&b, "%-5s %-8s %8d  %-20s %-16s %s\n", n.Name, n.State, n.Process.PID, n.API, n.IPv4, strings.Join(faults, "; "))
	}
	for _, wire := range st.Wires {
		if wire.IsFaulty() {
			fmt.Fprintf(&b, "%s to %s: loss %.4g%%, delay %v, jitter %v; %d of %d frames lost, %d late\n",
				wire.From, wire.To, wire.Loss, wire.Delay, wire.Jitter, wire.Dropped, wire.Seen, wire.Late)
		}
	}
	if st.Bandwidth > 0 {
		fmt.Fprintf(&b, "each place gets %s a second at most\n", cluster.FormatBandwidth(st.Bandwidth))
	}
	self := "testenv"
	if exe, err := os.Executable(); err == nil {
		self = exe
	}
	in := fmt.Sprintf("%s cluster --dir %s", self, st.Dir)
	fmt.Fprintf(&b, "\nWhat to type next, in another terminal:\n")
	fmt.Fprintf(&b, "  alias lab='%s'\n", in)
	if st.Formed {
		fmt.Fprintf(&b, "  lab exec host -- blockctl node list          # as administrator, by %s\n", filepath.Base(st.Bundle))
	}
	fmt.Fprintf(&b, "  lab exec n1 -- blockctl volume create vol0 --size 64MiB\n")
	fmt.Fprintf(&b, "  lab exec n1 -- blockctl map vol0 any\n")
	fmt.Fprintf(&b, "  lab exec n1 -- blockctl volume show vol0     # says which node has it\n")
	for _, n := range st.Nodes {
		fmt.Fprintf(&b, "  lab exec host -- iscsi-ls -s iscsi://%s    # of libiscsi-bin; if %s has it\n", n.ISCSI[0], n.Name)
	}
	fmt.Fprintf(&b, "  lab exec host -- nvme discover -t tcp -a %s -s 8009    # needs the module nvme_tcp\n", st.Nodes[0].IPv4)
	if len(st.Nodes) > 1 {
		fmt.Fprintf(&b, "  lab partition n1 %s; lab status; lab heal\n", others(st))
	}
	fmt.Fprintf(&b, "  lab kill n1; lab restart n1; lab --help\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// others are the nodes but the first.
func others(st cluster.Status) string {
	var names []string
	for _, n := range st.Nodes[1:] {
		names = append(names, n.Name)
	}
	return strings.Join(names, ",")
}
