package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"blockd.dev/blockdev/arena"
	"blockd.dev/tools/blockbench/load"
	"blockd.dev/tools/blockbench/suite"
)

// newStoreCommand measures the extent store by itself, with no protocol.
func newStoreCommand() *cobra.Command {
	var (
		dir, output string
		bytes       int64
		spec        load.Spec
	)
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Measure the extent store on a file of its own",
		Long: "Makes a disk file below --dir, fills a volume on it, measures one mix of requests\n" +
			"and removes the file. Writes are durable when they count as done.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			mem, err := arena.New(arena.Config{})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, mem.Close()) }()
			tmp, err := os.MkdirTemp(dir, "blockbench-store-")
			if err != nil {
				return fmt.Errorf("make a place for the disk file (choose another with --dir): %w", err)
			}
			defer os.RemoveAll(tmp)
			vol, err := suite.OpenVolume(filepath.Join(tmp, "disk0"), bytes)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, vol.Close()) }()
			if err := vol.Fill(); err != nil {
				return err
			}
			spec.RangeBytes, spec.FUA = bytes, true
			res, err := load.Run(cmd.Context(), vol, mem, spec)
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), output, res)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", ".", "directory on the disk to measure")
	f.Int64Var(&bytes, "bytes", 2<<30, "size of the volume in bytes, a multiple of 1 MiB")
	f.IntVar(&spec.BlockBytes, "bs", 4096, "bytes per request")
	f.IntVar(&spec.Depth, "depth", 32, "requests in flight")
	f.IntVar(&spec.ReadPercent, "read-percent", 100, "share of reads: 0 writes only, 100 reads only")
	f.BoolVar(&spec.Sequential, "sequential", false, "consecutive offsets rather than random ones")
	f.DurationVar(&spec.Runtime, "runtime", 10*time.Second, "how long to measure")
	f.Uint64Var(&spec.Seed, "seed", 1, "of the offsets and the data")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
