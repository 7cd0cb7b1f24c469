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
		Short:         "Serve block volumes to hosts",
		Long:          "blockd serves block volumes to hosts over iSCSI. Every setting can be given as a flag, as a\nBLOCKD_ variable (BLOCKD_LOG_LEVEL) or in a TOML file (log_level), the first winning.",
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
