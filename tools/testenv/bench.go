package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/testenv/cluster"
	"blockd.dev/testenv/clusterbench"
)

func benchCommand(f *clusterFlags) *cobra.Command {
	var cfg clusterbench.Config
	var on, bandwidth string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure volumes of three copies on clusters of its own",
		Long: `Measures on clusters that it builds and takes down:

  copies    a volume of three copies beside one of one copy, over AF_XDP and over
            UDP, with disks in memory
  files     the same with all disks in files of one file system
  durable   volumes of three copies with all disks in files of one file system,
            beside Ceph's RBD with three OSDs on the same file system, if Ceph is
            installed; and where the time of a write goes
  resync    what is copied to bring a node back that was away, how fast a disk is
            emptied onto another, and what hosts see of either; the latter also with a network
            that is no faster than real ones
  rebuild   how fast other disks get the copies of a node that is lost for good, without
            hosts, with hosts of the same volumes, and with hosts of another
  failover  how long a host waits when the owner of its volume is killed, 50 times,
            and when the volume is moved, 20 times
  idle      what nodes cost that have nothing to do

The host and all nodes share this machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if cfg.Bandwidth, err = cluster.ParseBandwidth(bandwidth); err != nil {
				return fmt.Errorf("--bandwidth: %w", err)
			}
			if cfg.Dir, err = os.MkdirTemp(on, "blockd-bench-"); err != nil {
				return err
			}
			defer os.RemoveAll(cfg.Dir)
			if cfg.BinDir == "" {
				cfg.BinDir = besideTestenv()
			}
			report, err := clusterbench.Run(cmd.Context(), cfg, cmd.ErrOrStderr())
			if f.output == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return errors.Join(err, e.Encode(report))
			}
			return errors.Join(err, clusterbench.Print(cmd.OutOrStdout(), report))
		},
	}
	cmd.Flags().StringVar(&cfg.BinDir, "bin", "", "directory of blockd, blockctl, blockbench and testenv (default: where testenv is)")
	cmd.Flags().StringVar(&on, "on", "", "directory for the clusters, on the disk to measure (default: that of temporary files)")
	cmd.Flags().StringVar(&cfg.Only, "only", "", "run one part: copies, files, durable, resync, rebuild, failover or idle")
	cmd.Flags().DurationVar(&cfg.Runtime, "runtime", 5*time.Second, "how long each load runs, after a second of warming up")
	cmd.Flags().DurationVar(&cfg.Away, "away", time.Minute, "how long a node is away in the part on resync")
	cmd.Flags().StringVar(&bandwidth, "bandwidth", "2.5gbit", "what each node gets from the network in a second where the part on resync empties disks once more; 0: leave that out")
	cmd.Flags().IntVar(&cfg.Rounds, "rounds", 3, "how often each is measured; the median counts")
	return cmd
}
