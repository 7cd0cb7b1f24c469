package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"blockd.dev/blockdev"
)

// Result is what a measurement found. Latencies are from Submit to Done, or
// with a rate from when the request was due.
type Result struct {
	Name        string              `json:"name"`
	Connections int                 `json:"connections"`
	Ops         int64               `json:"ops"`
	Bytes       int64               `json:"bytes"`
	Errors      int64               `json:"errors"`
	FirstErr    string              `json:"first_error,omitempty"`
	Elapsed     time.Duration       `json:"elapsed_ns"`
	IOPS        float64             `json:"iops"`
	MBps        float64             `json:"mb_per_s"`
	P50         time.Duration       `json:"p50_ns"`
	P99         time.Duration       `json:"p99_ns"`
	P999        time.Duration       `json:"p999_ns"`
	Max         time.Duration       `json:"max_ns"`
	ByOp        map[string]OpResult `json:"by_op"`
	CPUPerOp    time.Duration       `json:"cpu_per_op_ns"` // user and system time of this process
	MaxRSS      int64               `json:"max_rss_bytes"`
	HugePages   string              `json:"huge_pages"`

	err error // the first one, with its chain
}

// Err is the first error that a request failed with, or nil.
func (r Result) Err() error { return r.err }

// OpResult is the part of one operation.
type OpResult struct {
	Ops  int64         `json:"ops"`
	IOPS float64       `json:"iops"`
	P50  time.Duration `json:"p50_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p999_ns"`
	Max  time.Duration `json:"max_ns"`
}

// latencyMax is what longer latencies count as.
const latencyMax = 10 * time.Minute

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(100, int64(latencyMax), 3) }

func record(h *hdrhistogram.Histogram, took time.Duration) {
	_ = h.RecordValue(max(min(int64(took), int64(latencyMax)), 0)) // in its range
}

// tally is what one runner has counted.
type tally struct {
	ops, errors, bytes int64
	firstErr           error
	hist               [blockdev.OpCompareAndWrite + 1]*hdrhistogram.Histogram // nil where there was none
}

// add joins another tally's counts to t.
func (t *tally) add(o *tally) {
	t.ops += o.ops
	t.errors += o.errors
	t.bytes += o.bytes
	if t.firstErr == nil {
		t.firstErr = o.firstErr
	}
	for op, h := range o.hist {
		if h == nil {
			continue
		}
		if t.hist[op] == nil {
			t.hist[op] = newHistogram()
		}
		t.hist[op].Merge(h)
	}
}

func (t *tally) result(s Spec, devices int, elapsed time.Duration) Result {
	seconds := max(elapsed, 1).Seconds()
	res := Result{Name: s.Name(), Connections: devices, Ops: t.ops, Bytes: t.bytes, Errors: t.errors, Elapsed: elapsed,
		IOPS: float64(t.ops-t.errors) / seconds, MBps: float64(t.bytes) / 1e6 / seconds, ByOp: map[string]OpResult{}}
	all := newHistogram()
	quantile := func(h *hdrhistogram.Histogram, q float64) time.Duration { return time.Duration(h.ValueAtQuantile(q)) }
	for op, h := range t.hist {
		if h == nil {
			continue
		}
		all.Merge(h)
		res.ByOp[blockdev.Op(op).String()] = OpResult{Ops: h.TotalCount(), IOPS: float64(h.TotalCount()) / seconds,
			P50: quantile(h, 50), P99: quantile(h, 99), P999: quantile(h, 99.9), Max: time.Duration(h.Max())}
	}
	res.P50, res.P99, res.P999, res.Max = quantile(all, 50), quantile(all, 99), quantile(all, 99.9), time.Duration(all.Max())
	if res.err = t.firstErr; res.err != nil {
		res.FirstErr = res.err.Error()
	}
	return res
}
