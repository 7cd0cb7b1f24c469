package main

import (
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/internal/units"
	"blockd.dev/tools/blockbench/iscsihost"
	"blockd.dev/tools/blockbench/pump"
)

// newPumpCommand is what the suite measures the wire itself with: each side is
// a process, so that it has its own core and its own CPU time.
func newPumpCommand() *cobra.Command {
	var s pump.Shape
	var spin bool
	var connections int
	var runtime time.Duration
	var access pump.Access
	var size, rng, memory string
	cmd := &cobra.Command{
		Use:   "pump",
		Short: "Measure bare TCP in the shape of a storage protocol",
		Long:  "The limit that `blockbench suite` compares blockd with: requests and replies of fixed\nsizes, and no work between.",
	}
	f := cmd.PersistentFlags()
	f.IntVar(&s.Request, "request", 72, "bytes of a request")
	f.IntVar(&s.Reply, "reply", 4120, "bytes of a reply")
	f.IntVar(&s.Depth, "depth", 32, "requests in flight on each connection")
	f.BoolVar(&spin, "spin", false, "poll the sockets rather than wait for them")
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Answer on a port of 127.0.0.1, which is printed, until a signal comes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			n, err := units.ParseBytes(memory)
			if err != nil {
				return fmt.Errorf("--memory: %w", err)
			}
			return pump.Serve(cmd.Context(), ln, s, n, spin, func() {
				fmt.Fprintf(cmd.OutOrStdout(), "listening on %s\n", ln.Addr())
			})
		},
	}
	serve.Flags().StringVar(&memory, "memory", "0", "take replies from random places of so much memory (0: the same bytes again and again)")
	run := &cobra.Command{
		Use:   "run ADDR|nvme://HOST[:PORT]/NQN/NSID|iscsi://HOST[:PORT]/TARGET/LUN",
		Short: "Ask a server, or a target, and print what was measured as JSON",
		Long: "Asks a pump's server, or reads or writes a volume of a target with the same client: it\n" +
			"keeps the same number of bytes in flight and drops the data that arrives, so that what\n" +
			"differs is the server alone. With a target --request and --reply are the protocol's.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if connections < 1 || connections > 256 {
				return fmt.Errorf("--connections %d: give 1 to 256", connections)
			}
			access.Depth = s.Depth
			n, err := units.ParseBytes(size)
			if err != nil {
				return fmt.Errorf("--bs: %w", err)
			}
			access.Bytes = int(n)
			if access.Range, err = units.ParseBytes(rng); err != nil {
				return fmt.Errorf("--range: %w", err)
			}
			dial, shape, err := pumpDialer(args[0], s, access)
			if err != nil {
				return err
			}
			res, err := pump.Run(cmd.Context(), dial, shape, connections, runtime, spin)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), res)
		},
	}
	run.Flags().IntVar(&connections, "connections", 1, "connections at once, 1 to 256")
	run.Flags().DurationVar(&runtime, "runtime", time.Second, "how long to measure")
	run.Flags().StringVar(&size, "bs", "4KiB", "of a target: request size")
	run.Flags().StringVar(&rng, "range", "256MiB", "of a target: how much of the volume to use")
	run.Flags().BoolVar(&access.Write, "write", false, "of a target: write rather than read, which destroys what is there")
	cmd.AddCommand(serve, run)
	return cmd
}

// pumpDialer reads what a client is to connect to.
func pumpDialer(to string, s pump.Shape, a pump.Access) (pump.Dialer, pump.Shape, error) {
	switch {
	case strings.HasPrefix(to, "nvme://"):
		addr, nqn, nsid, err := parseNVMeURL(to)
		if err != nil {
			return nil, s, err
		}
		return pump.NVMe(addr, nqn, nsid, a)
	case strings.HasPrefix(to, "iscsi://"):
		cfg, err := iscsihost.ParseURL(to)
		if err != nil {
			return nil, s, err
		}
		return pump.ISCSI(cfg, a)
	}
	return pump.Bare(to, s), s, nil
}
