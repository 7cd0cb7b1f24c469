package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// Run measures s on dev; see RunAll.
func Run(ctx context.Context, dev blockdev.Device, mem *arena.Arena, s Spec) (Result, error) {
	return RunAll(ctx, []blockdev.Device{dev}, mem, s)
}

// RunAll measures s on all devices at once, several paths to one volume or
// several volumes of one size, until the runtime is over, ctx is done or a
// request fails. On each device it keeps Depth requests in flight; the next
// one is submitted by the goroutine that completes the last, so that no
// wake-up is measured that the device did not cause. The requests' buffers
// come from mem.
func RunAll(ctx context.Context, devs []blockdev.Device, mem *arena.Arena, s Spec) (Result, error) {
	if len(devs) == 0 {
		return Result{}, errors.New("no device to load")
	}
	runners := make([]*runner, len(devs))
	for i, dev := range devs {
		g := dev.Geometry()
		if err := s.validate(g.BlockSize, g.SizeBytes); err != nil {
			return Result{}, err
		}
		r := newRunner(dev, s, i, len(devs))
		if err := r.prepare(mem); err != nil {
			r.release()
			return Result{}, err
		}
		defer r.release()
		runners[i] = r
	}
	stopAll := func() {
		for _, r := range runners {
			r.stop()
		}
	}
	defer context.AfterFunc(ctx, stopAll)()
	for _, r := range runners {
		r.failed = stopAll
		r.begin(s.Warmup == 0)
	}
	start, cpu := time.Now(), cpuTime()
	if s.Warmup > 0 {
		wait(ctx, s.Warmup, runners)
		start, cpu = time.Now(), cpuTime()
		for _, r := range runners {
			r.count()
		}
	}
	watch(ctx, s, runners, start)
	stopAll()
	for _, r := range runners {
		<-r.idle
	}
	elapsed := time.Since(start)
	res := sum(runners).result(s, len(devs), elapsed)
	res.HugePages = mem.Stats().HugePages
	if res.Ops > 0 {
		res.CPUPerOp = (cpuTime() - cpu) / time.Duration(res.Ops)
	}
	res.MaxRSS = maxRSS()
	return res, nil
}

// wait blocks for d, or until the load ends by itself.
func wait(ctx context.Context, d time.Duration, runners []*runner) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-runners[0].idle: // all end together
	}
}

// watch blocks until the measurement is over and reports its progress.
func watch(ctx context.Context, s Spec, runners []*runner, start time.Time) {
	if s.Progress == nil {
		wait(ctx, s.Runtime, runners)
		return
	}
	for {
		left := s.Runtime - time.Since(start)
		if left <= 0 || ctx.Err() != nil {
			return
		}
		wait(ctx, min(left, time.Second), runners)
		s.Progress(sum(runners).result(s, len(runners), time.Since(start)))
		select {
		case <-runners[0].idle:
			return
		default:
		}
	}
}

func sum(runners []*runner) *tally {
	var t tally
	for _, r := range runners {
		r.mu.Lock()
		t.add(&r.tally)
		r.mu.Unlock()
	}
	return &t
}

// slot is one of the requests in flight.
type slot struct {
	req   blockdev.Request
	sg    arena.SG
	segs  [][]byte // the part of sg that the request uses
	start time.Time
}

// runner loads one device.
type runner struct {
	spec   Spec
	dev    blockdev.Device
	mix    Mix
	sizes  Sizes
	bytes  int64         // of the range
	every  time.Duration // between requests, 0 without a rate
	slots  []slot
	failed func() // called when a request has failed

	mu       sync.Mutex
	rnd      *rand.PCG
	cursor   int64 // of a sequential load, within the range
	ready    []*slot
	batch    []*blockdev.Request
	inFlight int
	due      time.Time // of the next request
	timer    *time.Timer
	pumping  bool // a goroutine submits; others leave their slots to it
	stopped  bool
	over     bool
	counting bool
	tally    tally

	idle chan struct{} // closed when stopped and nothing is in flight
}

func newRunner(dev blockdev.Device, s Spec, index, devices int) *runner {
	seed := s.Seed + uint64(index)*0x9e3779b97f4a7c15
	r := &runner{spec: s, dev: dev, mix: s.mix(), sizes: s.sizes(), idle: make(chan struct{}), slots: make([]slot, s.Depth)}
	r.rnd = rand.NewPCG(seed, seed^0x9e3779b97f4a7c15)
	r.bytes = s.rangeBytes(dev.Geometry().SizeBytes)
	// Sequential loads of several devices begin apart from each other.
	r.cursor = r.bytes / int64(devices) * int64(index)
	if s.Rate > 0 {
		r.every = time.Duration(float64(time.Second) / s.Rate * float64(devices))
	}
	return r
}

// prepare gets the buffers.
func (r *runner) prepare(mem *arena.Arena) error {
	for i := range r.slots {
		sl := &r.slots[i]
		if !mem.GetSG(r.spec.bufferBytes(), &sl.sg) {
			return fmt.Errorf("no buffers for %d requests of %d bytes: lower the depth or the request size", r.spec.Depth, r.spec.maxBytes())
		}
		fill(sl.sg.Segs, r.rnd)
		sl.req.Tag, sl.req.Done = sl, r.done
		r.ready = append(r.ready, sl)
	}
	return nil
}

