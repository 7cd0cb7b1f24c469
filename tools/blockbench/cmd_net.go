package main

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/units"
	"blockd.dev/tools/blockbench/netbench"
)

// newNetCommand measures the network between nodes.
func newNetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "net",
		Short: "Measure requests between two nodes, over AF_XDP, UDP, and the kernel's TCP",
		Long: "`blockbench net suite` does it all on this machine, between two network namespaces.\n" +
			"Between hosts, `blockbench net serve` on one answers `blockbench net run` on the other,\n" +
			"both with the same --kind, --request, --reply and --key.",
	}
	cmd.AddCommand(newNetServeCommand(), newNetRunCommand(), newNetSuiteCommand(), newNetTakeCommand(), newNetGiveCommand())
	return cmd
}

// netFlags are those of both sides.
type netFlags struct {
	shape       netbench.Shape
	local, poll string
}

func (n *netFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&n.shape.Kind, "kind", "udp", "what carries them: xdp, xdp-zerocopy, xdp-copy, xdp-generic, udp, tcp, tls or udp-bare")
	f.StringVar(&n.shape.Interface, "interface", "", "of xdp: the interface that has the address")
	f.StringVar(&n.local, "local", "", "address and port of this side (required)")
	f.StringVar(&n.poll, "poll", "adaptive", "of xdp and udp, how to wait: adaptive, busy or interrupt")
	f.BoolVar(&n.shape.NoOffload, "no-offload", false, "of udp: hand single datagrams to the kernel")
	f.IntVar(&n.shape.Request, "request", 4096, "bytes of a request")
	f.IntVar(&n.shape.Reply, "reply", 64, "bytes of a reply")
	f.StringVar(&n.shape.Key, "key", "blockbench", "what both sides make their certificates of")
}

func (n *netFlags) parse() (err error) {
	if n.shape.Local, err = netip.ParseAddrPort(n.local); err != nil {
		return fmt.Errorf("--local: %w", err)
	}
	if n.shape.Poll, err = adaptive.ParseMode(n.poll); err != nil {
		return fmt.Errorf("--poll: %w", err)
	}
	return n.shape.Validate()
}

func newNetServeCommand() *cobra.Command {
	var n netFlags
	var peer string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Answer requests until a signal comes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := n.parse(); err != nil {
				return err
			}
			var peers []netip.Addr
			if peer != "" {
				a, err := netip.ParseAddr(peer)
				if err != nil {
					return fmt.Errorf("--peer: %w", err)
				}
				peers = append(peers, a)
			}
			return netbench.Serve(cmd.Context(), n.shape, peers, func(a netip.AddrPort) {
				fmt.Fprintf(cmd.OutOrStdout(), "listening on %v\n", a)
			})
		},
	}
	n.add(cmd)
	cmd.Flags().StringVar(&peer, "peer", "", "of xdp: the address of the other side, without a port; others are not let in")
	return cmd
}

func newNetRunCommand() *cobra.Command {
	var n netFlags
	var l netbench.Load
	var output string
	cmd := &cobra.Command{
		Use:   "run ADDR:PORT",
		Short: "Ask a server and print what was measured",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if err := n.parse(); err != nil {
				return err
			}
			if l.Peer, err = netip.ParseAddrPort(args[0]); err != nil {
				return err
			}
			r, err := netbench.Run(cmd.Context(), n.shape, l)
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return printJSON(cmd.OutOrStdout(), r)
			case "table":
				netbench.WriteResult(cmd.OutOrStdout(), r)
				return nil
			}
			return fmt.Errorf("output format %q: give table or json", output)
		},
	}
	n.add(cmd)
	f := cmd.Flags()
	f.IntVar(&l.Depth, "depth", 1, "requests in flight, 1 to 1024")
	f.DurationVar(&l.Warmup, "warmup", 300*time.Millisecond, "how long to run before the measurement")
	f.DurationVar(&l.Runtime, "runtime", 2*time.Second, "how long to measure")
	f.BoolVar(&l.Idle, "idle", false, "ask nothing, and measure what that costs")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// fileSize is a flag of both who give and who take a file.
func fileSize(cmd *cobra.Command) *string {
	return cmd.Flags().String("size", "512MiB", "of the file, which is written whole first")
}

func newNetTakeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "take FILE",
		Short: "Write to a file what `blockbench net give` sends by TCP, once",
		Args:  cobra.ExactArgs(1),
	}
	size := fileSize(cmd)
	local := cmd.Flags().String("local", "", "address and port of this side (required)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		addr, err := netip.ParseAddrPort(*local)
		if err != nil {
			return fmt.Errorf("--local: %w", err)
		}
		bytes, err := units.ParseBytes(*size)
		if err != nil {
			return fmt.Errorf("--size: %w", err)
		}
		return netbench.TakeFile(cmd.Context(), addr, args[0], bytes, func(a netip.AddrPort) {
			fmt.Fprintf(cmd.OutOrStdout(), "listening on %v\n", a)
		})
	}
	return cmd
}

func newNetGiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "give FILE ADDR:PORT",
		Short: "Send a file to `blockbench net take`, and print how many MB/s become durable there",
		Long: "Files are read and written past the page cache, a MiB at a time and 8 of them at once, by one TCP connection\n" +
			"without checksums or encryption: what two nodes could copy at best, by plain means.",
		Args: cobra.ExactArgs(2),
	}
	size := fileSize(cmd)
	runtime := cmd.Flags().Duration("runtime", 2*time.Second, "how long to send, from the start again when the file ends")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		peer, err := netip.ParseAddrPort(args[1])
		if err != nil {
			return err
		}
		bytes, err := units.ParseBytes(*size)
		if err != nil {
			return fmt.Errorf("--size: %w", err)
		}
		mbps, err := netbench.GiveFile(cmd.Context(), peer, args[0], bytes, *runtime)
		if err != nil {
			return err
		}
		return printJSON(cmd.OutOrStdout(), map[string]float64{"megabytes_per_second": mbps})
	}
	return cmd
}

func newNetSuiteCommand() *cobra.Command {
	var s netbench.Suite
	var output string
	cmd := &cobra.Command{
		Use:   "suite",
		Short: "Measure all kinds between two network namespaces of this machine and print the ratios",
		Long: "Needs root. Makes two network namespaces, joined by a veth pair, which go with the\n" +
			"program. A goal that is not reached is printed, not an error: machines differ.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if s.Self, err = os.Executable(); err != nil {
				return err
			}
			if s.Rounds < 1 || s.Runtime < 10*time.Millisecond {
				return fmt.Errorf("--rounds %d of %v: give at least 1, and 10ms", s.Rounds, s.Runtime)
			}
			s.Logf = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
			r, err := s.Run(cmd.Context())
			if err != nil {
				return err
			}
			switch output {
			case "json":
				return printJSON(cmd.OutOrStdout(), r)
			case "table":
				return netbench.WriteTable(cmd.OutOrStdout(), r)
			}
			return fmt.Errorf("output format %q: give table or json", output)
		},
	}
	f := cmd.Flags()
	f.IntVar(&s.MTU, "mtu", 9000, "of the wire, in bytes")
	f.IntVar(&s.Rounds, "rounds", 3, "rounds of each case; the one in the middle counts")
	f.DurationVar(&s.Runtime, "runtime", time.Second, "length of a round")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
