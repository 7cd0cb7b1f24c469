package disk

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/uring"
)

// ring is what the driver needs of an io_uring; tests put a mock here.
type ring interface {
	Next() *uring.SQE
	Publish()
	Unconsumed() uint32
	Enter(submit, wait uint32) (int, syscall.Errno)
	Ready() bool
	Reap(dst []uring.CQE) int
	Close() error
}

var _ ring = (*uring.Ring)(nil)

// uringDisk drives a disk by io_uring.
//
// Who does what:
//
//   - Submit, on any goroutine, fills SQEs under mu and enters the kernel once
//     for the batch. When another goroutine is entering already, or the reaper is
//     about to, it leaves that to them: their next Enter takes all that is
//     there.
//   - The reaper, one goroutine, takes completions, continues short transfers,
//     calls Done for many per wake-up and submits what Done and the queue
//     brought with the same Enter that waits for more.
//   - While nothing is in flight the reaper is parked by the scheduler and costs
//     nothing. A Submit readies it; since the submitter usually parks next,
//     the reaper then runs on the submitter's thread, which is the one that
//     the kernel interrupts for the completion: one wake-up, not two.
//   - While something is in flight the reaper first looks at the ring for a
//     learned time (see spinner), yielding between looks, then blocks in Enter.
//
// The life of an IO: queued (no slot free) -> in a slot with an SQE -> in the
// kernel -> reaped -> [short or interrupted: SQE again] -> slot freed -> Done.
type uringDisk struct {
	*file
	ring  ring
	wake  chan struct{} // to the parked reaper; holds one
	ended chan struct{} // closed when the reaper returned

	discards discarder

	mu       sync.Mutex
	slots    []slot
	free     []uint32 // indexes of slots
	waiting  ioQueue  // for a slot
	filled   uint32   // SQEs published and not passed to Enter
	entering bool     // someone will Enter again for all that is filled
	parked   bool     // the reaper waits on wake
	closing  bool

	// Only the reaper uses these.
	spin     spinner
	cqes     []uring.CQE
	finished []finished
	again    []uint32 // slots whose transfer goes on
}

// slot is an I/O in the kernel. Its index is the SQE's UserData.
type slot struct {
	io *IO
	t  transfer
}

type finished struct {
	io  *IO
	err error
}

func newURing(f *file, o Options) (Disk, error) {
	depth := o.QueueDepth
	if depth == 0 {
		depth = 256
	}
	r, err := uring.New(uint32(depth))
	if err != nil {
		return nil, err
	}
	if !r.Supports(uring.OpRead, uring.OpWrite, uring.OpReadv, uring.OpWritev, uring.OpFsync, uring.OpFallocate) {
		r.Close()
		return nil, fmt.Errorf("%w: the kernel is older than Linux 5.6", uring.ErrUnsupported)
	}
	if err := r.RegisterFiles([]int32{int32(f.fd)}); err != nil {
		r.Close()
		return nil, err
	}
	return startURing(f, r, depth), nil
}

// startURing drives f, registered as file 0 of r, with up to depth I/Os in the
// kernel. r has room for as many.
func startURing(f *file, r ring, depth int) *uringDisk {
	f.info.Driver = DriverURing
	d := &uringDisk{
		file:     f,
		ring:     r,
		wake:     make(chan struct{}, 1),
		ended:    make(chan struct{}),
		slots:    make([]slot, depth),
		free:     make([]uint32, depth),
		parked:   true,
		cqes:     make([]uring.CQE, min(depth, 128)),
		finished: make([]finished, 0, min(depth, 128)),
		again:    make([]uint32, 0, min(depth, 128)),
		spin:     newSpinner(),
	}
	for i := range d.free {
		d.free[i] = uint32(depth - 1 - i)
	}
	go d.reap()
	return d
}

// SizeBytes implements Disk.
func (d *uringDisk) SizeBytes() int64 { return d.sizeBytes }

// Info implements Disk.
func (d *uringDisk) Info() Info { return d.info }