func (r *runner) release() {
	for i := range r.slots {
		r.slots[i].sg.Release()
	}
}

func (r *runner) begin(counting bool) {
	r.mu.Lock()
	r.counting = counting
	r.due = time.Now()
	r.pumpLocked()
}

// count ends the warm-up.
func (r *runner) count() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counting = true
}

func (r *runner) stop() {
	r.mu.Lock()
	r.stopped = true
	r.pumpLocked()
}

// wake is called when the next request is due.
func (r *runner) wake() {
	r.mu.Lock()
	r.pumpLocked()
}

func (r *runner) done(req *blockdev.Request) {
	sl := req.Tag.(*slot)
	took := time.Since(sl.start)
	var failed func()
	r.mu.Lock()
	r.inFlight--
	switch {
	case req.Err != nil:
		r.tally.ops++
		r.tally.errors++
		if r.tally.firstErr == nil {
			r.tally.firstErr = req.Err
			failed = r.failed
		}
		r.stopped = true
	case r.counting:
		r.tally.ops++
		r.tally.bytes += req.Length
		if r.tally.hist[req.Op] == nil {
			r.tally.hist[req.Op] = newHistogram()
		}
		record(r.tally.hist[req.Op], took)
	}
	r.ready = append(r.ready, sl)
	r.pumpLocked()
	if failed != nil {
		failed()
	}
}

// pumpLocked submits what is due of the ready slots, unless another goroutine
// does already. It is entered with mu held and leaves it released.
func (r *runner) pumpLocked() {
	if r.pumping {
		r.mu.Unlock()
		return
	}
	r.pumping = true
	for len(r.ready) > 0 && !r.stopped {
		now := time.Now()
		batch := r.batch[:0]
		for len(r.ready) > 0 {
			if r.every > 0 && r.due.After(now) {
				break
			}
			sl := r.ready[len(r.ready)-1]
			r.ready = r.ready[:len(r.ready)-1]
			r.aim(sl)
			sl.start = now
			if r.every > 0 {
				sl.start = r.due
				r.due = r.due.Add(r.every)
			}
			batch = append(batch, &sl.req)
		}
		if len(batch) == 0 {
			r.sleepLocked(r.due.Sub(now))
			break
		}
		r.inFlight += len(batch)
		r.batch = batch
		r.mu.Unlock()
		r.dev.Submit(batch)
		r.mu.Lock()
	}
	r.pumping = false
	ends := r.stopped && r.inFlight == 0 && !r.over
	if ends {
		r.over = true
		if r.timer != nil {
			r.timer.Stop()
		}
	}
	r.mu.Unlock()
	if ends {
		close(r.idle)
	}
}

func (r *runner) sleepLocked(d time.Duration) {
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.wake)
		return
	}
	r.timer.Reset(d)
}

// aim points a slot's request at the next place of the spec's pattern.
func (r *runner) aim(sl *slot) {
	n := r.rnd.Uint64()
	req := &sl.req
	req.Op = r.mix[0].What
	if len(r.mix) > 1 {
		req.Op = pick(r.mix, n&0xffffff)
	}
	if req.Op == blockdev.OpFlush {
		req.Offset, req.Length, req.Data, req.FUA = 0, 0, nil, false
		return
	}
	bytes := int64(r.sizes[0].What)
	switch {
	case len(r.sizes) == 1:
	case req.Op == blockdev.OpCompareAndWrite:
		for _, z := range r.sizes {
			bytes = min(bytes, int64(z.What))
		}
	default:
		bytes = int64(pick(r.sizes, n>>24&0xffffff))
	}
	// Requests are aligned to their own size.
	places := r.bytes / bytes
	at := int64(r.rnd.Uint64()>>1) % places
	if r.spec.Sequential {
		at = (r.cursor + bytes - 1) / bytes % places
		r.cursor = (at + 1) * bytes
	}
	req.Offset, req.Length = r.spec.OffsetBytes+at*bytes, bytes
	req.FUA = r.spec.FUA && req.Op != blockdev.OpRead
	switch req.Op {
	case blockdev.OpRead, blockdev.OpWrite:
		sl.segs = cut(sl.segs[:0], sl.sg.Segs, int(bytes))
		req.Data = sl.segs
	case blockdev.OpCompareAndWrite:
		sl.segs = cut(sl.segs[:0], sl.sg.Segs, int(2*bytes))
		req.Data = sl.segs
	case blockdev.OpUnmap, blockdev.OpWriteZeroes:
		req.Data = nil
	}
}

// cut appends the first n bytes of segs to dst.
func cut(dst, segs [][]byte, n int) [][]byte {
	for _, s := range segs {
		if n <= 0 {
			break
		}
		dst = append(dst, s[:min(n, len(s))])
		n -= len(s)
	}
	return dst
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
