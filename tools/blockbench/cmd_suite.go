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
			"in the shape of their protocol, rounds of both in turn.\n" +
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
			parts := []struct {
				name string
				run  func(context.Context) ([]suite.Row, error)
			}{
				{"store", suite.Store{Dir: dir, Bytes: bytes, Rounds: rounds, Runtime: runtime, Logf: logf}.Run},
				{"iscsi", suite.ISCSI{Blockd: blockd, Rounds: rounds, Runtime: runtime, Logf: logf}.Run},
				{"nvme", wire("nvme").Run},
				{"iscsi-wire", wire("iscsi").Run},
			}
			var rows []suite.Row
			var errs []error
			known := only == ""
			for _, p := range parts {
				if only != "" && only != p.name {
					continue
				}
				known = true
				more, err := p.run(cmd.Context())
				rows = append(rows, more...)
				if err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
				}
			}
			if !known {
				return fmt.Errorf("--only %s: give store, iscsi, nvme or iscsi-wire", only)
			}
			return errors.Join(append(errs, printRows(cmd, output, rows))...)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", ".", "directory on the disk to measure")
	f.StringVar(&blockd, "blockd", "", "the blockd binary (default: beside blockbench)")
	f.IntVar(&rounds, "rounds", 3, "rounds of each side and case")
	f.DurationVar(&runtime, "runtime", 3*time.Second, "length of a round, in whole seconds; a third of it for bare TCP")
	f.Int64Var(&bytes, "bytes", 2<<30, "size of the store's volume in bytes, a multiple of 1 MiB")
	f.StringVar(&only, "only", "", "run one part: store, iscsi, nvme or iscsi-wire")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func printRows(cmd *cobra.Command, format string, rows []suite.Row) error {
	switch format {
	case "json":
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		return enc.Encode(rows)
	case "table":
		return suite.WriteTable(cmd.OutOrStdout(), rows)
	}
	return fmt.Errorf("output format %q: give table or json", format)
}
