package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// Result is what a measurement found. Latencies are from Submit to Done.
type Result struct {
	Name      string        `json:"name"`
	Ops       int64         `json:"ops"`
	Bytes     int64         `json:"bytes"`
	Errors    int64         `json:"errors"`
	FirstErr  string        `json:"first_error,omitempty"`
	Elapsed   time.Duration `json:"elapsed_ns"`
	IOPS      float64       `json:"iops"`
	MBps      float64       `json:"mb_per_s"`
	P50       time.Duration `json:"p50_ns"`
	P99       time.Duration `json:"p99_ns"`
	P999      time.Duration `json:"p999_ns"`
	Max       time.Duration `json:"max_ns"`
	CPUPerOp  time.Duration `json:"cpu_per_op_ns"` // user and system time of this process
	MaxRSS    int64         `json:"max_rss_bytes"`
	HugePages string        `json:"huge_pages"`
}

// Run measures s on dev until its runtime is over or ctx is done. It keeps
// Depth requests in flight; the next one is submitted by the goroutine that
// completes the last, so that no wake-up is measured that the device did not
// cause. The requests' buffers come from mem.
func Run(ctx context.Context, dev blockdev.Device, mem *arena.Arena, s Spec) (Result, error) {
	g := dev.Geometry()
	if err := s.validate(g.BlockSize, g.SizeBytes); err != nil {
		return Result{}, err
	}
	r := &runner{spec: s, dev: dev, hist: hdrhistogram.New(100, int64(time.Minute), 3), idle: make(chan struct{})}
	r.rnd = rand.NewPCG(s.Seed, s.Seed^0x9e3779b97f4a7c15)
	r.blocks = uint64(s.rangeBytes(g.SizeBytes) / int64(s.BlockBytes))
	slots := make([]slot, s.Depth)
	for i := range slots {
		sl := &slots[i]
		if !mem.GetSG(s.BlockBytes, &sl.sg) {
			return Result{}, fmt.Errorf("no buffers for %d requests of %d bytes: lower the depth or the request size", s.Depth, s.BlockBytes)
		}
		defer sl.sg.Release()
		fill(sl.sg.Segs, r.rnd)
		sl.req.Data, sl.req.Tag, sl.req.Done = sl.sg.Segs, sl, r.done
		r.ready = append(r.ready, sl)
	}

	stop := context.AfterFunc(ctx, r.stop)
	defer stop()
	timer := time.AfterFunc(s.Runtime, r.stop)
	defer timer.Stop()
	cpu := cpuTime()
	start := time.Now()
	r.mu.Lock()
	r.pumpLocked()
	<-r.idle

	res := r.result(time.Since(start))
	res.HugePages = mem.Stats().HugePages
	if res.Ops > 0 {
		res.CPUPerOp = (cpuTime() - cpu) / time.Duration(res.Ops)
	}
	res.MaxRSS = maxRSS()
	return res, nil
}

// slot is one of the requests in flight.
type slot struct {
	req   blockdev.Request
	sg    arena.SG
	start time.Time
}

type runner struct {
	spec   Spec
	dev    blockdev.Device
	blocks uint64

	mu       sync.Mutex
	rnd      *rand.PCG
	cursor   uint64
	ready    []*slot
	batch    []*blockdev.Request
	inFlight int
	pumping  bool // a goroutine submits; others leave their slots to it
	stopped  bool
	hist     *hdrhistogram.Histogram
	ops      int64
	errors   int64
	firstErr error

	idle chan struct{} // closed when stopped and nothing is in flight
}

func (r *runner) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

func (r *runner) done(req *blockdev.Request) {
	sl := req.Tag.(*slot)
	took := time.Since(sl.start)
	r.mu.Lock()
	r.inFlight--
	r.ops++
	if req.Err != nil {
		r.errors++
		if r.firstErr == nil {
			r.firstErr = req.Err
		}
		r.stopped = true
	} else {
		_ = r.hist.RecordValue(min(int64(took), int64(time.Minute)))
	}
	r.ready = append(r.ready, sl)
	r.pumpLocked()
}

// pumpLocked submits every ready slot, unless another goroutine does already.
// It is entered with mu held and leaves it released.
func (r *runner) pumpLocked() {
	if r.pumping {
		r.mu.Unlock()
		return
	}
	r.pumping = true
	for len(r.ready) > 0 && !r.stopped {
		now := time.Now()
		batch := r.batch[:0]
		for _, sl := range r.ready {
			r.aim(&sl.req)
			sl.start = now
			batch = append(batch, &sl.req)
		}
		r.ready = r.ready[:0]
		r.inFlight += len(batch)
		r.batch = batch
		r.mu.Unlock()
		r.dev.Submit(batch)
		r.mu.Lock()
	}
	r.pumping = false
	over := r.stopped && r.inFlight == 0
	r.mu.Unlock()
	if over {
		close(r.idle)
	}
}

// aim points req at the next place of the spec's pattern.
func (r *runner) aim(req *blockdev.Request) {
	n := r.rnd.Uint64()
	block := r.cursor % r.blocks
	if r.spec.Sequential {
		r.cursor++
	} else {
		block = (n >> 8) % r.blocks
	}
	req.Op = blockdev.OpWrite
	if int(n&0xff)*100 < r.spec.ReadPercent*256 {
		req.Op = blockdev.OpRead
	}
	req.FUA = r.spec.FUA && req.Op == blockdev.OpWrite
	req.Offset = int64(block) * int64(r.spec.BlockBytes)
	req.Length = int64(r.spec.BlockBytes)
}

func (r *runner) result(elapsed time.Duration) Result {
	ok := r.ops - r.errors
	res := Result{
		Name:    r.spec.Name(),
		Ops:     r.ops,
		Bytes:   ok * int64(r.spec.BlockBytes),
		Errors:  r.errors,
		Elapsed: elapsed,
		IOPS:    float64(ok) / elapsed.Seconds(),
		P50:     time.Duration(r.hist.ValueAtQuantile(50)),
		P99:     time.Duration(r.hist.ValueAtQuantile(99)),
		P999:    time.Duration(r.hist.ValueAtQuantile(99.9)),
		Max:     time.Duration(r.hist.Max()),
	}
	res.MBps = float64(res.Bytes) / 1e6 / elapsed.Seconds()
	if r.firstErr != nil {
		res.FirstErr = r.firstErr.Error()
	}
	return res
}

// fill makes data that neither compresses nor repeats.
func fill(segs [][]byte, rnd *rand.PCG) {
	for _, s := range segs {
		for i := 0; i+8 <= len(s); i += 8 {
			v := rnd.Uint64()
			for k := range 8 {
				s[i+k] = byte(v >> (8 * k))
			}
		}
	}
}