// Submit implements Disk.
func (d *uringDisk) Submit(batch []*IO) {
	d.mu.Lock()
	for _, io := range batch {
		err := d.health.admit(d.sizeBytes, io)
		if err == nil && io.Op == Discard && d.info.IsBlock {
			d.discards.add(d.file, io)
			continue
		}
		if err != nil {
			d.mu.Unlock()
			d.end(io, err)
			d.mu.Lock()
			continue
		}
		if len(d.free) == 0 || d.waiting.len() > 0 {
			d.waiting.push(io)
			continue
		}
		d.startLocked(io)
	}
	if d.filled > 0 && !d.entering {
		d.entering = true
		d.enterLocked()
		d.entering = false
	}
	if d.parked && len(d.free) < len(d.slots) {
		d.parked = false
		d.wake <- struct{}{}
	}
	d.mu.Unlock()
}

// startLocked gives io a slot, of which there is one, and an SQE.
func (d *uringDisk) startLocked(io *IO) {
	last := len(d.free) - 1
	i := d.free[last]
	d.free = d.free[:last]
	s := &d.slots[i]
	s.io = io
	if io.Op == Read || io.Op == Write {
		s.t.begin(io)
	}
	d.fillLocked(i)
}

// fillLocked makes and publishes the SQE for the next call of slot i. There is
// room: the ring has an entry per slot.
func (d *uringDisk) fillLocked(i uint32) {
	s, e := &d.slots[i], d.ring.Next()
	e.Flags = uring.FlagFixedFile
	e.Fd = 0
	e.UserData = uint64(i)
	switch s.io.Op {
	case Read, Write:
		e.Opcode = opcodes[s.io.Op][min(len(s.t.iovs), 2)-1]
		e.Off = uint64(s.t.off)
		if len(s.t.iovs) == 1 {
			e.Addr, e.Len = addrOfIovec(s.t.iovs[0]), uint32(s.t.iovs[0].Len)
		} else {
			e.Addr, e.Len = uring.AddrOfIovecs(s.t.iovs), uint32(len(s.t.iovs))
		}
		if s.io.Dsync && s.io.Op == Write {
			e.OpFlags = unix.RWF_DSYNC
		}
	case Sync:
		e.Opcode = uring.OpFsync
		e.OpFlags = uring.FsyncDatasync
	case Discard:
		e.Opcode = uring.OpFallocate
		e.Off, e.Addr = uint64(s.io.Off), uint64(s.io.Len)
		e.Len = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	d.ring.Publish()
	d.filled++
}

// opcodes by operation, for one segment and for several.
var opcodes = [...][2]uint8{
	Read:  {uring.OpRead, uring.OpReadv},
	Write: {uring.OpWrite, uring.OpWritev},
}

// enterLocked passes what is filled to the kernel, with mu released during
// the calls. It returns with the rest still filled when the kernel wants
// completions to be reaped first, which the reaper then does.
func (d *uringDisk) enterLocked() {
	for d.filled > 0 {
		n := d.filled
		d.mu.Unlock()
		took, errno := d.ring.Enter(n, 0)
		d.mu.Lock()
		d.filled -= uint32(took)
		switch {
		case errno == 0 && took > 0, errno == syscall.EINTR:
		case errno == 0, retriable(errno), errno == syscall.EBUSY:
			return
		default:
			d.brokenLocked(errno)
			return
		}
	}
}

// brokenLocked gives up: the kernel refuses the ring itself.
func (d *uringDisk) brokenLocked(errno syscall.Errno) {
	err := error(fmt.Errorf("%w: io_uring_enter: %w", ErrGone, errno))
	d.health.gone.CompareAndSwap(nil, &err)
}

// reap is the reaper goroutine.
func (d *uringDisk) reap() {
	defer close(d.ended)
	for {
		if n := d.ring.Reap(d.cqes); n > 0 {
			d.handle(d.cqes[:n])
			continue
		}
		if !d.await() {
			return
		}
	}
}

// await returns true when it is worth looking at the ring again, false when
// the disk is closed and idle.
func (d *uringDisk) await() bool {
	d.mu.Lock()
	if len(d.free) == len(d.slots) {
		if d.closing {
			d.mu.Unlock()
			return false
		}
		d.parked = true
		d.mu.Unlock()
		<-d.wake
		return true
	}
	if d.filled > 0 && !d.entering {
		d.entering = true
		d.enterLocked()
		d.entering = false
	}
	stuck := d.filled > 0
	d.mu.Unlock()
	if d.spin.until(d.ring.Ready) {
		return true
	}
	if stuck {
		runtime.Gosched()
		return true
	}
	d.ring.Enter(0, 1)
	return true
}

// handle ends or continues the I/Os of these completions.
func (d *uringDisk) handle(cqes []uring.CQE) {
	d.finished, d.again = d.finished[:0], d.again[:0]
	for _, c := range cqes {
		i := uint32(c.UserData)
		s := &d.slots[i]
		switch errno, done := d.outcome(s, c.Res); {
		case !done:
			d.again = append(d.again, i)
		case errno != 0:
			d.finished = append(d.finished, finished{s.io, d.health.failed(s.io, errno)})
		default:
			d.finished = append(d.finished, finished{s.io, nil})
		}
	}
	d.mu.Lock()
	for _, c := range cqes {
		i := uint32(c.UserData)
		if !contains(d.again, i) {
			d.slots[i].io = nil
			d.slots[i].t.release()
			d.free = append(d.free, i)
		}
	}
	for _, i := range d.again {
		d.fillLocked(i)
	}
	for d.waiting.len() > 0 && len(d.free) > 0 {
		d.startLocked(d.waiting.pop())
	}
	// What Done submits is entered below, together.
	mine := !d.entering
	d.entering = true
	d.mu.Unlock()
	for i := range d.finished {
		f := &d.finished[i]
		d.end(f.io, f.err)
		*f = finished{}
	}
	d.mu.Lock()
	if mine {
		d.enterLocked()
		d.entering = false
	}
	d.mu.Unlock()
	runtime.Gosched()
}

// outcome says what res means for the I/O in s: not done, done, or failed.
func (d *uringDisk) outcome(s *slot, res int32) (errno syscall.Errno, done bool) {
	if res < 0 {
		errno = syscall.Errno(-res)
		switch {
		// The kernel cancels what a thread submitted when that thread exits.
		case retriable(errno), errno == syscall.ECANCELED:
			return 0, false
		case s.io.Op == Discard && discardUnsupported(errno):
			return 0, true
		}
		return errno, true
	}
	if s.io.Op != Read && s.io.Op != Write {
		return 0, true
	}
	if res == 0 { // the end of a file that became shorter
		return syscall.EIO, true
	}
	return 0, s.t.advance(int(res))
}

func contains(list []uint32, x uint32) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

// Close implements Disk. It must not be called by a Done.
func (d *uringDisk) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return fmt.Errorf("close %s: %w", d.info.Path, ErrClosed)
	}
	d.closing = true
	d.health.closed.Store(true)
	if d.parked {
		d.parked = false
		d.wake <- struct{}{}
	}
	d.mu.Unlock()
	<-d.ended
	d.discards.wait()
	err := d.ring.Close()
	if cerr := unix.Close(d.fd); err == nil {
		err = cerr
	}
	return err
}

