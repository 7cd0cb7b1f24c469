// Command blockd is a block storage target: it serves volumes to the iSCSI
// initiators of hosts.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"blockd.dev/tools/blockd/daemon"
)

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "blockd:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var file string
	// The values given as flags win over variables, these over the file.
	given := map[string]*string{}

	load := func(cmd *cobra.Command) (daemon.Config, error) {
		cfg := daemon.NewConfig()
		if file == "" {
			file = os.Getenv("BLOCKD_CONFIG")
		}
		if file != "" {
			if err := cfg.LoadFile(file); err != nil {
				return cfg, err
			}
		}
		if err := cfg.LoadEnv(os.LookupEnv); err != nil {
			return cfg, err
		}
		for _, s := range daemon.Settings() {
			if cmd.Flags().Changed(s.Name) {
				if err := s.Set(&cfg, *given[s.Name]); err != nil {
					return cfg, fmt.Errorf("--%s: %w", s.Name, err)
				}
			}
		}
		return cfg, cfg.Validate()
	}
	run := func(cmd *cobra.Command, dev bool) error {
		cfg, err := load(cmd)
		if err != nil {
			return err
		}
		cfg.Dev = dev
		if os.Getenv(daemon.DiskVolatileVariable) != "" {
			cfg.VolatileDisks()
		}
		if path := os.Getenv(daemon.DiskFaultsVariable); path != "" {
			cfg.DiskFaults(path)
		}
		log, err := daemon.NewLogger(cfg.LogLevel, os.Stderr)
		if err != nil {
			return err
		}
		signals := make(chan os.Signal, 2)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		return daemon.Run(cfg, os.Stdout, log, signals)
	}

	root := &cobra.Command{
		Use:           "blockd",
		Short:         "Serve block volumes to hosts over iSCSI and NVMe/TCP",
		Long:          "blockd serves block volumes to hosts over iSCSI and NVMe/TCP. Every setting can be given as a\nflag, as a BLOCKD_ variable (BLOCKD_LOG_LEVEL) or in a TOML file (log_level), the first winning.",
		Args:          cobra.NoArgs,
		Version:       daemon.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd, false) },
	}
	root.PersistentFlags().StringVar(&file, "config", "", "TOML file with settings")
	defaults := daemon.NewConfig()
	for _, s := range daemon.Settings() {
		value := s.Get(&defaults)
		given[s.Name] = &value
		root.PersistentFlags().Var(&flag{text: &value, list: s.List()}, s.Name, s.Usage)
	}
	root.AddCommand(
		metaCommand(load),
		&cobra.Command{
			Use:   "dev",
			Short: "Serve, with a volume vol0 that every host may attach, and print how",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return run(cmd, true) },
		},
		&cobra.Command{
			Use:   "config",
			Short: "Print the settings in effect, in the form of a configuration file",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				cfg, err := load(cmd)
				if err != nil {
					return err
				}
				return cfg.Print(cmd.OutOrStdout())
			},
		},
	)
	return root
}

// metaCommand has the ways back from disaster, for a blockd that does not run.
func metaCommand(load func(*cobra.Command) (daemon.Config, error)) *cobra.Command {
	meta := &cobra.Command{Use: "meta", Short: "Bring the state of a cluster back, while blockd does not run", Args: cobra.NoArgs}
	keys, sure := "", false
	restore := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make this node a cluster of one from a backup (blockctl cluster backup)",
		Long:  "Make this node a cluster of one from a backup (blockctl cluster backup). --data is the directory of a node\nthat was in the cluster, or an empty one; then --keys names a copy of DATA/pki/cluster.keys. The other nodes\nare removed (blockctl node remove --force) and join again with wiped directories. The data of volumes is not in a backup.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			h, err := daemon.Restore(cfg, f, keys)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s has the state of cluster %s of %s; start blockd\n", cfg.Data, h.Cluster, h.Made.Format("2006-01-02 15:04:05 MST"))
			return err
		},
	}
	restore.Flags().StringVar(&keys, "keys", "", "copy of cluster.keys; empty: the one in --data")
	recovery := &cobra.Command{
		Use:   "recover --yes",
		Short: "Make this node a cluster of one after a majority of the voters was lost for good",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := load(cmd)
			if err != nil {
				return err
			}
			if !sure {
				return fmt.Errorf("changes that only the lost nodes have are lost by this, and should one of them live on, it must never be started again with its present directory; repeat with --yes")
			}
			return daemon.Recover(cfg)
		},
	}
	recovery.Flags().BoolVar(&sure, "yes", false, "do it")
	meta.AddCommand(restore, recovery)
	return meta
}

// flag is a setting's value on the command line. Those of a list that is given
// several times are joined.
type flag struct {
	text  *string
	list  bool
	given bool
}

// String implements pflag.Value.
func (f *flag) String() string { return *f.text }

// Type implements pflag.Value.
func (f *flag) Type() string { return "string" }

// Set implements pflag.Value.
func (f *flag) Set(v string) error {
	if f.list && f.given {
		v = *f.text + "," + v
	}
	*f.text, f.given = v, true
	return nil
}
