package main

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/tools/blockbench/pump"
)

// newPumpCommand is what the suite measures the wire itself with: each side is
// a process, so that it has its own core and its own CPU time.
func newPumpCommand() *cobra.Command {
	var s pump.Shape
	var spin bool
	var connections int
	var runtime time.Duration
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
			fmt.Fprintf(cmd.OutOrStdout(), "listening on %s\n", ln.Addr())
			return pump.Serve(cmd.Context(), ln, s, spin)
		},
	}
	run := &cobra.Command{
		Use:   "run ADDR",
		Short: "Ask a server and print what was measured as JSON",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if connections < 1 || connections > 256 {
				return fmt.Errorf("--connections %d: give 1 to 256", connections)
			}
			res, err := pump.Run(cmd.Context(), args[0], s, connections, runtime, spin)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), res)
		},
	}
	run.Flags().IntVar(&connections, "connections", 1, "connections at once, 1 to 256")
	run.Flags().DurationVar(&runtime, "runtime", time.Second, "how long to measure")
	cmd.AddCommand(serve, run)
	return cmd
}