// discarder runs the discards of a block device, for which io_uring has no
// operation on most kernels, on one goroutine that lives while there are any.
type discarder struct {
	mu      sync.Mutex
	queue   ioQueue
	running bool
	done    sync.WaitGroup
}

func (q *discarder) add(f *file, io *IO) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue.push(io)
	if !q.running {
		q.running = true
		q.done.Add(1)
		go q.run(f)
	}
}

func (q *discarder) run(f *file) {
	defer q.done.Done()
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.queue.len() > 0 {
		io := q.queue.pop()
		q.mu.Unlock()
		var err error
		if errno := f.discard(io); errno != 0 {
			err = f.health.failed(io, errno)
		}
		f.end(io, err)
		q.mu.Lock()
	}
	q.running = false
}

func (q *discarder) wait() { q.done.Wait() }

// spinner decides how long to look at the ring before blocking.
type spinner struct {
	budget  time.Duration // the most to spend on one wait
	average time.Duration // of waits, as far as spinning saw their end
	waits   uint32
}

// spinMax is set by tests and benchmarks only.
var spinMax atomic.Int64

func newSpinner() spinner {
	s := spinner{budget: time.Duration(spinMax.Load())}
	if runtime.GOMAXPROCS(0) == 1 {
		s.budget = 0
	}
	return s
}

// until calls ready until it is true or the time is up.
func (s *spinner) until(ready func() bool) bool {
	if s.budget == 0 {
		return ready()
	}
	s.waits++
	if s.average > s.budget && s.waits%64 != 0 {
		return ready()
	}
	begin := time.Now()
	for i := 0; ; i++ {
		if ready() {
			s.average += (time.Since(begin) - s.average) / 8
			return true
		}
		if i%16 == 15 {
			if time.Since(begin) > s.budget {
				s.average += (2*s.budget - s.average) / 8
				return false
			}
			runtime.Gosched()
		}
	}
}
