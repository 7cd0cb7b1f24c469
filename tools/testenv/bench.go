package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/testenv/clusterbench"
)

func benchCommand(f *clusterFlags) *cobra.Command {
	var cfg clusterbench.Config
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure volumes of three copies on clusters of its own",
		Long: `Measures a volume of three copies beside one of one copy, over AF_XDP and over
UDP, on clusters that it builds and takes down. The host, the nodes
and their disks, which are in memory, share this machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Dir, err = os.MkdirTemp("", "blockd-bench-"); err != nil {
				return err
			}
			defer os.RemoveAll(cfg.Dir)
			if cfg.BinDir == "" {
				cfg.BinDir = besideTestenv()
			}
			results, err := clusterbench.Run(cmd.Context(), cfg, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(results)
			}
			return clusterbench.Print(cmd.OutOrStdout(), results)
		},
	}
	cmd.Flags().StringVar(&cfg.BinDir, "bin", "", "directory of blockd, blockctl, blockbench and testenv (default: where testenv is)")
	cmd.Flags().DurationVar(&cfg.Runtime, "runtime", 5*time.Second, "how long each load runs, after a second of warming up")
	cmd.Flags().IntVar(&cfg.Rounds, "rounds", 1, "how often each is measured; the median counts")
	return cmd
}
