package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Load is what fio does to an image.
type Load struct {
	Write      bool
	Sequential bool
	BlockBytes int
	Depth      int
	Warmup     time.Duration // whole seconds
	Runtime    time.Duration // whole seconds; 0: once over the image
}

// Sample is what fio measured.
type Sample struct {
	IOPS     float64
	P50, P99 time.Duration // of a request's completion
}

// Run loads an image by fio's rbd engine, that is by librbd.
func (c *Cluster) Run(ctx context.Context, image string, l Load) (Sample, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Warmup+l.Runtime+commandTimeout)
	defer cancel()
	out, err := c.output(ctx, l.arguments(image)...)
	if err != nil {
		return Sample{}, err
	}
	return parse(out, l.Write)
}

func (l Load) arguments(image string) []string {
	rw := "read"
	if l.Write {
		rw = "write"
	}
	if !l.Sequential {
		rw = "rand" + rw
	}
	args := []string{"fio", "--name=peer", "--ioengine=rbd", "--clientname=admin", "--pool=" + pool, "--rbdname=" + image, "--rw=" + rw,
		"--bs=" + strconv.Itoa(l.BlockBytes), "--iodepth=" + strconv.Itoa(l.Depth), "--output-format=json"}
	if l.Runtime > 0 {
		args = append(args, "--time_based", "--ramp_time="+seconds(l.Warmup), "--runtime="+seconds(l.Runtime))
	}
	return args
}

// seconds is a duration as fio takes it.
func seconds(d time.Duration) string { return strconv.Itoa(int(d.Round(time.Second) / time.Second)) }

// parse reads the one job of fio's JSON.
func parse(out string, write bool) (Sample, error) {
	type side struct {
		IOPS    float64 `json:"iops"`
		Latency struct {
			Percentile map[string]int64 `json:"percentile"`
		} `json:"clat_ns"`
	}
	var doc struct {
		Jobs []struct {
			Error       int
			Read, Write side
		} `json:"jobs"`
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil {
		return Sample{}, fmt.Errorf("ceph: fio printed %q: %w", out, err)
	}
	if len(doc.Jobs) != 1 || doc.Jobs[0].Error != 0 {
		return Sample{}, fmt.Errorf("ceph: fio's job failed: %s", out)
	}
	s := doc.Jobs[0].Read
	if write {
		s = doc.Jobs[0].Write
	}
	if s.IOPS == 0 {
		return Sample{}, fmt.Errorf("ceph: fio did no I/O: %s", out)
	}
	at := func(p string) time.Duration { return time.Duration(s.Latency.Percentile[p]) }
	return Sample{IOPS: s.IOPS, P50: at("50.000000"), P99: at("99.000000")}, nil
}
