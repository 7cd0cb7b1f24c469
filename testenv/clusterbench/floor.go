package clusterbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// Floor is what the file system takes for durable writes of 4 KiB, by fio
// (io_uring, O_DIRECT, O_DSYNC), in IOPS of each file, with 1 in flight: to one
// file, and to three at once, as three copies on one disk need it.
type Floor struct {
	One   float64 `json:"one_file_iops"`
	Three float64 `json:"three_files_iops"`
}

// floors are those of all rounds.
type floors struct{ one, three []float64 }

// measure adds a round. It works in dir, which it makes and removes.
func (f *floors) measure(ctx context.Context, dir string, runtime time.Duration) (err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	one, err := durableWrites(ctx, dir, 1, runtime)
	if err != nil {
		return err
	}
	all, err := durableWrites(ctx, dir, 3, runtime)
	f.one, f.three = append(f.one, one), append(f.three, all/3)
	return err
}

func (f *floors) median() Floor {
	middle := func(of []float64) float64 { return slices.Sorted(slices.Values(of))[len(of)/2] }
	return Floor{One: middle(f.one), Three: middle(f.three)}
}

func durableWrites(ctx context.Context, dir string, files int, runtime time.Duration) (float64, error) {
	// overwrite lays the files out first: a disk's blocks have been written, too.
	f, err := fio(ctx, dir, "--sync=dsync", "--rw=randwrite", "--bs=4k", "--iodepth=1", "--size=128m", "--overwrite=1",
		fmt.Sprintf("--numjobs=%d", files), "--group_reporting", "--time_based", "--runtime="+wholeSeconds(runtime))
	return f.Write.IOPS, err
}
