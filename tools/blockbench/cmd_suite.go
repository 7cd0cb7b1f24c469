package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/tools/blockbench/suite"
)

// newSuiteCommand runs what `make bench` prints.
func newSuiteCommand() *cobra.Command {
	var (
		dir, blockd, output string
		rounds              int
		runtime             time.Duration
		bytes               int64
		only                string
	)
	cmd := &cobra.Command{
		Use:   "suite",
		Short: "Measure blockd beside its peers in one run and print the ratios",
		Long: "Runs the store beside fio, the iSCSI target beside tgt, and both targets beside bare TCP\n" +
			"in the shape of their protocol, rounds of both in turn,\n" +
			"and what idle connections cost.\n" +
			"Needs fio, tgt, libiscsi-bin, qemu-utils and qemu-block-extra. A goal that is not\n" +
			"reached is printed, not an error: machines differ.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logf := func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if blockd == "" {
				blockd = filepath.Join(filepath.Dir(self), "blockd")
			}
			// Bare TCP settles quickly.
			wire := func(protocol string) suite.Wire {
				return suite.Wire{Protocol: protocol, Blockd: blockd, Self: self, Rounds: rounds, Runtime: runtime / 3, Logf: logf}
			}
			var report suite.Report
			rows := func(run func(context.Context) ([]suite.Row, error)) func(context.Context) error {
				return func(ctx context.Context) error {
					more, err := run(ctx)
					report.Rows = append(report.Rows, more...)
					return err
				}
			}
			parts := []struct {
				name string
				run  func(context.Context) error
			}{
				{"store", rows(suite.Store{Dir: dir, Bytes: bytes, Rounds: rounds, Runtime: runtime, Logf: logf}.Run)},
				{"iscsi", rows(suite.ISCSI{Blockd: blockd, Rounds: rounds, Runtime: runtime, Logf: logf}.Run)},
				{"nvme", rows(wire("nvme").Run)},
				{"iscsi-wire", rows(wire("iscsi").Run)},
				{"idle", func(ctx context.Context) (err error) {
					report.Gauges, err = suite.Idle{Blockd: blockd, Logf: logf}.Run(ctx)
					return err
				}},
			}
			var errs []error
			known := only == ""
			for _, p := range parts {
				if only != "" && only != p.name {
					continue
				}
				known = true
				if err := p.run(cmd.Context()); err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
				}
			}
			if !known {
				return fmt.Errorf("--only %s: give store, iscsi, nvme, iscsi-wire or idle", only)
			}
			return errors.Join(append(errs, printSuite(cmd, output, report))...)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", ".", "directory on the disk to measure")
	f.StringVar(&blockd, "blockd", "", "the blockd binary (default: beside blockbench)")
	f.IntVar(&rounds, "rounds", 3, "rounds of each side and case")
	f.DurationVar(&runtime, "runtime", 3*time.Second, "length of a round, in whole seconds; a third of it for bare TCP")
	f.Int64Var(&bytes, "bytes", 2<<30, "size of the store's volume in bytes, a multiple of 1 MiB")
	f.StringVar(&only, "only", "", "run one part: store, iscsi, nvme, iscsi-wire or idle")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printSuite(cmd *cobra.Command, format string, report suite.Report) error {
	switch format {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(report)
	case "table":
		return suite.WriteTables(cmd.OutOrStdout(), report)
	}
	return fmt.Errorf("output format %q: give table or json", format)
}
