package suite

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"blockd.dev/tools/blockbench/load"
)

// fio runs fio's io_uring engine with O_DIRECT on file in the shape of s, once over the range when s.Runtime
// is 0.
func fio(ctx context.Context, file string, s load.Spec) (Sample, error) {
	rw := map[bool]string{true: "read", false: "write"}[s.ReadPercent == 100]
	if !s.Sequential {
		rw = "rand" + rw
	}
	args := []string{"--name=peer", "--filename=" + file, "--ioengine=io_uring", "--direct=1", "--rw=" + rw,
		"--bs=" + strconv.Itoa(s.BlockBytes), "--iodepth=" + strconv.Itoa(s.Depth),
		"--size=" + strconv.FormatInt(s.RangeBytes, 10), "--output-format=json"}
	if s.Runtime > 0 {
		args = append(args, "--time_based", fmt.Sprintf("--runtime=%d", max(1, int(s.Runtime.Seconds()))))
	}
	if s.FUA {
		args = append(args, "--sync=dsync")
	}
	out, err := output(ctx, "fio", args...)
	if err != nil {
		return Sample{}, err
	}
	return parseFio(out, s.ReadPercent == 100)
}

// parseFio reads one job's IOPS from fio's JSON.
func parseFio(out string, reads bool) (Sample, error) {
	var doc struct {
		Jobs []struct {
			Read, Write struct {
				IOPS float64 `json:"iops"`
			}
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return Sample{}, fmt.Errorf("fio's output: %w", err)
	}
	if len(doc.Jobs) != 1 {
		return Sample{}, fmt.Errorf("fio's output has %d jobs, not 1", len(doc.Jobs))
	}
	if reads {
		return Sample{IOPS: doc.Jobs[0].Read.IOPS}, nil
	}
	return Sample{IOPS: doc.Jobs[0].Write.IOPS}, nil
}
