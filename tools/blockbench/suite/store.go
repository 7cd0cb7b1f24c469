package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"blockd.dev/blockdev/arena"
	"blockd.dev/tools/blockbench/load"
)

// Store says how to measure the extent store.
type Store struct {
	Dir     string // on the disk to measure; two files of Bytes are made and removed
	Bytes   int64  // of the volume, and of the peer's file; a multiple of 1 MiB
	Rounds  int
	Runtime time.Duration // of a round
	Logf    func(format string, args ...any)
}

// storeCase is one shape and the ratio to fio that it should reach.
type storeCase struct {
	name string
	goal float64
	spec load.Spec
}

var storeCases = []storeCase{
	{"store randread 4k qd1", 0.9, load.Spec{ReadPercent: 100, BlockBytes: 4096, Depth: 1}},
	{"store randread 4k qd32", 0.9, load.Spec{ReadPercent: 100, BlockBytes: 4096, Depth: 32}},
	{"store durable randwrite 4k qd1", 0, load.Spec{BlockBytes: 4096, Depth: 1, FUA: true}},
	{"store durable randwrite 4k qd32", 0.7, load.Spec{BlockBytes: 4096, Depth: 32, FUA: true}},
	{"store seqread 128k qd8", 0, load.Spec{ReadPercent: 100, Sequential: true, BlockBytes: 128 << 10, Depth: 8}},
	{"store durable seqwrite 128k qd8", 0, load.Spec{Sequential: true, BlockBytes: 128 << 10, Depth: 8, FUA: true}},
}

// Run measures every case against fio with io_uring and O_DIRECT (and O_DSYNC
// for writes) on a file of the same size that has been written once.
func (s Store) Run(ctx context.Context) (rows []Row, err error) {
	mem, err := arena.New(arena.Config{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	dir, err := os.MkdirTemp(s.Dir, "blockbench-store-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)

	peer := filepath.Join(dir, "fio")
	s.Logf("writing %d MiB to fio's file and to the volume", s.Bytes>>20)
	if _, err := fio(ctx, peer, load.Spec{Sequential: true, BlockBytes: 1 << 20, Depth: 4, RangeBytes: s.Bytes}); err != nil {
		return nil, err
	}
	vol, err := OpenVolume(filepath.Join(dir, "disk0"), s.Bytes)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, vol.Close()) }()
	if err := vol.Fill(); err != nil {
		return nil, err
	}

	for _, c := range storeCases {
		s.Logf("%s", c.name)
		c.spec.RangeBytes, c.spec.Runtime = s.Bytes, s.Runtime
		var a, b []Sample
		for round := range s.Rounds {
			c.spec.Seed = uint64(round) + 1
			x, err := load.Run(ctx, vol, mem, c.spec)
			if err == nil && x.Errors > 0 {
				err = fmt.Errorf("%s: %d of %d requests failed: %s", c.name, x.Errors, x.Ops, x.FirstErr)
			}
			if err != nil {
				return rows, err
			}
			y, err := fio(ctx, peer, c.spec)
			if err != nil {
				return rows, err
			}
			a, b = append(a, Sample{IOPS: x.IOPS, CPUPerOp: x.CPUPerOp, P50: x.P50}), append(b, y)
		}
		rows = append(rows, newRow(c.name, "fio", c.goal, a, b))
	}
	return rows, nil
}
