package load

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// recorder is a device that completes inline and keeps what it was asked.
type recorder struct {
	seen    []blockdev.Request
	failAt  int // request that fails, counted from 1; 0 never
	onCount func(n int)
}

func (d *recorder) Geometry() blockdev.Geometry {
	return blockdev.Geometry{SizeBytes: 1 << 20, BlockSize: 4096, PhysicalBlockSize: 4096}
}

func (d *recorder) Watch(func(blockdev.Change)) func() { return func() {} }

func (d *recorder) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		d.seen = append(d.seen, *r)
		if d.onCount != nil {
			d.onCount(len(d.seen))
		}
		err := blockdev.Validate(d.Geometry(), r)
		if len(d.seen) == d.failAt {
			err = blockdev.NewError(blockdev.ErrMedium, r, -1, nil)
		}
		blockdev.Complete(r, err)
	}
}

// run drives a recorder until it has seen count requests.
func run(t *testing.T, d *recorder, s Spec, count int) (Result, error) {
	t.Helper()
	mem, err := arena.New(arena.Config{SizeBytes: 16 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d.onCount = func(n int) {
		if n == count {
			cancel() // the runner goes on until it has noticed
		}
	}
	s.Runtime = time.Minute
	return Run(ctx, d, mem, s)
}

func TestMixAndPatternAreAsSpecified(t *testing.T) {
	d := &recorder{}
	res, err := run(t, d, Spec{ReadPercent: 25, BlockBytes: 8192, Depth: 4, RangeBytes: 512 << 10, FUA: true, Seed: 1}, 4000)
	if err != nil || res.Errors != 0 {
		t.Fatal(res, err)
	}
	if int(res.Ops) != len(d.seen) || res.Bytes != res.Ops*8192 {
		t.Fatalf("%d requests were counted as %d with %d bytes", len(d.seen), res.Ops, res.Bytes)
	}
	reads := 0
	for _, r := range d.seen {
		if r.Offset%8192 != 0 || r.Offset+r.Length > 512<<10 {
			t.Fatalf("request at %d+%d leaves the range or its alignment", r.Offset, r.Length)
		}
		if r.Op == blockdev.OpRead {
			reads++
		}
		if r.FUA != (r.Op == blockdev.OpWrite) {
			t.Fatalf("%v with FUA %v", r.Op, r.FUA)
		}
	}
	if share := float64(reads) / float64(len(d.seen)); share < 0.2 || share > 0.3 {
		t.Errorf("%.2f of the requests read, want 0.25", share)
	}
}

func TestSequentialWrapsAtTheRange(t *testing.T) {
	d := &recorder{}
	if _, err := run(t, d, Spec{Sequential: true, BlockBytes: 4096, Depth: 1, RangeBytes: 16384}, 10); err != nil {
		t.Fatal(err)
	}
	for i, r := range d.seen {
		if want := int64(i%4) * 4096; r.Offset != want || r.Op != blockdev.OpWrite {
			t.Fatalf("request %d is a %v at %d, want a write at %d", i, r.Op, r.Offset, want)
		}
	}
}

func TestSharesOfOperationsAndSizes(t *testing.T) {
	mix, err := ParseMix("read:50,write:25,unmap,write-zeroes:4,flush:10,compare-and-write:10")
	if err != nil {
		t.Fatal(err)
	}
	sizes, err := ParseSizes("4K:3,64KiB:1")
	if err != nil {
		t.Fatal(err)
	}
	d := &recorder{}
	const from, length = 256 << 10, 512 << 10
	if res, err := run(t, d, Spec{Mix: mix, Sizes: sizes, Depth: 3, OffsetBytes: from, RangeBytes: length}, 4000); err != nil || res.Err() != nil {
		t.Fatal(err, res.Err())
	}
	ops, lengths := map[blockdev.Op]int{}, map[int64]int{}
	for _, r := range d.seen {
		ops[r.Op]++
		if r.Op == blockdev.OpFlush {
			continue
		}
		if r.Offset < from || r.Offset+r.Length > from+length {
			t.Fatalf("request at %d+%d leaves the range", r.Offset, r.Length)
		}
		if r.Op == blockdev.OpCompareAndWrite && r.Length != 4096 {
			t.Fatalf("compare-and-write of %d bytes", r.Length)
		}
		lengths[r.Length]++
	}
	share := func(n int) float64 { return float64(n) / float64(len(d.seen)) }
	for _, m := range mix {
		if got, want := share(ops[m.What]), float64(m.Weight)/100; got < want*0.6 || got > want*1.4+0.01 {
			t.Errorf("%v is %.3f of the requests, want %.2f", m.What, got, want)
		}
	}
	if got := share(lengths[64<<10]); got < 0.15 || got > 0.25 {
		t.Errorf("%.2f of the requests are large", got)
	}
	for _, bad := range []string{"", "read:0", "read:x", "frobnicate", "read:1,,write:1"} {
		if m, err := ParseMix(bad); err == nil {
			t.Errorf("%q was taken for %v", bad, m)
		}
	}
	for _, bad := range []string{"", "0", "4X", "2GiB", "4K:-1"} {
		if m, err := ParseSizes(bad); err == nil {
			t.Errorf("%q was taken for %v", bad, m)
		}
	}
}

// Several devices share the rate; latencies count from when a request was due.
func TestRateIsKeptOverAllDevices(t *testing.T) {
	mem, err := arena.New(arena.Config{SizeBytes: 16 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	}()
	devs := []blockdev.Device{&recorder{}, &recorder{}, &recorder{}}
	progress := 0
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough := func(r Result) {
		progress++
		if r.Ops > 0 {
			cancel()
		}
	}
	start := time.Now()
	res, err := RunAll(ctx, devs, mem, Spec{ReadPercent: 100, BlockBytes: 4096, Depth: 4, Rate: 2000,
		Runtime: time.Minute, Warmup: 100 * time.Millisecond, Progress: enough})
	took := time.Since(start)
	if err != nil || res.Connections != 3 || progress == 0 || res.ByOp["read"].Ops != res.Ops {
		t.Fatalf("%+v, %d reports, %v", res, progress, err)
	}
	// The warm-up is not counted but done; a slow machine may do less, none more.
	var all int
	for _, d := range devs {
		all += len(d.(*recorder).seen)
	}
	if most := took.Seconds()*2000 + 3; float64(all) > most || int64(all) <= res.Ops {
		t.Errorf("%d requests, %d counted, in %v", all, res.Ops, took)
	}
}

func TestFirstErrorEndsTheRunAndIsTold(t *testing.T) {
	d := &recorder{failAt: 7}
	res, err := run(t, d, Spec{ReadPercent: 100, BlockBytes: 4096, Depth: 2}, 1_000_000)
	if err != nil || res.Errors != 1 || !strings.Contains(res.FirstErr, "medium error") {
		t.Fatalf("%+v, %v", res, err)
	}
}

func TestSpecThatDoesNotFitIsRefused(t *testing.T) {
	mem, err := arena.New(arena.Config{SizeBytes: 8 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	good := Spec{BlockBytes: 4096, Depth: 1, Runtime: time.Second}
	for want, bend := range map[string]func(*Spec){
		"read percentage": func(s *Spec) { s.ReadPercent = 101 },
		"block size":      func(s *Spec) { s.BlockBytes = 1000 },
		"depth":           func(s *Spec) { s.Depth = 0 },
		"runtime":         func(s *Spec) { s.Runtime = 0 },
		"the device has":  func(s *Spec) { s.RangeBytes = 2 << 20 },
		"less than one":   func(s *Spec) { s.RangeBytes = 512 },
		"offset":          func(s *Spec) { s.OffsetBytes = 1 << 20 },
		"rate":            func(s *Spec) { s.Rate = -1 },
		"warm-up":         func(s *Spec) { s.Warmup = -1 },
		"no buffers":      func(s *Spec) { s.BlockBytes, s.Depth = 1<<20, 4096 },
	} {
		s := good
		bend(&s)
		if _, err := Run(t.Context(), &recorder{}, mem, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want words with %q", s, err, want)
		}
	}
}
